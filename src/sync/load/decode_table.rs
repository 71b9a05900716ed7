//! A table's way from bytes that arrived to a table that is searched: its hash,
//! then its layout, both in steps that do not hold up a worker.

use std::rc::Rc;
use std::sync::Arc;

use tidegate_policy::codec::FormatError;
use tidegate_policy::digest::{BlobHash, BlobHasher};
use tidegate_policy::flags::Flags;
use tidegate_policy::geo::{CountryCheck, CountryTable, GeoRules};
use tidegate_policy::limit::Limits;
use tidegate_policy::route::{RouteLoad, RouteTable};
use tidegate_policy::table::{AddressTable, TableCheck};
use tidegate_policy::wire::sync::BlobRef;

use crate::sync::publish::Bytes;
use crate::sync::shared::manifest::{CHUNK, Part, piece};

/// Entries checked, folded or joined in one step: 0.2 to 0.5 ms.
pub const ENTRIES: usize = 4096;

/// Bytes of regexes checked in one step.
const REGEX_BYTES: usize = 128 << 10;

/// Why bytes did not become a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IntakeError {
    /// They are not the bytes that were named.
    Hash,
    /// They are, and are no table: reading them again would not help.
    Layout(FormatError),
}

/// A table, ready to be searched.
#[derive(Clone)]
pub enum Table {
    /// Of addresses.
    Addresses(AddressTable),
    /// Of routes, and the bytes that it was made from.
    Routes(Arc<RouteTable>, Rc<Vec<u8>>),
    /// Of countries.
    Countries(CountryTable),
    /// The geo rules, and the bytes that they were made from.
    Geo(Arc<GeoRules>, Rc<Vec<u8>>),
    /// The limits, and the bytes that they were made from.
    Limits(Arc<Limits>, Rc<Vec<u8>>),
    /// The flags, and the bytes that they were made from.
    Flags(Flags, Rc<Vec<u8>>),
}

impl Table {
    /// Its bytes, to publish.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        match self {
            Self::Addresses(table) => Bytes::Table(table.clone()),
            Self::Countries(table) => Bytes::Countries(table.clone()),
            Self::Routes(_, bytes) | Self::Geo(_, bytes) | Self::Limits(_, bytes) | Self::Flags(_, bytes) => {
                Bytes::Raw(bytes.clone())
            }
        }
    }
}

/// One table under way.
pub struct Intake {
    part: Part,
    /// What the bytes should be, or turned out to be.
    name: Option<BlobRef>,
    at: At,
}

enum At {
    Hash {
        bytes: Vec<u8>,
        hasher: Box<BlobHasher>,
        next: usize,
    },
    Addresses(Box<TableCheck>),
    Routes(Box<RouteLoad>, Rc<Vec<u8>>),
    Countries(Box<CountryCheck>),
    /// Small ones, which are made in one go.
    Whole(Table),
    Over,
}

impl Intake {
    /// `bytes`, which should be `blob`.
    #[must_use]
    pub fn new(part: Part, blob: BlobRef, bytes: Vec<u8>) -> Self {
        Self { part, name: Some(blob), at: At::Hash { bytes, hasher: Box::default(), next: 0 } }
    }

    /// `bytes` that were made here and have no name yet.
    #[must_use]
    pub fn unnamed(part: Part, bytes: Vec<u8>) -> Self {
        Self { part, name: None, at: At::Hash { bytes, hasher: Box::default(), next: 0 } }
    }

    /// `bytes` that were made here and are known to be `blob`.
    ///
    /// # Errors
    /// When they are no table.
    pub fn own(part: Part, blob: BlobRef, bytes: Vec<u8>) -> Result<Self, IntakeError> {
        Ok(Self { part, name: Some(blob), at: At::laid_out(part, bytes)? })
    }

    /// The name of the bytes; known by the time that the table is there.
    #[must_use]
    pub fn name(&self) -> Option<BlobRef> {
        self.name
    }

    /// Which table this becomes.
    #[must_use]
    pub fn part(&self) -> Part {
        self.part
    }

    /// Does a bounded piece of the work; the table when that was the last.
    ///
    /// # Errors
    /// When the bytes are not what they should be. The intake is over then.
    pub fn step(&mut self) -> Result<Option<Table>, IntakeError> {
        match std::mem::replace(&mut self.at, At::Over) {
            At::Hash { bytes, mut hasher, next } => {
                hasher.update(piece(&bytes, next, CHUNK));
                let next = next.saturating_add(1);
                if next.saturating_mul(CHUNK) < bytes.len() {
                    self.at = At::Hash { bytes, hasher, next };
                    return Ok(None);
                }
                let found = BlobRef { hash: hasher.finish(), len: bytes.len() as u64 };
                if *self.name.get_or_insert(found) != found {
                    return Err(IntakeError::Hash);
                }
                self.at = At::laid_out(self.part, bytes)?;
                Ok(None)
            }
            At::Addresses(mut check) => {
                let table = check.step(ENTRIES).map_err(IntakeError::Layout)?;
                if table.is_none() {
                    self.at = At::Addresses(check);
                }
                Ok(table.map(Table::Addresses))
            }
            At::Routes(mut load, bytes) => match load.step(REGEX_BYTES).map_err(IntakeError::Layout)? {
                Some(table) => Ok(Some(Table::Routes(Arc::new(table), bytes))),
                None => {
                    self.at = At::Routes(load, bytes);
                    Ok(None)
                }
            },
            At::Countries(mut check) => {
                let table = check.step(ENTRIES).map_err(IntakeError::Layout)?;
                if table.is_none() {
                    self.at = At::Countries(check);
                }
                Ok(table.map(Table::Countries))
            }
            At::Whole(table) => Ok(Some(table)),
            At::Over => Err(IntakeError::Layout(FormatError::Malformed("taken in already"))),
        }
    }
}

impl At {
    fn laid_out(part: Part, bytes: Vec<u8>) -> Result<Self, IntakeError> {
        Ok(match part {
            Part::Routes => {
                let load = RouteLoad::new(&bytes).map_err(IntakeError::Layout)?;
                Self::Routes(Box::new(load), Rc::new(bytes))
            }
            Part::Countries => {
                Self::Countries(Box::new(CountryCheck::new(bytes).map_err(IntakeError::Layout)?))
            }
            Part::Geo => {
                let rules = GeoRules::from_bytes(&bytes).map_err(IntakeError::Layout)?;
                Self::Whole(Table::Geo(Arc::new(rules), Rc::new(bytes)))
            }
            Part::Limits => {
                let limits = Limits::from_bytes(&bytes).map_err(IntakeError::Layout)?;
                Self::Whole(Table::Limits(Arc::new(limits), Rc::new(bytes)))
            }
            Part::Flags => {
                let flags = Flags::from_bytes(&bytes).map_err(IntakeError::Layout)?;
                Self::Whole(Table::Flags(flags, Rc::new(bytes)))
            }
            Part::BanBase | Part::BanOverlay | Part::Allow => {
                Self::Addresses(Box::new(TableCheck::new(bytes).map_err(IntakeError::Layout)?))
            }
        })
    }
}

/// The name of `bytes` that were made here.
#[must_use]
pub fn name_of(bytes: &[u8]) -> BlobRef {
    BlobRef { hash: BlobHash::of(bytes), len: bytes.len() as u64 }
}
