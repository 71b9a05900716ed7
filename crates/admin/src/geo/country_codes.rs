//! What the codes of country tables mean.

use tidegate_author::is_listed;
use tidegate_policy::geo::Country;

/// What a code means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// This country, or what rules may name beside countries: `EU`, `AP` and `A1`
    /// are somewhere too.
    Country(Country),
    /// Nobody knows: a client from there has no country.
    Unknown,
}

/// What `code` means. One that has the form of a code and that no rule can name
/// says nothing either: real tables have a few.
///
/// # Errors
/// When it has not the form of a code.
pub(super) fn meaning(code: &str) -> Result<Meaning, String> {
    if matches!(code, "" | "-" | "--" | "??" | "ZZ" | "XX" | "zz" | "xx") {
        return Ok(Meaning::Unknown);
    }
    let country = Country::new(code.as_bytes()).ok_or_else(|| {
        let shown: String = code.chars().take(20).collect();
        format!("`{shown}` is no country: write the two letters of ISO 3166-1, or ?? where it is not known")
    })?;
    Ok(if is_listed(country) { Meaning::Country(country) } else { Meaning::Unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_not_what_nobody_understands() {
        let country = |code: &str| Ok(Meaning::Country(Country::new(code.as_bytes()).unwrap()));
        for (code, wanted) in [("DE", "DE"), ("de", "DE"), ("UK", "GB"), ("EU", "EU"), ("A1", "A1")] {
            assert_eq!(meaning(code), country(wanted), "{code}");
        }
        for code in ["", "-", "??", "ZZ", "XX", "AB", "QQ"] {
            assert_eq!(meaning(code), Ok(Meaning::Unknown), "{code}");
        }
        for code in ["DEU", "D", "1", "49", "Germany", "d\u{e9}"] {
            assert!(meaning(code).is_err(), "{code}");
        }
    }
}
