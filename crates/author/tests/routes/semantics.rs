//! The specification's awkward cases, one by one.

use serde_json::{Value, json};
use tidegate_author::{self as author, Route};
use tidegate_policy::request::Facts;
use tidegate_policy::route::RouteTable;

use super::{compile, document, found, read, table_of, winner};

/// A request with what most cases need.
#[derive(Clone, Copy)]
struct Get<'r>(&'r str, &'r str, &'r [(&'r str, &'r str)]);

/// Route and rule that match a request, as `route/rule`.
fn taken_by(table: &RouteTable, method: &str, Get(host, path, headers): Get<'_>) -> Option<String> {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let facts = Facts {
        method: method.as_bytes(),
        host: host.as_bytes(),
        path: path.as_bytes(),
        headers: &headers,
        ..Facts::default()
    };
    found(table, &facts).map(|found| format!("{}/{}", found.route, found.rule))
}

/// One route `r` with these rules, each a list of one match.
fn rules(matches: &[Value]) -> RouteTable {
    let rules: Vec<_> = matches.iter().map(|one| json!({"matches": [one]})).collect();
    table_of(&[read(&document("r", &[], json!(rules)))])
}

fn rule_for(table: &RouteTable, path: &str) -> Option<String> {
    taken_by(table, "GET", Get("a.example", path, &[])).map(|found| found.replace("r/", ""))
}

fn check_paths(table: &RouteTable, expected: &[(&str, Option<&str>)]) {
    for (path, rule) in expected {
        assert_eq!(rule_for(table, path).as_deref(), *rule, "{path}");
    }
}

#[test]
fn exact_path_then_regex_then_longest_prefix() {
    let table = rules(&[
        json!({"path": {"value": "/a"}}),
        json!({"path": {"value": "/a/b"}}),
        json!({"path": {"type": "RegularExpression", "value": "/a/[a-z]"}}),
        json!({"path": {"type": "Exact", "value": "/a/b"}}),
        json!({"path": {"type": "Exact", "value": "/a"}}),
    ]);
    check_paths(
        &table,
        &[
            ("/a/b", Some("3")),
            ("/a/c", Some("2")),
            ("/a/b/c", Some("1")),
            ("/a", Some("4")),
            ("/a/", Some("0")),
            ("/b", None),
        ],
    );
}

#[test]
fn a_regex_is_not_hidden_by_a_longer_prefix_nor_beats_by_length() {
    let regex = |value: &str| json!({"path": {"type": "RegularExpression", "value": value}});
    let table = rules(&[
        json!({"path": {"value": "/a/b/c/d"}}),
        regex("/a/.*"),
        regex("/a/b/[a-z]+/[a-z]+"),
        regex(".*/d"),
    ]);
    check_paths(&table, &[("/a/b/c/d", Some("1")), ("/x/d", Some("3"))]);
}

fn template(value: &str) -> Value {
    json!({"path": {"type": "Template", "value": value}})
}

#[test]
fn a_template_comes_after_the_exact_path_and_before_regex_and_prefix() {
    let table = rules(&[
        json!({"path": {"value": "/a/b"}}),
        json!({"path": {"type": "RegularExpression", "value": "/a/.*"}}),
        template("/a/{x}"),
        json!({"path": {"type": "Exact", "value": "/a/b"}}),
        // All literal, and a template all the same.
        template("/a/b"),
    ]);
    check_paths(
        &table,
        &[("/a/b", Some("3")), ("/a/c", Some("2")), ("/a/b/", Some("1")), ("/a/c/d", Some("1"))],
    );
}

#[test]
fn an_open_element_takes_one_that_is_not_empty() {
    let table = rules(&[template("/a/{x}"), template("/{x}/{y}/"), template("/b/{x}/c")]);
    check_paths(
        &table,
        &[
            ("/a/b", Some("0")),
            ("/a/b?x=/", Some("0")),
            ("/a/%2F", Some("0")),
            ("/a/{x}", Some("0")),
            ("/a/", None),
            ("/a", None),
            ("/a/b/c", None),
            ("/a//b", None),
            ("/a/b/", Some("1")),
            ("/A/b", None),
            ("/b/x/c", Some("2")),
            ("/b//c", None),
            ("/b/x/y/c", None),
        ],
    );
    let find = |path| found(&table, &Facts { path, ..Facts::default() }).map(|found| found.rule);
    assert_eq!(find(b"/a/\xff\n\0"), Some(0), "any bytes");
}

