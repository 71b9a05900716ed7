//! What is accepted and what is refused, before any request to a service.

use super::*;

const ROUTES: &[Kind] = &[Kind::Document(DocumentKind::Route)];

/// The route's id.
fn id(route: &FileDocument) -> String {
    let of = |field: &str| route.document["metadata"][field].as_str();
    author::route_id(of("namespace"), of("name").unwrap_or_default())
}

fn route(name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec: {{}}\n"
    )
}

fn names(text: &str) -> Vec<String> {
    let mut reader = DocumentReader::of(ROUTES);
    reader.file("routes", text.as_bytes().to_vec());
    let wanted = reader.finish().unwrap_or_else(|error| panic!("{error:#}\n{text}"));
    assert_eq!(wanted.wrong, []);
    wanted.documents.iter().map(id).collect()
}

/// All errors of `text`, without the first line.
fn wrong(text: &str) -> Vec<String> {
    let mut reader = DocumentReader::of(ROUTES);
    reader.file("routes", text.as_bytes().to_vec());
    reader.finish().expect(text).wrong.into_iter().map(|error| error.text).collect()
}

#[test]
fn documents_are_taken_in_every_form_in_which_kubectl_takes_them() {
    let (a, b) = (route("a"), route("b"));
    assert_eq!(names(&format!("{a}---\n{b}")), ["a", "b"]);
    assert_eq!(names(&format!("# routes\n---\n{a}---\n# nothing\n---\n{b}---\n")), ["a", "b"]);
    let json =
        |name: &str| format!(r#"{{"kind": "HTTPRoute", "metadata": {{"name": "{name}"}}, "spec": {{}}}}"#);
    assert_eq!(names(&format!("{}\n{}", json("a"), json("b"))), ["a", "b"]);
    assert_eq!(names(&format!("{}\n---\n{b}", json("a"))), ["a", "b"]);
    assert_eq!(names("{kind: HTTPRoute, metadata: {name: a}, spec: {}}"), ["a"]);
    let list = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{}, {}]}}"#, json("a"), json("b"));
    assert_eq!(names(&list), ["a", "b"]);
    let bare =
        "kind: HTTPRouteList\nitems: [{metadata: {name: a}, spec: {}}, {metadata: {name: b}, spec: {}}]";
    assert_eq!(names(bare), ["a", "b"]);
}

