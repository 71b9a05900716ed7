//! The version of a set of tables.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::codec::FormatError;

/// A version of all tables together: one sequence, in the order of commits. Ordered only within an
/// epoch. The admin service makes a new epoch at each start and whenever its numbers are no longer
/// valid, so that a restored database never has the version of another state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Version {
    /// Random, never zero in a real version.
    pub epoch: u64,
    /// Position in the one sequence of all changes.
    pub seq: u64,
}

impl Version {
    /// Whether holding `self` means holding `other`: same epoch, not older.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.seq >= other.seq
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.epoch, self.seq)
    }
}

impl FromStr for Version {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let bad = || FormatError::Malformed("a version is <epoch, 16 hex digits>.<seq>");
        let (epoch, seq) = text.split_once('.').ok_or_else(bad)?;
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| bad())?;
        Ok(Self { epoch, seq: seq.parse().map_err(|_| bad())? })
    }
}