#[test]
fn of_two_templates_the_more_literal_wins_then_the_one_literal_further_left() {
    let table = rules(&[
        template("/{a}/{b}/{c}"),
        template("/{a}/b/c"),
        template("/a/{b}/{c}"),
        template("/a/{b}/c"),
        template("/{a}/b/{c}"),
    ]);
    check_paths(
        &table,
        &[
            ("/a/b/c", Some("3")),
            ("/x/b/c", Some("1")),
            ("/a/b/x", Some("2")),
            ("/x/b/x", Some("4")),
            ("/x/x/c", Some("0")),
        ],
    );
}

#[test]
fn a_template_whose_match_asks_for_more_gives_way_to_the_next() {
    let with =
        |path: &str, method: &str| json!({"path": {"type": "Template", "value": path}, "method": method});
    let table = rules(&[
        with("/a/{x}", "POST"),
        with("/{x}/b", "PUT"),
        template("/{x}/{y}"),
        json!({"path": {"value": "/"}}),
        with("/a/{other}", "DELETE"),
    ]);
    let rule = |method, path| taken_by(&table, method, Get("h", path, &[])).unwrap().replace("r/", "");
    assert_eq!(rule("POST", "/a/b"), "0");
    assert_eq!(rule("DELETE", "/a/b"), "4", "names do not count");
    assert_eq!(rule("PUT", "/a/b"), "1");
    assert_eq!(rule("GET", "/a/b"), "2");
    assert_eq!(rule("GET", "/a"), "3");
}

#[test]
fn the_template_that_took_the_path_names_it() {
    let table = rules(&[template("/a/{x}"), json!({"path": {"value": "/"}})]);
    let label = |path| found(&table, &Facts { path, ..Facts::default() }).unwrap().template;
    assert_eq!(label(b"/a/1?x"), Some("/a/{x}"));
    assert_eq!(label(b"/a"), None);
}

#[test]
fn a_template_has_32_elements_and_a_longer_path_is_none_of_its() {
    let table = rules(&[template(&"/a".repeat(32)), json!({"path": {"value": "/"}})]);
    let of = |len| rule_for(&table, &"/a".repeat(len));
    assert_eq!([of(31), of(32), of(33), of(1_000)].map(Option::unwrap), ["1", "0", "1", "1"]);
}

#[test]
fn many_templates_that_take_one_path_are_ordered_right() {
    // Every choice of open elements, the slowest to search: each matches the path.
    const LEN: u32 = 6;
    let open = |choice: u32| {
        (0..LEN).map(|i| if choice >> i & 1 == 1 { format!("/{{e{i}}}") } else { "/a".to_owned() }).collect()
    };
    let matches = |choice: u32| {
        let path: String = open(choice);
        json!({"path": {"type": "Template", "value": path},
            "headers": [{"type": "RegularExpression", "name": "x", "value": format!(".*,{choice},.*")}]})
    };
    let routes: Vec<_> = (0..1 << LEN)
        .map(|choice| read(&document(&format!("r{choice}"), &[], json!([{"matches": [matches(choice)]}]))))
        .collect();
    let table = table_of(&routes);
    let path = "/a".repeat(LEN as usize);
    // Fewest open first; then the one whose first open element is further right.
    let mut order: Vec<u32> = (0..1 << LEN).collect();
    order.sort_by_key(|choice| (choice.count_ones(), choice.reverse_bits()));
    for (at, first) in order.iter().enumerate() {
        let allowed: String = order[at..].iter().map(|choice| format!(",{choice},")).collect();
        let found = taken_by(&table, "GET", Get("h", &path, &[("x", &allowed)]));
        assert_eq!(found, Some(format!("r{first}/0")));
    }
}

#[test]
fn a_method_beats_headers_and_headers_beat_query() {
    let header = |name: &str| json!({"name": name, "value": "1"});
    let table = rules(&[
        json!({"queryParams": [header("p"), header("q")]}),
        json!({"headers": [header("x")]}),
        json!({"headers": [header("x"), header("y")]}),
        json!({"method": "GET"}),
    ]);
    let both: &[_] = &[("x", "1"), ("y", "1")];
    let rule = |method, headers| taken_by(&table, method, Get("h", "/?p=1&q=1", headers));
    assert_eq!(rule("GET", both).as_deref(), Some("r/3"));
    assert_eq!(rule("PUT", both).as_deref(), Some("r/2"));
    assert_eq!(rule("PUT", &both[..1]).as_deref(), Some("r/1"));
    assert_eq!(rule("PUT", &[]).as_deref(), Some("r/0"));
}

