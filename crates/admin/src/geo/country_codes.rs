//! Meaning of the codes in country tables.

use tidegate_author::is_listed;
use tidegate_policy::geo::Country;

/// The country of a code. Rules may also name the codes `EU`, `AP` and `A1`, which are not
/// countries. `None`: a client from there has no known country; that includes codes that no rule
/// can name, of which real tables have a few.
pub(super) fn country_of(code: &str) -> Result<Option<Country>, String> {
    if matches!(code, "" | "-" | "--" | "??" | "ZZ" | "XX" | "zz" | "xx") {
        return Ok(None);
    }
    let country = Country::new(code.as_bytes()).ok_or_else(|| {
        let shown: String = code.chars().take(20).collect();
        format!("`{shown}` is no country: write the two letters of ISO 3166-1, or ?? where it is not known")
    })?;
    Ok(Some(country).filter(|country| is_listed(*country)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_country_is_not_an_unreadable_one() {
        for (code, wanted) in [("DE", "DE"), ("de", "DE"), ("UK", "GB"), ("EU", "EU"), ("A1", "A1")] {
            assert_eq!(country_of(code), Ok(Country::new(wanted.as_bytes())), "{code}");
        }
        for code in ["", "-", "??", "ZZ", "XX", "AB", "QQ"] {
            assert_eq!(country_of(code), Ok(None), "{code}");
        }
        for code in ["DEU", "D", "1", "49", "Germany", "d\u{e9}"] {
            assert!(country_of(code).is_err(), "{code}");
        }
    }
}