#[test]
fn everything_wrong_is_named_with_its_document_and_place() {
    let text =
        format!("{}---\nkind: Service\nmetadata: {{name: web}}\n---\nspec: {{}}\n---\n[1]\n", route("a"));
    let found = wrong(&text);
    assert_eq!(
        found[0],
        "routes:6: document 2: is of kind Service (web): only HTTPRoutes are taken; \
         --other-kinds skip passes over others (not_supported)"
    );
    assert!(found[1].starts_with("routes:9: document 3: has no kind: "), "{found:?}");
    assert!(found[2].starts_with("routes:11: document 4: is no object: "), "{found:?}");
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn a_place_in_a_list_is_a_pointer_from_the_list_on() {
    let text = "kind: List\nitems:\n- {kind: Secret}\n- {metadata: {name: b}, spec: {}}\n- {kind: List, items: [{kind: Gateway}]}\n";
    let found = wrong(text);
    assert!(found[0].starts_with("routes:3: document 1: /items/0: is of kind Secret: "), "{found:?}");
    assert!(found[1].starts_with("routes:4: document 1: /items/1: has no kind (b): "), "{found:?}");
    assert!(
        found[2].starts_with("routes:5: document 1: /items/2/items/0: is of kind Gateway: "),
        "{found:?}"
    );
    assert_eq!(
        wrong("kind: List"),
        ["routes:1: document 1: /items: must be a list of HTTPRoutes (wrong_type)"]
    );
}

#[test]
fn of_two_documents_for_one_name_neither_is_taken() {
    let found = wrong(&format!("{}---\n{}", route("a"), route("a")));
    assert!(
        found[0].starts_with(
            "routes:8: document 2: /metadata/name: routes: document 1 is the HTTPRoute a as well"
        ),
        "{found:?}"
    );
    let of =
        |namespace: &str| route("a").replace("{name: a}", &format!("{{name: a, namespace: {namespace}}}"));
    let several = [route("a"), of("team-a"), of("team-b")].join("---\n");
    assert_eq!(names(&several), ["a", "team-a/a", "team-b/a"]);
    assert_eq!(wrong(&format!("{several}---\n{}---\n{}", of("team-a"), of("default"))).len(), 2);
    assert!(wrong("kind: HTTPRoute\nkind: HTTPRoute\n")[0].contains("`kind` stands twice"));
}

#[test]
fn a_text_that_cannot_be_read_says_where_it_breaks() {
    let found = wrong(&format!("{}---\nspec: [\n", route("a")));
    assert!(found[0].starts_with("routes:7: document 2: "), "{found:?}");
    let found = wrong(r#"{"kind": "HTTPRoute""#);
    assert!(found[0].starts_with("routes:1: document 1: ") && found[0].contains("column"), "{found:?}");
    for nothing in ["", "# nothing\n", "---\n---\n"] {
        let mut reader = DocumentReader::of(ROUTES);
        reader.file("routes", nothing.as_bytes().to_vec());
        assert!(reader.finish().unwrap_err().to_string().contains("there are no HTTPRoutes"), "{nothing:?}");
    }
}

#[test]
fn a_directory_is_read_in_the_order_of_names_and_deeper_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    };
    for path in ["c.yml", "a.yaml", "b.json", "notes.txt", "yaml", "deep/a.yaml", "x.yaml/a.yaml"] {
        put(path);
    }
    std::os::unix::fs::symlink(dir.path().join("deep"), dir.path().join("again")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("notes.txt"), dir.path().join("linked.yaml")).unwrap();
    let found = |recursive| -> Vec<String> {
        let files = files(dir.path(), recursive).unwrap();
        files.iter().map(|file| file.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
    };
    assert_eq!(found(false), ["a.yaml", "b.json", "c.yml", "linked.yaml"]);
    assert_eq!(found(true), ["a.yaml", "b.json", "c.yml", "deep/a.yaml", "linked.yaml", "x.yaml/a.yaml"]);
    // A file that is named as argument is read whatever its extension.
    assert_eq!(files(&dir.path().join("notes.txt"), false).unwrap().len(), 1);
    let empty = tempfile::tempdir().unwrap();
    assert!(files(empty.path(), true).unwrap_err().to_string().contains("there is no *.yaml"));
    assert!(files(&dir.path().join("gone"), true).is_err());
}

/// What is read of `sources`, and the line about what was passed over.
fn read_of(other_kinds: Option<OtherKinds>, filename: Vec<PathBuf>) -> (Vec<String>, Vec<String>) {
    let sources = FileSelection { filename, recursive: false, other_kinds };
    let reader = read_all(&sources, ROUTES);
    (
        reader.wanted.iter().map(id).chain(reader.passed_over()).collect(),
        reader.wrong.into_iter().map(|error| error.text).collect(),
    )
}

#[test]
fn what_is_beside_routes_in_a_directory_is_passed_over_unless_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    put("kustomization.yaml", "resources: [routes.yaml]\n");
    put("gateway.yaml", "kind: Gateway\n---\nkind: Secret\ndata: {1: x}\n---\nkind: Gateway\n");
    put("list.json", "[1, 2]");
    put("recyclarr.yml", "sonarr: {api_key: !env_var X}");
    put("chart.yaml", "{{- if .Values.on }}\nkind: Deployment\n{{- end }}\n");
    let item = "{kind: HTTPRoute, metadata: {name: b}, spec: {}}";
    put("routes.yaml", &format!("{}---\nkind: List\nitems: [{{kind: Secret}}, {item}]\n", route("a")));
    let all = || vec![dir.path().to_owned()];
    let told = "passed over, for they are no HTTPRoutes: Gateway 2, Secret 2, no kind 2";
    let named = || vec![dir.path().join("gateway.yaml"), dir.path().join("routes.yaml")];
    for (other_kinds, from) in [(None, all()), (Some(OtherKinds::Skip), all())] {
        assert_eq!(read_of(other_kinds, from), (vec!["a".into(), "b".into(), told.into()], Vec::new()));
    }
    for (other_kinds, from, wrong) in [(Some(OtherKinds::Error), all(), 8), (None, named(), 4)] {
        let (taken, found) = read_of(other_kinds, from);
        assert_eq!((taken, found.len()), (vec!["a".to_owned(), "b".to_owned()], wrong), "{found:?}");
    }
    let (_, found) = read_of(None, [named(), all()].concat());
    assert!(found.iter().any(|line| line.contains("gateway.yaml:1: document 1")), "each by how it was given");
    let sources = FileSelection { filename: all(), recursive: false, other_kinds: None };
    let unread = read_all(&sources, ROUTES).unread;
    let names = ["chart.yaml:1: document 1: ", "recyclarr.yml:1: document 1: "];
    assert!(unread.iter().zip(names).all(|(error, name)| error.text.contains(name)), "{unread:?}");
    assert_eq!(unread.len(), names.len());
    // What cannot be read and may be a route is not passed over.
    put("template.yaml", "{{- if .Values.on }}\nkind: HTTPRoute\n{{- end }}\n");
    assert_eq!(read_of(None, all()).1.len(), 1);
}