#[test]
fn the_path_comes_before_the_method() {
    let table = rules(&[json!({"method": "GET"}), json!({"path": {"value": "/a"}})]);
    check_paths(&table, &[("/a", Some("1")), ("/b", Some("0"))]);
}

#[test]
fn precedence_is_per_match_over_all_rules() {
    let rules = json!([
        {"matches": [{"path": {"value": "/a"}}, {"path": {"type": "Exact", "value": "/x/y"}}]},
        {"matches": [{"path": {"value": "/a/b"}}, {"path": {"value": "/x/y"}}]},
    ]);
    let table = table_of(&[read(&document("r", &[], rules))]);
    check_paths(
        &table,
        &[("/a/b", Some("1")), ("/x/y", Some("0")), ("/x/y/z", Some("1")), ("/a/c", Some("0"))],
    );
}

fn route(name: &str, namespace: Option<&str>, created: Option<i64>) -> Route {
    let mut route = read(&document(name, &[], json!([{}, {}])));
    route.namespace = namespace.map(str::to_owned);
    route.created = created;
    route
}

#[test]
fn ties_go_to_the_older_route_then_to_the_name_then_to_the_earlier_rule() {
    let first = |routes: &[Route]| {
        let forward = taken_by(&table_of(routes), "GET", Get("h", "/", &[]));
        let backward: Vec<_> = routes.iter().rev().cloned().collect();
        assert_eq!(taken_by(&table_of(&backward), "GET", Get("h", "/", &[])), forward);
        forward.unwrap()
    };
    assert_eq!(first(&[route("b", None, Some(1)), route("a", None, Some(2))]), "b/0");
    assert_eq!(first(&[route("b", None, Some(1)), route("a", None, Some(1))]), "a/0");
    assert_eq!(first(&[route("b", None, Some(1)), route("a", None, None)]), "b/0");
    assert_eq!(first(&[route("b", None, None), route("a", None, None)]), "a/0");
    assert_eq!(first(&[route("a", Some("n2"), None), route("b", Some("n1"), None)]), "n1/b/0");
    // "n-1/b" sorts before "n/a", because - comes before /.
    assert_eq!(first(&[route("a", Some("n"), None), route("b", Some("n-1"), None)]), "n-1/b/0");
    assert_eq!(first(&[route("b", None, Some(-5)), route("a", None, Some(0))]), "b/0");
}

#[test]
fn one_name_twice_is_an_error() {
    let twice = [route("a", None, Some(1)), route("a", Some("default"), Some(2))];
    assert_eq!(compile(&twice), Err(author::CompileError::Duplicate("default/a".to_owned())));
    let apart = [route("a", None, None), route("a", Some("n"), None), route("a", Some("m"), Some(1))];
    let first = |routes: &[Route]| taken_by(&table_of(routes), "GET", Get("h", "/", &[])).unwrap();
    assert_eq!(
        (first(&apart), first(&apart[1..2]), first(&apart[..2])),
        ("m/a/0".into(), "n/a/0".into(), "a/0".into())
    );
}

#[test]
fn a_prefix_is_by_element_and_its_trailing_slash_is_ignored() {
    let table = rules(&[json!({"path": {"value": "/abc"}}), json!({"path": {"value": "/match/"}})]);
    check_paths(
        &table,
        &[
            ("/abc", Some("0")),
            ("/abc/", Some("0")),
            ("/abc/def", Some("0")),
            ("/abc?x=/", Some("0")),
            ("/abc#f", Some("0")),
            ("/abcd", None),
            ("/ABC", None),
            ("/ab", None),
            ("//abc", None),
            ("/abc//", Some("0")),
            ("/match", Some("1")),
            ("/match/", Some("1")),
            ("/match/x", Some("1")),
            ("/matches", None),
        ],
    );
}

#[test]
fn a_trailing_slash_does_not_make_a_prefix_longer() {
    check_paths(
        &rules(&[json!({"path": {"value": "/a"}}), json!({"path": {"value": "/a/"}})]),
        &[("/a", Some("0")), ("/a/b", Some("0"))],
    );
}

