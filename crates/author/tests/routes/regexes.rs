//! Regexes: what they mean, and what is refused.

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_author::{self as author, CompileError, MAX_AUTOMATON, MAX_ROUTE_AUTOMATA, Regex, RegexError};
use tidegate_policy::request::Facts;
use tidegate_policy::route::TooLong;

use super::{compile, document, found, read, table_of};

fn path_rules(patterns: &[&str]) -> Value {
    let of = |value: &&str| json!({"matches": [{"path": {"type": "RegularExpression", "value": value}}]});
    json!(patterns.iter().map(of).collect::<Vec<_>>())
}

fn takes(pattern: &str, path: &[u8]) -> bool {
    let table = table_of(&[read(&document("r", &[], path_rules(&[pattern])))]);
    found(&table, &Facts { path, ..Facts::default() }).is_some()
}

#[test]
fn a_regex_matches_the_whole_path_without_its_query() {
    assert!(takes("/a[0-9]+", b"/a12"));
    assert!(takes("/a[0-9]+", b"/a12?x"));
    assert!(!takes("/a[0-9]+", b"/a12/"));
    assert!(!takes("/a[0-9]+", b"/x/a12"));
    assert!(takes("/a|/b/c", b"/b/c"));
    assert!(!takes("/a|/b/c", b"/a/c"), "anchors hold for each branch");
    assert!(takes("/ab?|/abc", b"/abc"));
    assert!(takes("^/a$", b"/a"), "anchors of its own do no harm");
    assert!(takes("(?i)/a", b"/A"));
    assert!(!takes("/a", b"/A"));
    assert!(takes("(?x) /a  # a comment", b"/a"));
}

#[test]
fn regexes_work_on_bytes() {
    assert!(takes("/.", b"/\xff"));
    assert!(!takes("/.", "/é".as_bytes()), "é is two bytes");
    assert!(takes("(?u)/.", "/é".as_bytes()));
    assert!(!takes(r"/\w", "/é".as_bytes()));
    assert!(takes(r"(?u)/\w", "/é".as_bytes()));
    assert!(takes("/é", "/é".as_bytes()), "é outside of a class is its two bytes");
    assert!(takes("(?u)/[é]", "/é".as_bytes()));
    assert!(takes(r"/\xC3\xA9", "/é".as_bytes()));
    assert!(!takes("/.", b"/\n"));
    assert!(takes("(?s)/.", b"/\n"));
}

#[test]
fn header_and_query_regexes_match_the_whole_value() {
    let rules = json!([{"matches": [{
        "headers": [{"type": "RegularExpression", "name": "X", "value": "(foo|bar)[0-9]*"}],
        "queryParams": [{"type": "RegularExpression", "name": "p", "value": "[a-c]+"}],
    }]}]);
    let table = table_of(&[read(&document("r", &[], rules))]);
    let found =
        |x: &[u8], path| found(&table, &Facts { path, headers: &[(b"x", x)], ..Facts::default() }).is_some();
    assert!(found(b"foo12", b"/?p=abc"));
    assert!(!found(b"foo12x", b"/?p=abc"));
    assert!(!found(b"xfoo12", b"/?p=abc"));
    assert!(!found(b"foo12", b"/?p=abd"));
    assert!(!found(b"foo12", b"/"));
}

#[test]
fn a_bad_regex_is_a_problem_at_its_place() {
    for (pattern, says) in [
        ("/a(", "unclosed group"),
        ("/a)|(/b", "unopened group"),
        ("/[b-a]", "invalid character class range"),
        ("/(*)", "repetition"),
        (r"/(a)\1", "backreferences"),
        ("/(?=a)", "look-around"),
        ("/[é]", "(?u)"),
        (r"/\pL", "(?u)"),
        ("/a{1000}{1000}", "over 256 KiB"),
        ("/(a|b)*a(a|b){20}", "over 256 KiB"),
        (r"(?u)/\w{1,30}", "over 256 KiB"),
        (r"(?u)/\pL{1,200}", "over 256 KiB"),
        ("a", "matches no path"),
        ("", "matches no path"),
        ("[^/]+", "matches no path"),
        (r"\d+/.*", "matches no path"),
        (r"/search\?q=.*", "matches no path"),
        ("/a b|/a#b|/[\t]", "matches no path"),
        ("/a$b", "matches no path"),
        ("/{owner}", "repetition"),
    ] {
        let problems = author::read(&document("r", &[], path_rules(&["/ok", pattern]))).unwrap_err();
        assert_eq!(problems.len(), 1, "{pattern}");
        assert_eq!(problems[0].pointer, "/spec/rules/1/matches/0/path/value");
        assert!(problems[0].message.contains(says), "{pattern}: {}", problems[0].message);
    }
}

