//! Keys of `ip_monitor` that mean the same prefix in different spelling: `9.9.9.9/32` is
//! an alias of `9.9.9.9`.

use std::collections::HashMap;

use rusqlite::{Connection, params};
use tidegate_policy::address::Prefix;

use super::integers::to_sql;
use super::schema::read_state;

/// Keys of `ip_monitor` that are not in canonical form, by the prefix that they mean. With it a
/// ban replaces every spelling of its prefix without reading the table.
#[derive(Default)]
pub(super) struct AddressAliases {
    others: HashMap<Prefix, Vec<String>>,
    /// The change log was read up to this `seq`; `None`: nothing was read yet.
    upto: Option<u64>,
}

/// The prefix that `key` means, if it is not in canonical form.
fn unusual(key: &str) -> Option<Prefix> {
    let prefix: Prefix = key.parse().ok()?;
    (prefix.to_string() != key).then_some(prefix)
}

impl AddressAliases {
    /// Drops everything: the table was changed in an unknown way.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The `seq` up to which the change log was read.
    pub(super) fn upto(&self) -> Option<u64> {
        self.upto
    }

    /// Reads at most `steps` further rows of the change log or, the first time, the whole table.
    /// An alias too many is harmless, one too few is not: whoever rolls back a transaction in
    /// which this was called must [`Self::reset`].
    pub(super) fn follow(&mut self, conn: &Connection, steps: usize) -> rusqlite::Result<()> {
        let newest = read_state(conn)?.newest;
        let Some(upto) = self.upto else { return self.read_all(conn, newest) };
        if upto >= newest {
            return Ok(());
        }
        let mut log = conn.prepare_cached(
            "SELECT seq, key FROM change_log WHERE seq > ?1 AND tbl = 'ip_monitor' ORDER BY seq LIMIT ?2",
        )?;
        let limit = to_sql(steps as u64);
        let mut rows = log.query(params![to_sql(upto), limit])?;
        let (mut seen, mut last) = (0, upto);
        while let Some(row) = rows.next()? {
            seen += 1;
            last = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(last);
            let Ok(key) = row.get_ref(1)?.as_str() else { continue };
            if let Some(prefix) = unusual(key) {
                self.note(conn, prefix, key)?;
            }
        }
        self.upto = Some(if seen < steps { newest } else { last });
        Ok(())
    }

    fn read_all(&mut self, conn: &Connection, newest: u64) -> rusqlite::Result<()> {
        let mut all = conn.prepare("SELECT ip FROM ip_monitor")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let Ok(key) = row.get_ref(0)?.as_str() else { continue };
            if let Some(prefix) = unusual(key) {
                self.others.entry(prefix).or_default().push(key.to_owned());
            }
        }
        self.upto = Some(newest);
        Ok(())
    }

    fn note(&mut self, conn: &Connection, prefix: Prefix, key: &str) -> rusqlite::Result<()> {
        let there = conn.prepare_cached("SELECT 1 FROM ip_monitor WHERE ip = ?1")?.exists([key])?;
        let known = self.others.entry(prefix).or_default();
        known.retain(|k| k != key);
        if there {
            known.push(key.to_owned());
        } else if known.is_empty() {
            self.others.remove(&prefix);
        }
        Ok(())
    }

    /// The aliases of `prefix`; rows of some may no longer exist.
    pub(super) fn of(&self, prefix: Option<Prefix>) -> Vec<String> {
        prefix.and_then(|p| self.others.get(&p)).cloned().unwrap_or_default()
    }
}