#[test]
fn an_exact_path_is_exact() {
    let exact = |value: &str| json!({"path": {"type": "Exact", "value": value}});
    check_paths(
        &rules(&[exact("/abc"), exact("/d/"), exact("/")]),
        &[
            ("/abc", Some("0")),
            ("/abc?q", Some("0")),
            ("/abc/", None),
            ("/Abc", None),
            ("/abc/d", None),
            ("/d", None),
            ("/d/", Some("1")),
            ("/d//", None),
            ("/", Some("2")),
            ("/?", Some("2")),
            ("//", None),
        ],
    );
}

#[test]
fn what_is_no_path_matches_nothing() {
    let table = rules(&[json!({}), json!({"path": {"type": "RegularExpression", "value": ".*"}})]);
    check_paths(&table, &[("", None), ("*", None), ("a.example:443", None), ("?", None), ("/", Some("1"))]);
}

#[test]
fn a_path_of_any_bytes_is_compared_as_bytes() {
    let table = rules(&[json!({"path": {"value": "/a"}})]);
    let find = |path| found(&table, &Facts { path, ..Facts::default() }).map(|found| found.rule);
    assert_eq!(find(b"/a/\xff\xfe\0"), Some(0));
    assert_eq!(find(b"/a\xff"), None);
    assert_eq!(find(b"/%61"), None, "nothing is decoded");
}

#[test]
fn header_names_have_no_case_and_values_have() {
    let table = rules(&[json!({"headers": [{"name": "Version", "value": "One"}]})]);
    let taken = |value| taken_by(&table, "GET", Get("h", "/", &[("version", value)])).is_some();
    assert!(taken("One"));
    assert!(!taken("one"));
    assert!(!taken("One "));
}

#[test]
fn of_equal_header_names_in_a_match_the_first_counts() {
    let table = rules(&[
        json!({"headers": [{"name": "version", "value": "1"}, {"name": "Version", "value": "2"}]}),
        json!({"headers": [{"name": "x", "value": "1"}, {"name": "version", "value": "1"}]}),
    ]);
    let taken = |headers| taken_by(&table, "GET", Get("h", "/", headers));
    assert_eq!(taken(&[("version", "1")]).as_deref(), Some("r/0"));
    assert_eq!(taken(&[("version", "2")]), None);
    // One condition, not two: the second rule has more.
    assert_eq!(taken(&[("version", "1"), ("x", "1")]).as_deref(), Some("r/1"));
}

#[test]
fn a_repeated_header_is_joined_by_commas() {
    let table = rules(&[json!({"headers": [{"name": "x", "value": "a,b"}]})]);
    let taken = |headers| taken_by(&table, "GET", Get("h", "/", headers)).is_some();
    assert!(taken(&[("x", "a"), ("y", "c"), ("x", "b")]));
    assert!(taken(&[("x", "a,b")]));
    assert!(!taken(&[("x", "a")]));
    assert!(!taken(&[("x", "b"), ("x", "a")]));
}

#[test]
fn a_condition_on_host_sees_the_host() {
    let table = rules(&[json!({"headers": [{"name": "Host", "value": "a.example:80"}]})]);
    assert!(taken_by(&table, "GET", Get("a.example:80", "/", &[])).is_some());
    assert!(taken_by(&table, "GET", Get("a.example", "/", &[])).is_none());
}

#[test]
fn query_parameters_have_case_and_the_first_counts() {
    let table = rules(&[json!({"queryParams": [{"name": "Animal", "value": "whale"}]})]);
    check_paths(
        &table,
        &[
            ("/?Animal=whale", Some("0")),
            ("/?x&Animal=whale&y=1", Some("0")),
            ("/?Animal=whale&Animal=dolphin", Some("0")),
            ("/?Animal=dolphin&Animal=whale", None),
            ("/?animal=whale", None),
            ("/?Animal=Whale", None),
            ("/?Animal", None),
            ("/?Animal=whale#x", Some("0")),
            ("/#?Animal=whale", None),
            ("/?Animal=whale=", None),
            ("/?Animal=wh%61le", Some("0")),
            ("/?Anima%6C=whale", Some("0")),
            ("/?Animal=wh%2561le", None),
            ("/?xAnimal=whale", None),
        ],
    );
    let table = rules(&[
        json!({"queryParams": [{"name": "q", "value": "a b"}]}),
        json!({"queryParams": [{"name": "a[]", "value": "1+1=2&\u{e9}"}]}),
        json!({"queryParams": [{"name": "r", "type": "RegularExpression", "value": "x [0-9]+"}]}),
    ]);
    check_paths(
        &table,
        &[
            ("/?q=a%20b", Some("0")),
            ("/?q=a+b", Some("0")),
            ("/?q=a%2Bb", None),
            ("/?a%5B%5d=1%2B1=2%26%C3%A9", Some("1")),
            ("/?a[]=1%2B1%3D2%26%c3%a9", Some("1")),
            ("/?r=x+12", Some("2")),
        ],
    );
}

