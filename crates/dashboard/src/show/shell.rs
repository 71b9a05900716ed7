//! Commands to copy.

/// A text as one word of a POSIX shell.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_read_it_otherwise() {
        assert_eq!(shell_word("203.0.113.0/24"), "203.0.113.0/24");
        assert_eq!(shell_word("a b$(id)'"), r"'a b$(id)'\'''");
        assert_eq!(shell_word(""), "''");
    }
}
