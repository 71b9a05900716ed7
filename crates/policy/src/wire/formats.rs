//! Which formats a gateway reads, so that an admin service of another version sends it what
//! it can read, leaves out what it cannot (bans still arrive), and reports which gateways
//! are behind. `docs/OPERATIONS.md`, "Upgrading".
//!
//! Everything that the two send each other begins with the version of its format, and a reader
//! refuses any other version: nothing was released yet, so neither side reads an earlier one.
//! Once there are releases, the admin service will have to read the formats of the last one;
//! not the filter, because V8 compiles all of its module at every start of Envoy.

use std::str::FromStr;

use super::sync::SYNC_FORMAT;
use crate::codec::FormatError;
use crate::tables::Table;

/// Header of the sync: the version of each format that the gateway reads,
/// `<format>=<version>,...`. A gateway without the header is taken to read what the admin
/// service writes.
pub const FORMATS_HEADER: &str = "x-tidegate-formats";
/// That header's value for this version: the answer itself ([`SYNC_FORMAT`]), and each
/// table that the admin service has, by its name.
#[must_use]
pub fn formats() -> String {
    let mut formats = format!("sync={SYNC_FORMAT}");
    for table in Table::ALL.into_iter().filter(|table| table.is_sent()) {
        formats.push_str(&format!(",{}={}", table.name(), table.format()));
    }
    formats
}

/// Which of the formats that this version writes a gateway reads. By default all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Formats {
    unread: Vec<&'static str>,
}

impl Formats {
    /// Whether the gateway reads this format as this version writes it.
    #[must_use]
    pub fn reads(&self, name: &str) -> bool {
        !self.unread.contains(&name)
    }

    /// The formats that it does not read, in the order of [`formats`].
    #[must_use]
    pub fn unread(&self) -> &[&'static str] {
        &self.unread
    }
}

impl FromStr for Formats {
    type Err = FormatError;

    /// Formats that this version does not know are ignored: nothing is sent in them.
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let bad = || FormatError::Malformed("formats are a list of <format>=<version>");
        let mut theirs = Vec::new();
        for part in text.split(',') {
            let (name, version) = part.split_once('=').ok_or_else(bad)?;
            theirs.push((name, version.parse::<u8>().map_err(|_| bad())?));
        }
        let tables = Table::ALL.into_iter().filter(|table| table.is_sent());
        let tables = tables.map(|table| (table.name(), table.format()));
        let ours = std::iter::once(("sync", SYNC_FORMAT)).chain(tables);
        Ok(Self { unread: ours.filter(|format| !theirs.contains(format)).map(|(name, _)| name).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_what_the_readers_read() {
        let said = formats();
        let tables = "bans_base=1,countries=1,bans_overlay=1,allow=1,flags=2,geo=2,routes=5,limits=2,pages=1,shadow_bans=1,scoped_bans=1,scoped_sources=1";
        assert!(said.starts_with(&format!("sync=4,{tables}")), "{said}");
        assert_eq!(said.split(',').count(), Table::COUNT, "all but one that gateways alone have: {said}");
    }

    #[test]
    fn what_is_of_another_version_or_not_named_is_not_read() {
        let ours = formats();
        let formats = |text: &str| text.parse::<Formats>();
        assert_eq!(formats(&ours), Ok(Formats::default()));
        let more = format!("{ours},later=9");
        assert_eq!(formats(&more), Ok(Formats::default()));
        let behind = ours.replace("routes=5", "routes=4").replace(",limits=2", "");
        let behind = formats(&behind).unwrap();
        assert_eq!(behind.unread(), ["routes", "limits"]);
        assert!(behind.reads("bans_base") && behind.reads("sync") && !behind.reads("routes"));
        for bad in ["", "sync", "sync=", "sync=x", "sync=256", "sync=4,,allow=1"] {
            assert!(formats(bad).is_err(), "{bad}");
        }
    }
}