#[test]
fn a_regex_that_no_value_has_is_refused() {
    let of = |kind: &str, name: &str, pattern: &str| {
        let condition = json!({"type": "RegularExpression", "name": name, "value": pattern});
        let read = author::read(&document("r", &[], json!([{"matches": [{kind: [condition]}]}])));
        read.err().map(|problems| problems[0].message.clone())
    };
    for (kind, pattern) in
        [("headers", "a\r\nb"), ("headers", "a$b"), ("queryParams", "a^b"), ("queryParams", "[^\\s\\S]")]
    {
        let said = of(kind, "x", pattern).unwrap_or_default();
        assert!(said.starts_with("matches no value"), "{kind} {pattern:?}: {said}");
    }
    for (kind, pattern) in
        [("headers", "^$"), ("headers", "a\tb"), ("headers", "(?s).*"), ("queryParams", "a\r\nb")]
    {
        let said = of(kind, "x", pattern);
        assert!(said.is_none(), "{kind} {pattern:?}: {said:?}");
    }
    let host = |value: &str| {
        let rule = json!([{"matches": [{"headers": [{"name": "Host", "value": value}]}]}]);
        author::read(&document("r", &[], rule)).is_ok()
    };
    assert!(host("a.example:80") && host("[::1]") && !host("a.example:x") && !host("a,b"));
}

#[test]
fn exploding_regexes_cannot_hold_up_the_service() {
    let patterns: Vec<_> = (0..60).map(|i| format!("/{i}(a|b)*a(a|b){{20}}")).collect();
    let matches: Vec<_> =
        patterns.iter().map(|value| json!({"path": {"type": "RegularExpression", "value": value}})).collect();
    let problems = author::read(&document("r", &[], json!([{"matches": matches}]))).unwrap_err();
    assert_eq!(problems.len(), 8, "the rest is not tried");
}

#[test]
fn a_route_may_have_so_much_of_regexes() {
    let patterns: Vec<_> = (0..60).map(|i| format!("/{i}(a|b)*a(a|b){{10}}")).collect();
    let patterns: Vec<_> = patterns.iter().map(String::as_str).collect();
    let size = Regex::compile(patterns[0]).unwrap().automaton().len();
    assert!(size < MAX_AUTOMATON && size * patterns.len() > MAX_ROUTE_AUTOMATA, "{size}");
    let matches: Vec<_> =
        patterns.iter().map(|value| json!({"path": {"type": "RegularExpression", "value": value}})).collect();
    let problems = author::read(&document("r", &[], json!([{"matches": matches}]))).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("together"));
    let same = vec![json!({"path": {"type": "RegularExpression", "value": patterns[0]}}); 60];
    assert!(
        author::read(&document("r", &[], json!([{"matches": same}]))).is_ok(),
        "one that repeats counts once"
    );
}

#[test]
fn all_routes_together_may_have_so_much_of_regexes() {
    let each = Regex::compile("/(a|b)*a(a|b){11}000").unwrap().automaton().len();
    let most = author::MAX_AUTOMATA / each;
    let route = |r: usize| {
        read(&document(&format!("r{r}"), &[], path_rules(&[&format!("/(a|b)*a(a|b){{11}}{r:03}")])))
    };
    let mut routes: Vec<_> = (0..most - 2).map(route).collect();
    assert!(compile(&routes).is_ok());
    routes.extend((most..most + 3).map(route));
    assert_eq!(compile(&routes), Err(CompileError::TooManyRegexes));
}

#[test]
fn regexes_are_tested_as_a_whole_where_their_elements_take_too_much() {
    let pattern = |r: usize| (0..12).map(|element| format!("/{r:04}-{element:02}-[0-9]")).collect::<String>();
    let each = Regex::compile(&pattern(0)).unwrap().automaton().len();
    let route = |r: usize| read(&document(&format!("r{r}"), &[], path_rules(&[&pattern(r)])));
    let routes: Vec<_> = (0..author::MAX_AUTOMATA / each).map(route).collect();
    let table = table_of(&routes);
    assert_eq!(table.regexes(), routes.len());
    let path = pattern(7).replace("[0-9]", "5");
    let found = |path: &str| table.find(&Facts { path: path.as_bytes(), ..Facts::default() });
    assert!(found(&path).unwrap().is_some());
    assert!(found(&path.replace('5', "x")).unwrap().is_none());
}

