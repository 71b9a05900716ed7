//! Rows of `flags`. A flag without a row, or with an invalid one, is off.

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::flags::{Flag, FlagState, Flags};

use super::documents::describe;
use super::fingerprint::FingerprintedRow;
use super::row_index::RowIndex;
use crate::store::{FlagRow, StoreTable};

fn read(flag: Flag, row: &FlagRow) -> Result<FlagState, String> {
    let value: Value = serde_json::from_str(&row.value).map_err(|error| {
        format!("not JSON: {error}: write false, true, \"shadow\" or {{\"percent\": 25}}")
    })?;
    author::read_flag(flag, &value).map_err(|problem| describe(&[problem]))
}

fn named(name: &str) -> Result<Flag, String> {
    Flag::named(name).ok_or_else(|| {
        let known = Flag::ALL.map(Flag::name).join(", ");
        format!("there is no flag of this name: there are {known}")
    })
}

impl FingerprintedRow for FlagRow {
    fn key(&self) -> &str {
        &self.name
    }

    fn fields(&self) -> [Option<&[u8]>; 3] {
        [Some(self.value.as_bytes()), self.updated_at.as_deref().map(str::as_bytes), None]
    }
}

/// Applies changed flags; `None`: deleted.
pub(super) fn apply(flags: &mut Flags, index: &mut RowIndex, changes: Vec<(String, Option<FlagRow>)>) {
    for (name, row) in changes {
        index.note(StoreTable::Flags, &name, row.as_ref());
        let flag = named(&name);
        if let Ok(flag) = flag {
            *flags = std::mem::take(flags).with(flag, FlagState::Off);
        }
        let Some(row) = row else { continue };
        match flag.and_then(|flag| Ok((flag, read(flag, &row)?))) {
            Ok((flag, state)) => *flags = std::mem::take(flags).with(flag, state),
            Err(why) => index.quarantine(StoreTable::Flags, &name, why),
        }
    }
}

/// Replaces all flags by these.
pub(super) fn replace(flags: &mut Flags, index: &mut RowIndex, rows: Vec<FlagRow>) {
    *flags = Flags::default();
    index.forget(StoreTable::Flags);
    apply(flags, index, rows.into_iter().map(|row| (row.name.clone(), Some(row))).collect());
}