#[test]
fn a_broken_document_of_a_kind_that_is_taken_is_an_error() {
    const KINDS: &[Kind] =
        &[Kind::Document(DocumentKind::Route), Kind::Document(DocumentKind::GeoRule), Kind::Ban];
    let dir = tempfile::tempdir().unwrap();
    let sources =
        FileSelection { filename: vec![dir.path().to_owned()], recursive: false, other_kinds: None };
    for (text, wrong) in [
        (b"# f\xfcr uns\nkind: GeoRule\nmetadata: {name: eu}\n".as_slice(), 1),
        (b"kind: GeoRule\nmetadata: {name: eu", 1),
        (br#"{"kind": "BanList", "items": [}"#, 1),
        (b"apiVersion: tidegate.dev/v1\nmetadata: {name: eu\nkind: !x GeoRule\n", 1),
        (b"kind: Service\nmetadata: {name: GeoRule", 0),
        (b"{{- if .ban }}\nkind: Deployment\n", 0),
    ] {
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        let found = read_all(&sources, KINDS).wrong;
        assert_eq!(found.len(), wrong, "{}: {found:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn what_may_be_meant_for_this_service_is_an_error_in_a_directory() {
    const KINDS: &[Kind] = &[Kind::Document(DocumentKind::GeoRule)];
    let dir = tempfile::tempdir().unwrap();
    let rule = "apiVersion: tidegate.dev/v1\nkind: GeoRule\nmetadata: {name: eu}\n";
    let utf_16 = |of: fn(u16) -> [u8; 2]| rule.encode_utf16().flat_map(of).collect::<Vec<u8>>();
    for (bytes, why) in [
        ([vec![0xFF, 0xFE], utf_16(u16::to_le_bytes)].concat(), "a.yaml: this is UTF-16"),
        ([vec![0xFE, 0xFF], utf_16(u16::to_be_bytes)].concat(), "a.yaml: this is UTF-16"),
        (utf_16(u16::to_le_bytes), "a.yaml: this has bytes that are 0"),
        (
            rule.replace("GeoRule", "GeoRuel").into_bytes(),
            "a.yaml:1: document 1: is of kind GeoRuel (eu): write",
        ),
        (
            rule.replace("kind", "Kind").into_bytes(),
            "a.yaml:1: document 1: has no kind (eu): write `kind:` with",
        ),
        (rule.replace("GeoRule", "[GeoRule").into_bytes(), "a.yaml:"),
    ] {
        std::fs::write(dir.path().join("a.yaml"), bytes).unwrap();
        for other_kinds in [None, Some(OtherKinds::Skip)] {
            let sources =
                FileSelection { filename: vec![dir.path().to_owned()], recursive: false, other_kinds };
            let found = read_all(&sources, KINDS).wrong;
            assert!(matches!(&found[..], [only] if only.text.contains(why)), "{why}: {found:?}");
        }
    }
}

#[test]
fn merge_keys_are_carried_out() {
    let text = "kind: HTTPRoute\nmetadata: {name: a}\nspec:\n  rules:\n  - &first {backendRefs: [{name: b}]}\n\
                \x20 - <<: *first\n    matches: [{path: {value: /a}}]\n";
    let mut reader = DocumentReader::of(ROUTES);
    reader.file("routes", text.as_bytes().to_vec());
    let [route] = &reader.finish().unwrap().documents[..] else { panic!("one route") };
    assert_eq!(
        route.document["spec"]["rules"][1]["backendRefs"],
        route.document["spec"]["rules"][0]["backendRefs"]
    );
    assert!(wrong("kind: HTTPRoute\nmetadata: {<<: 5}\n")[0].contains("merge key"));
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let json = r#"{"kind": "HTTPRoute", "metadata": {"name": "a"}, "spec": {}}"#;
    for text in [route("a"), json.to_owned()] {
        assert_eq!(names(&format!("\u{feff}{text}")), ["a"], "{text}");
    }
}

#[test]
fn brackets_that_nest_too_deeply_are_refused_unread() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for text in [format!("kind: HTTPRoute\nspec: {deep}\n"), format!("{{kind: HTTPRoute, spec: {deep}}}")] {
        let found = wrong(&text);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("routes:") && found[0].contains(": document 1: "), "{found:?}");
    }
    assert_eq!(
        wrong(&format!("spec: {deep}")),
        ["routes:1: document 1: brackets are nested over 128 deep at line 1"]
    );
}
