//! The tables that gateways hold: the one list of them, and what each kind can do.
//! Feed, shared data, loading, gauges and headers all index this list.
//! `CONTRIBUTING.md`, "Adding a table", says what else a new one needs.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{FormatError, MAX_BAN_BASE, MAX_TABLE};
use crate::flags::{FLAGS_FORMAT, Flags};
use crate::geo::{COUNTRIES_FORMAT, CountryCheck, CountryTable, GEO_FORMAT, GeoRules};
use crate::limit::{LIMITS_FORMAT, Limits};
use crate::pages::{PAGES_FORMAT, Pages};
use crate::route::{ROUTES_FORMAT, RouteLoad, RouteTable};
use crate::scoped_bans::{SCOPED_BANS_FORMAT, ScopedBans, ScopedBansCheck};
use crate::table::{AddressTable, TABLE_FORMAT, TableCheck};

/// Entries checked in one step of decoding: 0.2 to 0.5 ms.
pub const STEP_ENTRIES: usize = 4096;
/// Bytes of regular expressions checked in one step of decoding.
const STEP_REGEX_BYTES: usize = 128 << 10;

/// What the contents of every kind of table can do.
pub trait TableData: Sized {
    /// Version of its bytes' format: their first byte.
    const FORMAT: u8;
    /// Decoding under way.
    type Decoder;

    /// Begins to decode `bytes`. A small table is decoded here.
    ///
    /// # Errors
    /// When the bytes are of another version, or malformed as far as they are read.
    fn decoder(bytes: &Arc<Vec<u8>>) -> Result<Self::Decoder, FormatError>;

    /// Decodes and checks a bounded piece; the table when that was the last.
    ///
    /// # Errors
    /// When the bytes are malformed. There is no further step then.
    fn step(decoder: &mut Self::Decoder) -> Result<Option<Self>, FormatError>;

    /// A table without entries; of the flags, all off.
    fn empty() -> Self;

    /// Its bytes.
    ///
    /// # Errors
    /// See [`encode`](crate::codec::encode): with the types of this crate never.
    fn empty_bytes() -> Result<Vec<u8>, FormatError>;

    /// How many entries it has; `None` when it is no list. Shown as a gauge.
    fn entries(&self) -> Option<usize>;
}