#[test]
fn a_request_that_would_take_too_long_to_place_is_placed_nowhere() {
    let patterns: Vec<String> = (0..64).map(|i| format!("/a/.*{i}x")).collect();
    let rule = |patterns: &[String]| {
        let of = |value: &String| json!({"path": {"type": "RegularExpression", "value": value}});
        json!({"matches": patterns.iter().map(of).collect::<Vec<_>>()})
    };
    let route = document("r", &[], json!([rule(&patterns), {}]));
    let table = table_of(&[read(&route)]);
    let taken =
        |path: &[u8]| table.find(&Facts { path, ..Facts::default() }).map(|found| found.unwrap().rule);
    let long = |len: usize| [b"/a/".as_slice(), &vec![b'a'; len]].concat();
    assert_eq!(taken(&long(200)), Ok(1), "short ones never are too long");
    assert_eq!(taken(&long(8_000)), Ok(1));
    assert_eq!(taken(&long(9_000)), Err(TooLong), "never the wider rule");
    assert_eq!(taken(&[b"/b/".as_slice(), &[b'a'; 60_000]].concat()), Ok(1), "no regex looks at it");
    // A header of many lines is put together for each condition.
    let condition = |i: u32| json!({"headers": [{"name": "x", "value": i.to_string()}]});
    let many = document("r", &[], json!([{"matches": (0..64).map(condition).collect::<Vec<_>>()}]));
    let table = table_of(&[read(&many)]);
    let found = |lines: usize| {
        let headers = vec![(&b"x"[..], &[b'1'; 100][..]); lines];
        table.find(&Facts { path: b"/", headers: &headers, ..Facts::default() })
    };
    assert_eq!((found(50), found(200)), (Ok(None), Err(TooLong)));
}

#[test]
fn equal_regexes_share_one_automaton() {
    let rules = json!([{"matches": [
        {"path": {"type": "RegularExpression", "value": "/a.*"}},
        {"headers": [{"type": "RegularExpression", "name": "x", "value": "/a.*"}]},
        {"headers": [{"type": "RegularExpression", "name": "x", "value": "/a[^\\n]*"}]},
    ]}]);
    let table =
        table_of(&[read(&document("r", &[], rules.clone())), read(&document("s", &["a.example"], rules))]);
    assert_eq!(table.regexes(), 1);
}

#[test]
fn a_regex_is_in_the_table_as_far_as_it_is_searched() {
    let regexes = |patterns: &[&str]| table_of(&[read(&document("r", &[], path_rules(patterns)))]).regexes();
    assert_eq!(regexes(&["/a/[^/]+", "/(a|b)/?", "/v[12]/[^/]*"]), 0, "their shapes say all");
    assert_eq!(regexes(&["/a/\\d+", "/\\d+/b", "/[^/]+/\\d+"]), 1, "one element");
    assert_eq!(regexes(&["/a/.*", "/b/.*"]), 2);
}

proptest! {
    #[test]
    fn another_engine_says_the_same(
        pattern in "([ab./]|\\[ab\\]|a\\||\\(a\\|b\\)|a[*+?]|b\\{1,2\\}|\\^|\\$){0,6}",
        value in "[ab/]{0,6}",
    ) {
        let Ok(regex) = Regex::compile(&pattern) else { return Ok(()) };
        let other = regex::bytes::RegexBuilder::new(&format!(r"\A(?:{pattern})\z")).unicode(false).build().unwrap();
        prop_assert_eq!(regex.is_match(value.as_bytes()), other.is_match(value.as_bytes()), "{}", pattern);
    }
}

proptest! {
    /// Any pattern gives a regex or an error, in bounded time, and the regex matches as
    /// in another engine.
    #[test]
    fn any_pattern_is_a_regex_or_an_error(
        pattern in "(/|a|b|\\.|\\*|\\+|\\?|\\(|\\)|\\[|\\]|\\^|\\$|\\||\\{1,3\\}|\\\\[dwsbB]|-){0,12}",
        values in proptest::collection::vec("[/ab1. \n-]{0,6}", 8),
    ) {
        match Regex::compile(&pattern) {
            Ok(regex) => {
                let other = regex::bytes::RegexBuilder::new(&format!(r"\A(?:{pattern})\z")).unicode(false).build();
                let other = other.unwrap();
                let dfa = regex_automata::dfa::sparse::DFA::from_bytes(regex.automaton()).unwrap().0;
                for value in values {
                    let input = regex_automata::Input::new(&value).anchored(regex_automata::Anchored::Yes);
                    let found = regex_automata::dfa::Automaton::try_search_fwd(&dfa, &input).unwrap();
                    prop_assert_eq!(found.is_some(), other.is_match(value.as_bytes()), "{:?} {:?}", pattern, value);
                }
            }
            Err(RegexError::Syntax(message)) => prop_assert!(!message.is_empty()),
            Err(RegexError::TooLarge) => {}
        }
    }
}
