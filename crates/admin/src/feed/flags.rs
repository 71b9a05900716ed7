//! Rows of `flags`. A flag without a row, or with one that cannot be understood,
//! is off.

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::flags::{Flag, FlagState, Flags};

use super::fingerprint::describe;
use super::snapshot::Snapshot;
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

impl Snapshot {
    /// Takes flags as they now stand; `None`: deleted.
    pub(super) fn apply_flags(&mut self, changes: Vec<(String, Option<FlagRow>)>) {
        for (name, row) in changes {
            self.note_row(StoreTable::Flags, &name, row.as_ref());
            let flag = named(&name);
            if let Ok(flag) = flag {
                self.flags = self.flags.with(flag, FlagState::Off);
            }
            let Some(row) = row else { continue };
            match flag.and_then(|flag| Ok((flag, read(flag, &row)?))) {
                Ok((flag, state)) => self.flags = self.flags.with(flag, state),
                Err(why) => self.set_aside(StoreTable::Flags, &name, why),
            }
        }
    }

    /// Forgets all flags and takes these.
    pub(super) fn replace_flags(&mut self, rows: Vec<FlagRow>) {
        self.flags = Flags::default();
        self.forget_rows(StoreTable::Flags);
        self.apply_flags(rows.into_iter().map(|row| (row.name.clone(), Some(row))).collect());
    }
}