macro_rules! tables {
    ($($(#[$doc:meta])+ $table:ident = $name:literal, $field:ident: $data:ty;)+) => {
        /// A table that gateways hold. Its number is sent and kept in shared data, so the
        /// order of this list is part of both formats.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        pub enum Table {
            $($(#[$doc])+ $table,)+
        }

        impl Table {
            /// All of them, in the order in which they are published and read: the large
            /// ones first, because a reader that must begin anew keeps what it has read.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$table),+];

            /// The name in headers, keys of shared data, metrics and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$table => $name,)+ }
            }

            /// Version of its bytes' format.
            #[must_use]
            pub const fn format(self) -> u8 {
                match self { $(Self::$table => <$data as TableData>::FORMAT,)+ }
            }

            /// The bytes of this table without entries.
            ///
            /// # Errors
            /// See [`TableData::empty_bytes`].
            pub fn empty_bytes(self) -> Result<Vec<u8>, FormatError> {
                match self { $(Self::$table => <$data as TableData>::empty_bytes(),)+ }
            }
        }

        /// The contents of every table.
        #[derive(Clone)]
        pub struct TableSet {
            $($(#[$doc])+ pub $field: $data,)+
        }

        impl TableSet {
            /// Tables without entries.
            #[must_use]
            pub fn empty() -> Self {
                Self { $($field: TableData::empty(),)+ }
            }

            /// How many entries each has; see [`TableData::entries`].
            #[must_use]
            pub fn entries(&self) -> PerTable<Option<usize>> {
                PerTable([$(self.$field.entries()),+])
            }
        }

        /// The decoding of one table, in steps so short that a worker's requests need not
        /// wait.
        pub enum TableDecoder {
            $($(#[$doc])+ $table(<$data as TableData>::Decoder),)+
        }

        impl TableDecoder {
            /// Begins to decode `bytes` as `table`.
            ///
            /// # Errors
            /// See [`TableData::decoder`].
            pub fn new(table: Table, bytes: &Arc<Vec<u8>>) -> Result<Self, FormatError> {
                Ok(match table {
                    $(Table::$table => Self::$table(<$data as TableData>::decoder(bytes)?),)+
                })
            }

            /// Decodes a bounded piece. True when that was the last, and the table is in
            /// `set`.
            ///
            /// # Errors
            /// See [`TableData::step`]. `set` is as before then.
            pub fn step(&mut self, set: &mut TableSet) -> Result<bool, FormatError> {
                match self {
                    $(Self::$table(decoder) => {
                        let data = <$data as TableData>::step(decoder)?;
                        let is_done = data.is_some();
                        if let Some(data) = data {
                            set.$field = data;
                        }
                        Ok(is_done)
                    })+
                }
            }
        }
    };
}

tables! {
    /// Bans: the immutable base.
    BanBase = "bans_base", ban_base: AddressTable;
    /// Countries of addresses.
    Countries = "countries", countries: CountryTable;
    /// Bans: the changes since the base was made.
    BanOverlay = "bans_overlay", ban_overlay: AddressTable;
    /// Addresses that skip bans and geo rules.
    Allow = "allow", allow: AddressTable;
    /// The flags of the rollout.
    Flags = "flags", flags: Flags;
    /// Geo rules: which countries may enter.
    Geo = "geo", geo: Arc<GeoRules>;
    /// The compiled routes.
    Routes = "routes", routes: Arc<RouteTable>;
    /// Limits: how many requests may pass.
    Limits = "limits", limits: Arc<Limits>;
    /// HTML pages of denials.
    Pages = "pages", pages: Arc<Pages>;
    /// Bans: the changes since the overlay was made. Only gateways have this level.
    BanRecent = "bans_recent", ban_recent: AddressTable;
    /// Bans in shadow: what they would deny is recorded, and nothing denied.
    ShadowBans = "shadow_bans", shadow_bans: AddressTable;
    /// Bans that apply at some hostnames or routes only, in shadow or not.
    ScopedBans = "scoped_bans", scoped_bans: Arc<ScopedBans>;
    /// The same of sources. They may have a million, which are not sent again for one ban of the table before.
    ScopedSources = "scoped_sources", scoped_sources: Arc<ScopedBans>;
}

impl Table {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The table of this [`name`](Self::name).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Whether the admin service sends it whole whenever it changes. Bans are sent as
    /// changes of an overlay, and a base is fetched or folded.
    #[must_use]
    pub const fn is_sent_whole(self) -> bool {
        !matches!(self, Self::BanBase | Self::BanOverlay | Self::BanRecent)
    }

    /// The most bytes that it may have.
    #[must_use]
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::BanBase => MAX_BAN_BASE,
            _ => MAX_TABLE,
        }
    }

    /// Whether the admin service has it.
    #[must_use]
    pub const fn is_sent(self) -> bool {
        !matches!(self, Self::BanRecent)
    }

    /// Those that are [sent whole](Self::is_sent_whole).
    pub fn whole() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|table| table.is_sent_whole())
    }
}

/// One value per table, indexed by [`Table`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PerTable<T>([T; Table::COUNT]);

impl<T> PerTable<T> {
    /// What `make` makes for each.
    pub fn from_fn(make: impl FnMut(Table) -> T) -> Self {
        Self(Table::ALL.map(make))
    }

    /// All of them, in the order of [`Table::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Table, &T)> {
        Table::ALL.into_iter().zip(&self.0)
    }
}

#[expect(clippy::indexing_slicing, reason = "the number of a table is less than the number of tables")]
impl<T> Index<Table> for PerTable<T> {
    type Output = T;

    fn index(&self, table: Table) -> &T {
        &self.0[table as usize]
    }
}

#[expect(clippy::indexing_slicing, reason = "the number of a table is less than the number of tables")]
impl<T> IndexMut<Table> for PerTable<T> {
    fn index_mut(&mut self, table: Table) -> &mut T {
        &mut self.0[table as usize]
    }
}

impl TableData for AddressTable {
    const FORMAT: u8 = TABLE_FORMAT;
    type Decoder = Box<TableCheck>;

    fn decoder(bytes: &Arc<Vec<u8>>) -> Result<Self::Decoder, FormatError> {
        TableCheck::new(bytes.clone()).map(Box::new)
    }

    fn step(decoder: &mut Self::Decoder) -> Result<Option<Self>, FormatError> {
        decoder.step(STEP_ENTRIES)
    }

    fn empty() -> Self {
        Self::empty()
    }

    fn empty_bytes() -> Result<Vec<u8>, FormatError> {
        Ok(Self::empty().as_bytes().to_vec())
    }

    fn entries(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl TableData for Arc<ScopedBans> {
    const FORMAT: u8 = SCOPED_BANS_FORMAT;
    type Decoder = Box<ScopedBansCheck>;

    fn decoder(bytes: &Arc<Vec<u8>>) -> Result<Self::Decoder, FormatError> {
        ScopedBansCheck::new(bytes).map(Box::new)
    }

    fn step(decoder: &mut Self::Decoder) -> Result<Option<Self>, FormatError> {
        decoder.step(STEP_ENTRIES)
    }

    fn empty() -> Self {
        Self::default()
    }

    fn empty_bytes() -> Result<Vec<u8>, FormatError> {
        ScopedBans::empty_bytes()
    }

    fn entries(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl TableData for CountryTable {
    const FORMAT: u8 = COUNTRIES_FORMAT;
    type Decoder = Box<CountryCheck>;

    fn decoder(bytes: &Arc<Vec<u8>>) -> Result<Self::Decoder, FormatError> {
        CountryCheck::new(bytes.clone()).map(Box::new)
    }

    fn step(decoder: &mut Self::Decoder) -> Result<Option<Self>, FormatError> {
        decoder.step(STEP_ENTRIES)
    }

    fn empty() -> Self {
        Self::empty()
    }

    fn empty_bytes() -> Result<Vec<u8>, FormatError> {
        Ok(Self::empty().as_bytes().to_vec())
    }

    fn entries(&self) -> Option<usize> {
        let (v4, v6) = self.len();
        Some(v4.saturating_add(v6))
    }
}

impl TableData for Arc<RouteTable> {
    const FORMAT: u8 = ROUTES_FORMAT;
    type Decoder = Box<RouteLoad>;

    fn decoder(bytes: &Arc<Vec<u8>>) -> Result<Self::Decoder, FormatError> {
        RouteLoad::new(bytes).map(Box::new)
    }

    fn step(decoder: &mut Self::Decoder) -> Result<Option<Self>, FormatError> {
        Ok(decoder.step(STEP_REGEX_BYTES)?.map(Arc::new))
    }

    fn empty() -> Self {
        Arc::new(RouteTable::empty())
    }

    fn empty_bytes() -> Result<Vec<u8>, FormatError> {
        RouteTable::empty_bytes()
    }

    fn entries(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl TableData for Flags {
    const FORMAT: u8 = FLAGS_FORMAT;
    type Decoder = Option<Self>;

    fn decoder(bytes: &Arc<Vec<u8>>) -> Result<Self::Decoder, FormatError> {
        Self::from_bytes(bytes).map(Some)
    }

    fn step(decoder: &mut Self::Decoder) -> Result<Option<Self>, FormatError> {
        Ok(decoder.take())
    }

    fn empty() -> Self {
        Self::default()
    }

    fn empty_bytes() -> Result<Vec<u8>, FormatError> {
        Self::default().to_bytes()
    }

    fn entries(&self) -> Option<usize> {
        None
    }
}

/// Small tables, each decoded in one step.
macro_rules! small_tables {
    ($($data:ident, $format:ident;)+) => {$(
        impl TableData for Arc<$data> {
            const FORMAT: u8 = $format;
            type Decoder = Option<Self>;

            fn decoder(bytes: &Arc<Vec<u8>>) -> Result<Self::Decoder, FormatError> {
                $data::from_bytes(bytes).map(Arc::new).map(Some)
            }

            fn step(decoder: &mut Self::Decoder) -> Result<Option<Self>, FormatError> {
                Ok(decoder.take())
            }

            fn empty() -> Self {
                Self::default()
            }

            fn empty_bytes() -> Result<Vec<u8>, FormatError> {
                $data::default().to_bytes()
            }

            fn entries(&self) -> Option<usize> {
                Some(self.len())
            }
        }
    )+};
}

small_tables! {
    GeoRules, GEO_FORMAT;
    Limits, LIMITS_FORMAT;
    Pages, PAGES_FORMAT;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_decodes_from_its_own_bytes_into_its_own_place() {
        for table in Table::ALL {
            let bytes = Arc::new(table.empty_bytes().unwrap());
            assert_eq!(bytes.first(), Some(&table.format()), "{}", table.name());
            let (mut set, mut decoder) = (TableSet::empty(), TableDecoder::new(table, &bytes).unwrap());
            while !decoder.step(&mut set).unwrap() {}
            assert!(matches!(set.entries()[table], None | Some(0)), "{}", table.name());
            assert_eq!(Table::named(table.name()), Some(table));
        }
    }
}
