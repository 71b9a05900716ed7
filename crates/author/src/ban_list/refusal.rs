//! What becomes of entries that are not taken.

use tidegate_policy::address::Prefix;
use tidegate_policy::scope::Scope;

use super::{ListItem, ListedBan, ListedEnd};

/// Characters of an entry that are repeated.
const MAX_SHOWN: usize = 60;

/// Declares every code once: variant, name, and when it is given.
macro_rules! refusal_codes {
    ($($variant:ident = $name:literal, $when:literal;)*) => {
        /// Why an entry was refused. The name is part of the interface.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum RefusalCode {
            $(#[doc = $when] $variant,)*
        }

        impl RefusalCode {
            /// All of them, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in answers.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// When it is given, for the documentation.
            #[must_use]
            pub fn when(self) -> &'static str {
                match self { $(Self::$variant => $when,)* }
            }
        }
    };
}

refusal_codes! {
    NotAnAddress = "not_an_address", "neither an address, a block nor a range, or further text behind it that is no comment";
    BadLength = "bad_length", "a block whose length is no number, or too large";
    BadRange = "bad_range", "a range that ends before it begins, or in another family";
    ZoneId = "zone_id", "an address with a zone, `fe80::1%eth0`, which means something on one machine only";
    TooWide = "too_wide", "a block wider than /8 (IPv4) or /19 (IPv6), or a range that needs one";
    TooLong = "too_long", "a line, or a JSON value that is one entry, of over 64 KiB";
    NulByte = "nul_byte", "a line with a NUL byte";
    NotUtf8 = "not_utf8", "an entry with bytes that are not ASCII; comments may have any";
    NoAddress = "no_address", "a row or an object without an address";
    BadScore = "bad_score", "a score that is no number, or none where `min_score` asks for one";
    BadTime = "bad_time", "an end or a duration that cannot be read";
    Expired = "expired", "an end that has passed";
    BadCsv = "bad_csv", "a row whose quotes do not close on its line, or with over 256 fields";
    BadJson = "bad_json", "a value that is no JSON, or neither a text nor an object, or has a name twice";
    OtherScope = "other_scope", "a decision about something else than an address: a country, an AS";
    BadAppliesTo = "bad_applies_to", "an `applies_to` that cannot be read; in a list of a source, whose document says where its entries apply, any";
    NotABan = "not_a_ban", "an entry that allows, or asks for a captcha";
    ProtectedNetwork = "protected_network", "it has addresses of a protected network; `force` takes it";
    AddressAllowed = "address_allowed", "the allow list has it; `force` takes it, without effect";
}

/// Why an entry was skipped, which is nothing wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SkipReason {
    /// Its score is lower than wanted.
    BelowMinScore,
    /// CrowdSec only says what it would do.
    Simulated,
    /// It is listed as no longer there.
    Deleted,
    /// It describes the list.
    Metadata,
}

impl SkipReason {
    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BelowMinScore => "below_min_score",
            Self::Simulated => "simulated",
            Self::Deleted => "deleted",
            Self::Metadata => "metadata",
        }
    }
}

/// An entry that was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedEntry {
    /// Its line, from 1.
    pub line: u64,
    /// Why.
    pub code: RefusalCode,
    /// Its text, shortened.
    pub text: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl RefusedEntry {
    /// The entry `text` in `line`.
    #[must_use]
    pub fn new(line: u64, code: RefusalCode, text: &str, why: String) -> Self {
        Self { line, code, text: text.chars().take(MAX_SHOWN).collect(), why }
    }
}

/// A refusal without its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub code: RefusalCode,
    pub why: String,
}

impl Refusal {
    pub fn new(code: RefusalCode, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }
}

/// What an entry says besides its address. By default nothing.
#[derive(Clone, Default)]
pub(super) struct BanDetails {
    pub reason: Option<String>,
    pub end: ListedEnd,
    pub applies_to: Option<Scope>,
}

/// Where entries go.
pub(super) struct Output<'o> {
    pub min_score: Option<f64>,
    pub item: &'o mut dyn FnMut(ListItem),
}

impl Output<'_> {
    pub fn refuse(&mut self, line: u64, text: &[u8], refusal: Refusal) {
        // A character has four bytes at most.
        let shown = text.get(..MAX_SHOWN * 4).unwrap_or(text);
        let shown = String::from_utf8_lossy(shown);
        (self.item)(ListItem::Refused(RefusedEntry::new(line, refusal.code, &shown, refusal.why)));
    }

    pub fn skip(&mut self, why: SkipReason) {
        (self.item)(ListItem::Skipped(why));
    }

    pub fn bans(&mut self, line: u64, blocks: Vec<Prefix>, said: &BanDetails) {
        self.blocks(line, blocks, said, ListItem::Ban);
    }

    pub fn blocks(
        &mut self,
        line: u64,
        blocks: Vec<Prefix>,
        said: &BanDetails,
        item: fn(ListedBan) -> ListItem,
    ) {
        for prefix in blocks {
            let BanDetails { reason, end, applies_to } = said.clone();
            (self.item)(item(ListedBan { line, prefix, reason, end, applies_to }));
        }
    }
}
