//! The tables that people write, from which gateways' tables are made. A new kind of document is
//! a variant of [`DocumentKind`] with its two names; SQL, change log and feed use this list.

use std::ops::{Index, IndexMut};

/// Kind of a named document. Each has a table of its own; these tables have the same columns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum DocumentKind {
    /// An HTTPRoute.
    Route,
    /// A geo rule: which countries are allowed.
    GeoRule,
    /// A backend: where requests are sent.
    Backend,
    /// A limit: how many requests are allowed.
    Limit,
    /// A listener: how requests arrive.
    Listener,
    /// An HTML page of denials.
    Page,
    /// A rule of automatic bans. Of these no table of gateways is made.
    AutoBan,
    /// A source of bans: where a list of addresses is.
    Source,
    /// A rollout: flags in stages, with gates. Of these no table of gateways is made.
    Rollout,
}

impl DocumentKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Route,
        Self::GeoRule,
        Self::Backend,
        Self::Limit,
        Self::Listener,
        Self::Page,
        Self::AutoBan,
        Self::Source,
        Self::Rollout,
    ];

    /// The names in the audit and of the table.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Route => ("route", "routes"),
            Self::GeoRule => ("geo-rule", "geo_rules"),
            Self::Backend => ("backend", "backends"),
            Self::Limit => ("limit", "limits"),
            Self::Listener => ("listener", "listeners"),
            Self::Page => ("page", "pages"),
            Self::AutoBan => ("auto-ban", "auto_bans"),
            // `sources` is the ledger's table of those who number events.
            Self::Source => ("source", "ban_sources"),
            Self::Rollout => ("rollout", "rollouts"),
        }
    }

    /// The name in the audit.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.names().0
    }
}

/// A table of the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum StoreTable {
    /// `ip_monitor`.
    Ip,
    /// `scoped_bans`: bans that apply at some hostnames or routes only.
    ScopedBans,
    /// `routes`, `geo_rules`, `backends`, `limits`, `listeners`, `pages`, `auto_bans`, `ban_sources`,
    /// `rollouts`.
    Documents(DocumentKind),
    /// `flags`.
    Flags,
    /// `geo_countries`: one row at most.
    Countries,
    /// `ban_source_sets`: what the sources of bans had when they were last fetched.
    SourceSets,
}

impl StoreTable {
    /// How many there are.
    pub const COUNT: usize = DocumentKind::ALL.len() + 5;

    /// Those of documents.
    pub const DOCUMENTS: [Self; DocumentKind::ALL.len()] = {
        let mut all = [Self::Ip; DocumentKind::ALL.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = Self::Documents(DocumentKind::ALL[at]);
            at += 1;
        }
        all
    };

    /// All of them.
    pub const ALL: [Self; Self::COUNT] = {
        let mut all = [Self::Ip; Self::COUNT];
        let mut at = 0;
        while at < Self::DOCUMENTS.len() {
            all[at + 1] = Self::DOCUMENTS[at];
            at += 1;
        }
        all[at + 1] = Self::Flags;
        all[at + 2] = Self::Countries;
        all[at + 3] = Self::SourceSets;
        all[at + 4] = Self::ScopedBans;
        all
    };

    /// The name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip_monitor",
            Self::ScopedBans => "scoped_bans",
            Self::Flags => "flags",
            Self::Countries => "geo_countries",
            Self::SourceSets => "ban_source_sets",
            Self::Documents(kind) => kind.names().1,
        }
    }

    /// The columns of its only unique key.
    #[must_use]
    pub const fn key_columns(self) -> &'static [&'static str] {
        match self {
            Self::Ip => &["ip"],
            // The first two have no space.
            Self::ScopedBans => &["ip", "source", "applies_to"],
            Self::Countries => &["id"],
            Self::Flags | Self::SourceSets | Self::Documents(_) => &["name"],
        }
    }

    /// SQL for the key of the row `row` as one value: with spaces between its columns.
    #[must_use]
    pub fn key_of(self, row: &str) -> String {
        let columns: Vec<String> =
            self.key_columns().iter().map(|column| format!("{row}.{column}")).collect();
        match columns.as_slice() {
            [column] => column.clone(),
            columns => format!("({})", columns.join(" || ' ' || ")),
        }
    }

    /// SQL for the condition that the row `row` is the one with the key `key`. It uses the index of the key.
    #[must_use]
    pub fn has_key(self, row: &str, key: &str) -> String {
        match self.key_columns() {
            [column] => format!("{row}.{column} = {key}"),
            columns => {
                let first = columns.first().copied().unwrap_or_default();
                let all = self.key_of(row);
                format!("{row}.{first} = substr({key}, 1, instr({key}, ' ') - 1) AND {all} = {key}")
            }
        }
    }
}

/// One value per kind of documents, indexed by [`DocumentKind`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PerDocumentKind<T>([T; DocumentKind::ALL.len()]);

impl<T> Index<DocumentKind> for PerDocumentKind<T> {
    type Output = T;

    fn index(&self, kind: DocumentKind) -> &T {
        &self.0[kind as usize]
    }
}

impl<T> IndexMut<DocumentKind> for PerDocumentKind<T> {
    fn index_mut(&mut self, kind: DocumentKind) -> &mut T {
        &mut self.0[kind as usize]
    }
}

impl<T> IntoIterator for PerDocumentKind<T> {
    type Item = (DocumentKind, T);
    type IntoIter = std::iter::Zip<
        std::array::IntoIter<DocumentKind, { DocumentKind::ALL.len() }>,
        std::array::IntoIter<T, { DocumentKind::ALL.len() }>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        DocumentKind::ALL.into_iter().zip(self.0)
    }
}
