//! Of an expression of Prometheus what a test needs: which series it selects, and by
//! which labels it sorts them. Whether it is right otherwise says Prometheus.

use std::collections::BTreeSet;

/// A selector: `name{label="value", ...}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Selector {
    /// The series' name.
    pub name: String,
    /// Labels that it matches on.
    pub labels: BTreeSet<String>,
    /// As it stands, without a range.
    pub text: String,
}

/// What an expression uses.
#[derive(Debug, Default)]
pub struct Used {
    /// Series.
    pub selectors: BTreeSet<Selector>,
    /// Labels of `by (...)`.
    pub by: BTreeSet<String>,
}

const WORDS: [&str; 10] = ["by", "without", "on", "ignoring", "and", "or", "unless", "bool", "offset", "Inf"];

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

/// What `expression` uses.
pub fn used(expression: &str) -> Used {
    let mut used = Used::default();
    let mut rest = expression;
    while let Some(first) = rest.bytes().next() {
        if first == b'"' {
            rest = after(&rest[1..], '"').1;
        } else if first == b'[' {
            rest = after(rest, ']').1;
        } else if first.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
        } else if is_word(first) {
            let end = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            rest = word_of(word, behind, &mut used);
        } else {
            rest = &rest[1..];
        }
    }
    used
}

/// Takes a word; what is left behind it.
fn word_of<'t>(word: &str, behind: &'t str, used: &mut Used) -> &'t str {
    let next = behind.trim_start();
    if matches!(word, "by" | "on") {
        let (labels, behind) = after(next, ')');
        let labels = labels.trim_start_matches('(').split(',').map(|label| label.trim().to_owned());
        used.by.extend(labels.filter(|label| !label.is_empty()));
        return behind;
    }
    // `rate(...)`, and `sum by (...) (...)`.
    let is_function = ["(", "by ", "by(", "without ", "without("].iter().any(|begin| next.starts_with(begin));
    if is_function || WORDS.contains(&word) {
        return behind;
    }
    let (matchers, behind) = match behind.strip_prefix('{') {
        Some(inside) => after(inside, '}'),
        None => ("", behind),
    };
    let labels = matchers.split("\",").filter_map(|matcher| matcher.split_once(['=', '!']));
    let labels = labels.map(|(label, _)| label.trim().to_owned()).collect();
    let text = format!("{word}{{{matchers}}}");
    used.selectors.insert(Selector { name: word.to_owned(), labels, text });
    behind
}

/// What stands before `end`, and what behind it.
fn after(text: &str, end: char) -> (&str, &str) {
    text.split_once(end).unwrap_or((text, ""))
}

#[test]
fn selectors_and_labels_are_found() {
    let used = used(
        r#"histogram_quantile(0.99, sum by (job, le) (rate(a_bucket{x=~"a,b", y="1"}[5m]))) > 1 or time() - b == 5e3"#,
    );
    let names: Vec<_> = used.selectors.iter().map(|selector| selector.text.as_str()).collect();
    assert_eq!(names, [r#"a_bucket{x=~"a,b", y="1"}"#, "b{}"]);
    assert_eq!(used.by.iter().map(String::as_str).collect::<Vec<_>>(), ["job", "le"]);
    let labels = &used.selectors.first().unwrap().labels;
    assert_eq!(labels.iter().map(String::as_str).collect::<Vec<_>>(), ["x", "y"]);
}
