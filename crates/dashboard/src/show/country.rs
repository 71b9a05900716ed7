//! Names of countries.

use std::collections::BTreeMap;
use std::sync::LazyLock;

static NAMES: LazyLock<BTreeMap<&str, &str>> = LazyLock::new(|| {
    let lines = include_str!("../../assets/countries.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).collect()
});

/// What a code of ISO 3166-1, or another that country tables have, stands for; the code itself where that is not
/// known.
pub fn name(code: &str) -> &str {
    NAMES.get(code).copied().unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_countries_are_those_that_rules_can_name() {
        let codes: Vec<&str> = NAMES.keys().copied().collect();
        let rule = tidegate_author::read_geo_rule("all", &json!({"mode": "deny", "countries": codes}));
        assert!(rule.is_ok(), "{rule:?}");
        assert_eq!((NAMES.len(), name("DE"), name("ZZ")), (258, "Germany", "ZZ"));
    }
}
