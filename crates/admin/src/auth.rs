//! Who may do what: bearer tokens, created here and stored as hashes only, and the roles that they
//! have.

mod known_tokens;
mod require_role;
mod role_table;
mod token_bound_body;

use sha2::{Digest, Sha256};

use crate::store::{COMMAND_LINE, RULES, SOURCES, SQL, TOKEN_FILES};

pub use known_tokens::Tokens;
pub use require_role::{RoleGuard, SignedIn, require_role};
pub use role_table::RoleTable;

/// Prefix of every token, by which secret scanners can find leaked ones.
pub const TOKEN_PREFIX: &str = "tg_";
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Bytes of a token's name, at most.
pub const MAX_NAME: usize = 100;

/// What a token allows. On the people's listener each role can do what the one before it can.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, clap::ValueEnum)]
pub enum Role {
    /// To look at everything but tokens.
    Read,
    /// To react as well: bans, flags, refresh.
    Operate,
    /// Everything on the people's listener: documents and tokens as well.
    Admin,
    /// Everything on the gateways' listener, and nothing on the people's.
    Gateway,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Operate, Self::Admin, Self::Gateway];

    /// The name in the database, the API and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
            Self::Gateway => "gateway",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether a token of this role may do what needs `needed`.
    #[must_use]
    pub fn allows(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Gateway, _) | (_, Self::Gateway) => self == needed,
            _ => self.rank() >= needed.rank(),
        }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Gateway => 0,
            Self::Read => 1,
            Self::Operate => 2,
            Self::Admin => 3,
        }
    }
}

/// A new token: its text, which is shown once and not stored.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn new_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{TOKEN_PREFIX}{}", hex::encode(bytes)))
}

/// The hash that is stored for `token`. A plain SHA-256 is enough: salt, key and slow hashes are
/// against guessing, and nobody guesses 256 random bits.
#[must_use]
pub fn hash_token(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// Names of the audit's authors that are no tokens.
const RESERVED_NAMES: [&str; 4] = [SQL, COMMAND_LINE, TOKEN_FILES, SOURCES];

/// What [`is_name`] asks for, in words.
pub const NAME_FORM: &str = "1 to 100 bytes without control characters and without blanks around them, not \
    `.` or `..`, none of `sql`, `command line`, `serve --tokens` and `sources`, and nothing that begins with \
    `auto-bans/`";

/// Whether a token may have this name: 1 to [`MAX_NAME`] bytes without control characters, not what
/// the audit calls others and nothing that looks like it, and not what a URL cannot have as a part
/// of its path.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !RESERVED_NAMES.iter().any(|reserved| text.eq_ignore_ascii_case(reserved))
        && !text.to_ascii_lowercase().starts_with(RULES)
        && !matches!(text, "." | "..")
        && (1..=MAX_NAME).contains(&text.len())
        && text.trim().len() == text.len()
        && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_random() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), TOKEN_PREFIX.len() + 2 * TOKEN_BYTES);
    }

    #[test]
    fn whoever_is_refused_a_name_is_told_which_are_reserved() {
        for name in RESERVED_NAMES.into_iter().chain([RULES]) {
            assert!(NAME_FORM.contains(&format!("`{name}`")) && !is_name(name), "{name}");
        }
    }

    #[test]
    fn a_name_is_no_other_authors_and_can_be_in_a_path() {
        for name in ["a", "ci / deploy", "sql-importer", "...", "ä", &"n".repeat(MAX_NAME)] {
            assert!(is_name(name), "{name}");
        }
        let long = "n".repeat(MAX_NAME + 1);
        for wrong in ["", " ", " a", "a ", ".", "..", "sql", "SQL", "Command line", "a\nb", "\u{9b}", &long] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_role_can_do_what_those_before_it_can_and_a_gateway_only_its_own() {
        use Role::{Admin, Gateway, Operate, Read};
        let may = Role::ALL.map(|role| Role::ALL.map(|needed| role.allows(needed)));
        let wanted = [
            (Read, [true, false, false, false]),
            (Operate, [true, true, false, false]),
            (Admin, [true, true, true, false]),
            (Gateway, [false, false, false, true]),
        ];
        assert_eq!(Role::ALL, wanted.map(|(role, _)| role));
        assert_eq!(may, wanted.map(|(_, may)| may));
    }
}