#[test]
fn cookies_that_come_in_several_lines_are_one_value() {
    let table = rules(&[json!({"headers": [{"name": "Cookie", "value": "a=1; b=2"}]})]);
    assert!(taken_by(&table, "GET", Get("h", "/", &[("cookie", "a=1"), ("cookie", "b=2")])).is_some());
    assert!(taken_by(&table, "GET", Get("h", "/", &[("cookie", "a=1,b=2")])).is_none());
}

#[test]
fn of_equal_query_names_in_a_match_the_first_counts() {
    let table = rules(&[
        json!({"queryParams": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}),
        json!({"queryParams": [{"name": "A", "value": "2"}, {"name": "a", "value": "1"}]}),
    ]);
    check_paths(&table, &[("/?a=1", Some("0")), ("/?a=2", None), ("/?a=1&A=2", Some("1"))]);
}

#[test]
fn a_regex_on_a_query_parameter_takes_an_empty_value_but_not_an_absent_one() {
    let table =
        rules(&[json!({"queryParams": [{"type": "RegularExpression", "name": "a", "value": "[0-9]*"}]})]);
    check_paths(
        &table,
        &[("/?a", Some("0")), ("/?a=", Some("0")), ("/?a=12", Some("0")), ("/?a=x", None), ("/", None)],
    );
}

#[test]
fn get_does_not_take_head_and_methods_have_case() {
    let table = rules(&[json!({"method": "GET"})]);
    assert!(taken_by(&table, "GET", Get("h", "/", &[])).is_some());
    for method in ["HEAD", "get", "", "GETS", "PURGE"] {
        assert_eq!(taken_by(&table, method, Get("h", "/", &[])), None, "{method}");
    }
    let any = rules(&[json!({})]);
    assert!(taken_by(&any, "PURGE", Get("h", "/", &[])).is_some());
}

#[test]
fn the_host_is_compared_without_port_dot_and_case() {
    let table = table_of(&[read(&document("r", &["a.example"], json!([{}])))]);
    for host in ["a.example", "a.example:80", "A.EXAMPLE:8080", "a.example.", "a.example.:1"] {
        assert!(taken_by(&table, "GET", Get(host, "/", &[])).is_some(), "{host}");
    }
    for host in ["", "b.a.example", "example", "a.example:x", "a.example:80:80", "xa.example", "[a.example]"]
    {
        assert_eq!(taken_by(&table, "GET", Get(host, "/", &[])), None, "{host}");
    }
}

#[test]
fn a_wildcard_is_one_or_more_labels() {
    let table = table_of(&[read(&document("r", &["*.example"], json!([{}])))]);
    for host in ["a.example", "b.a.example:1", "x.y.z.example"] {
        assert!(taken_by(&table, "GET", Get(host, "/", &[])).is_some(), "{host}");
    }
    for host in ["example", ".example", "aexample", "a..example", "a.example.org", "*.examples"] {
        assert_eq!(taken_by(&table, "GET", Get(host, "/", &[])), None, "{host}");
    }
}

/// A rule for each hostname class, all on one path, plus paths of their own.
fn hosts() -> RouteTable {
    let rule = |path: &str| json!([{"matches": [{"path": {"value": path}}]}, {"matches": [{"path": {"value": "/all"}}]}]);
    table_of(&[
        read(&document("none", &[], rule("/n"))),
        read(&document("wide", &["*.example"], rule("/w"))),
        read(&document("long", &["*.a.example"], rule("/l"))),
        read(&document("exact", &["x.a.example"], rule("/e"))),
    ])
}

