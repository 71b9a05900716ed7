//! Texts as expressions of SQL, for files that `sqlite3` executes.

/// Arguments of a call of `char`, at most: SQLite takes 127 or more.
const MAX_ARGUMENTS: usize = 100;

/// An expression on one line that is exactly `text`, whatever is in it: what ends a line or a statement, and every
/// other control character, is given by its number.
#[must_use]
pub fn sql_literal(text: &str) -> String {
    let mut parts = Vec::new();
    let (mut readable, mut numbers) = (String::new(), Vec::new());
    for character in text.chars() {
        if needs_number(character) {
            parts.extend((!readable.is_empty()).then(|| quoted(&std::mem::take(&mut readable))));
            numbers.push(u32::from(character).to_string());
        } else {
            readable.push(character);
        }
        if numbers.len() == MAX_ARGUMENTS || !readable.is_empty() {
            parts.extend((!numbers.is_empty()).then(|| by_number(&std::mem::take(&mut numbers))));
        }
    }
    parts.extend((!readable.is_empty() || text.is_empty()).then(|| quoted(&readable)));
    parts.extend((!numbers.is_empty()).then(|| by_number(&numbers)));
    joined(&parts)
}

/// Whether a character is no part of a line: also those of Unicode that editors end a line at.
fn needs_number(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn by_number(numbers: &[String]) -> String {
    format!("char({})", numbers.join(","))
}

/// The parts one after the other, in pairs of pairs: SQLite takes expressions up to 1,000 deep.
fn joined(parts: &[String]) -> String {
    match parts {
        [] => quoted(""),
        [one] => one.clone(),
        many => {
            let (left, right) = many.split_at(many.len() / 2);
            format!("({} || {})", joined(left), joined(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn read_back(literal: &str) -> String {
        let conn = Connection::open_in_memory().unwrap();
        conn.query_row(&format!("SELECT {literal}"), [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_literal_is_readable_where_the_text_is() {
        assert_eq!(sql_literal(""), "''");
        assert_eq!(sql_literal("it's; -- wörter"), "'it''s; -- wörter'");
        assert_eq!(sql_literal("one\r\ntwo"), "('one' || (char(13,10) || 'two'))");
    }

    #[test]
    fn a_long_text_of_control_characters_is_exact() {
        for text in ["\n".repeat(20_000), "a\0".repeat(20_000), "'\u{2028}".repeat(5_000)] {
            assert_eq!(read_back(&sql_literal(&text)), text);
        }
    }

    proptest! {
        #[test]
        fn every_text_is_read_back_from_one_line(
            text in prop_oneof!["\\PC*", "[\\x00-\\x1f\\x7f-\\x9f'\";.|a\u{2028}\u{2029}\u{feff}-]{0,80}"]
        ) {
            let literal = sql_literal(&text);
            prop_assert!(!literal.chars().any(needs_number), "{literal:?}");
            prop_assert_eq!(read_back(&literal), text);
        }
    }
}