#[test]
fn exact_beats_wildcard_and_the_longer_wildcard_the_shorter() {
    let table = hosts();
    let taken = |host| taken_by(&table, "GET", Get(host, "/all", &[])).unwrap();
    assert_eq!(taken("x.a.example"), "exact/1");
    assert_eq!(taken("y.a.example"), "long/1");
    assert_eq!(taken("z.x.a.example"), "long/1");
    assert_eq!(taken("a.example"), "wide/1");
    assert_eq!(taken("example"), "none/1");
    assert_eq!(taken("[::1]:80"), "none/1");
    assert_eq!(taken("192.0.2.1"), "none/1");
    assert_eq!(taken(""), "none/1");
}

#[test]
fn a_host_without_a_rule_that_matches_falls_through() {
    let table = hosts();
    let taken = |path| taken_by(&table, "GET", Get("x.a.example", path, &[]));
    assert_eq!(taken("/e").as_deref(), Some("exact/0"));
    assert_eq!(taken("/l").as_deref(), Some("long/0"));
    assert_eq!(taken("/w").as_deref(), Some("wide/0"));
    assert_eq!(taken("/n").as_deref(), Some("none/0"));
    assert_eq!(taken("/x"), None);
}

#[test]
fn the_hostname_comes_before_the_path() {
    let exact = json!([{"matches": [{"path": {"type": "Exact", "value": "/a/b"}, "method": "GET"}]}]);
    let table = table_of(&[
        read(&document("wide", &["*.example"], exact)),
        read(&document("exact", &["a.example"], json!([{}]))),
    ]);
    assert_eq!(taken_by(&table, "GET", Get("a.example", "/a/b", &[])).as_deref(), Some("exact/0"));
    assert_eq!(taken_by(&table, "GET", Get("b.example", "/a/b", &[])).as_deref(), Some("wide/0"));
}

#[test]
fn no_rule_is_no_route() {
    assert!(found(&RouteTable::empty(), &Facts { path: b"/", ..Facts::default() }).is_none());
    let table = table_of(&[]);
    assert!(table.is_empty() && found(&table, &Facts { path: b"/", ..Facts::default() }).is_none());
}

fn backend_for(backends: Value, random_bits: u32) -> Option<String> {
    let table = table_of(&[
        read(&document("r", &[], json!([{"matches": [{"method": "GET"}], "backendRefs": backends}]))),
        read(&document("other", &[], json!([{"backendRefs": [{"name": "never"}]}]))),
    ]);
    let facts = Facts { path: b"/", method: b"GET", random_bits, ..Facts::default() };
    let (route, _, _, backend) = winner(&table, &facts).unwrap();
    assert_eq!(route, "r", "a rule that cannot answer still wins");
    backend
}

#[test]
fn a_rule_without_a_backend_still_wins() {
    assert_eq!(backend_for(json!(null), 7), None);
    assert_eq!(backend_for(json!([]), 7), None);
    assert_eq!(backend_for(json!([{"name": "a", "weight": 0}, {"name": "b", "weight": 0}]), 7), None);
}

#[test]
fn backends_are_chosen_by_weight() {
    let refs = json!([
        {"name": "zero", "weight": 0},
        {"name": "one"},
        {"name": "three", "weight": 3},
        {"name": "none", "weight": 0},
    ]);
    let name = |random_bits| backend_for(refs.clone(), random_bits).unwrap();
    let quarter = 1u32 << 30;
    assert_eq!(name(0), "one");
    assert_eq!(name(quarter - 1), "one");
    assert_eq!(name(quarter), "three");
    assert_eq!(name(u32::MAX), "three");
    let most =
        json!((0..16).map(|i| json!({"name": format!("b{i}"), "weight": 1_000_000})).collect::<Vec<_>>());
    assert_eq!(backend_for(most.clone(), 0).as_deref(), Some("b0"));
    assert_eq!(backend_for(most, u32::MAX).as_deref(), Some("b15"));
}

#[test]
fn backends_are_listed_once_and_take_their_routes_namespace() {
    let rules = json!([{"backendRefs": [{"name": "a", "port": 80}, {"name": "a", "port": 80}, {"name": "a", "port": 81}]},
        {"backendRefs": [{"name": "a", "port": 80, "namespace": "other"}]}]);
    let mut route = read(&document("r", &[], rules));
    route.namespace = Some("here".to_owned());
    let table = table_of(&[route]);
    let mut seen: Vec<_> =
        table.backends().iter().map(|b| (b.namespace.as_deref().unwrap(), b.port.unwrap())).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("here", 80), ("here", 81), ("other", 80)]);
    assert_eq!((table.len(), table.rules(), table.matches()), (1, 2, 2));
}
