//! The database's schema. Old `sqlite3` programs write the database too, so nothing here, and
//! nothing that runs in their connections, needs more than SQLite 3.31.

pub(super) mod ddl;
mod upgrades;

use rusqlite::Connection;

use super::integers::from_sql;

/// `PRAGMA user_version` of this schema; 0 is an empty database.
pub(super) const VERSION: i64 = 15;

/// `change_log.tbl` of a mark: all tables must be read again.
pub(super) const RELOAD: &str = "!reload";
/// `change_log.tbl` of a mark: all tables must be read again, and earlier numbers no longer
/// count.
pub(super) const EPOCH: &str = "!epoch";
/// In front of a table's name in `change_log.tbl`: this key became the next row's.
pub(super) const MOVED: &str = ">";

/// Two numbers that show whether the database was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DatabaseState {
    /// SQLite's schema cookie: changes with every change of the schema, and with `.restore` and
    /// `VACUUM`.
    pub(super) schema: i64,
    /// The newest `seq`; 0 when the log is empty.
    pub(super) newest: u64,
}

/// Reads both, in the transaction that `conn` is in.
pub(super) fn read_state(conn: &Connection) -> rusqlite::Result<DatabaseState> {
    let schema = conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?;
    let newest = conn
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM change_log")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)));
    let newest = match newest {
        Ok(newest) => newest,
        // Another program dropped the table. The schema cookie has changed, which leads to a
        // repair.
        Err(e) if e.to_string().contains("no such table") => 0,
        Err(e) => return Err(e),
    };
    Ok(DatabaseState { schema, newest: from_sql(newest) })
}

/// Whether a database of this schema version becomes one of [`VERSION`], or is one.
pub(super) fn is_upgradable(version: i64) -> bool {
    (upgrades::OLDEST..=VERSION).contains(&version)
}

/// `PRAGMA user_version`.
pub(super) fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Why the schema could not be repaired.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    /// Another version of this program wrote it.
    #[error(
        "the database has schema version {found}, and this program works with version {VERSION}, and upgrades \
         {oldest} and later while no service has it: start the program that wrote it, or give this one a new file",
        oldest = upgrades::OLDEST
    )]
    OtherVersion {
        /// `PRAGMA user_version`.
        found: i64,
    },
    /// It has tables, and none of ours.
    #[error("this is a database of another program: nothing was changed in it")]
    OtherProgram,
    /// An error of SQLite.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

/// Whether a database of an earlier schema version may be upgraded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Upgrade {
    /// No service of that version can have it open.
    Allowed,
    /// One may.
    Refused,
}

/// Creates what is missing and repairs the triggers, in the write transaction that `conn` is in;
/// upgrades a database of an earlier schema version. Returns what had to be put back: nothing in an
/// empty database and in one that is as we left it.
///
/// # Errors
/// When the database has another schema version or is another program's (it is left as it is), or
/// SQLite refuses.
pub(super) fn ensure(conn: &Connection, upgrade: Upgrade) -> Result<Vec<String>, SchemaError> {
    if is_of_another_program(conn)? {
        return Err(SchemaError::OtherProgram);
    }
    let found = version(conn)?;
    let mut is_new = found == 0;
    if found != VERSION && is_upgradable(found) && upgrade == Upgrade::Allowed {
        upgrades::run(conn, found)?;
        conn.execute_batch(&format!("PRAGMA user_version = {VERSION}"))?;
        // Its triggers are not put back: they are others now.
        is_new = true;
        tracing::info!(from = found, to = VERSION, "the database was upgraded to this schema version");
    } else if !is_new && found != VERSION {
        return Err(SchemaError::OtherVersion { found });
    }
    let missing = missing_objects(conn)?;
    if is_new || !missing.is_empty() {
        conn.execute_batch(&ddl::create())?;
        if missing.iter().any(|name| *name == ddl::LISTENERS) {
            conn.execute_batch(&ddl::first_listeners())?;
        }
        conn.execute_batch(&format!("PRAGMA user_version = {VERSION}"))?;
    }
    let mut put_back = if is_new { Vec::new() } else { missing };
    for (name, text) in wrong_triggers(conn)? {
        conn.execute_batch(&format!("DROP TRIGGER IF EXISTS {name}; {text}"))?;
        if !is_new {
            put_back.push(format!("trigger {name}"));
        }
    }
    Ok(put_back)
}

/// Whether there are tables, and none of those whose names are our own.
fn is_of_another_program(conn: &Connection) -> rusqlite::Result<bool> {
    let ours = "name IN ('change_log', 'ip_monitor', 'former_rows', 'traffic_events')";
    let sql =
        format!("SELECT count(*) > 0 AND NOT max({ours}) FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'");
    conn.query_row(&sql, [], |row| row.get(0))
}

/// Our objects that another program dropped.
fn missing_objects(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare("SELECT 1 FROM sqlite_master WHERE name = ?1")?;
    let mut missing = Vec::new();
    for name in ddl::objects() {
        if !statement.exists([name])? {
            missing.push(name.to_owned());
        }
    }
    Ok(missing)
}

/// Triggers that are missing or differ from ours.
fn wrong_triggers(conn: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement =
        conn.prepare("SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = ?1 AND sql = ?2")?;
    let mut wrong = Vec::new();
    for (name, text) in ddl::triggers() {
        if !statement.exists([&name, &text])? {
            wrong.push((name, text));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreTable;

    #[test]
    fn twice_is_once_and_what_is_dropped_comes_back() {
        let conn = Connection::open_in_memory().unwrap();
        assert!(ensure(&conn, Upgrade::Allowed).unwrap().is_empty());
        let before = read_state(&conn).unwrap();
        assert!(ensure(&conn, Upgrade::Allowed).unwrap().is_empty());
        assert_eq!(read_state(&conn).unwrap(), before);
        conn.execute_batch("DROP TABLE change_log").unwrap();
        assert_eq!(read_state(&conn).unwrap().newest, 0);
        conn.execute_batch("DROP TRIGGER routes_updated; DROP VIEW traffic_events; DROP TABLE ip_monitor")
            .unwrap();
        let put_back = ensure(&conn, Upgrade::Allowed).unwrap().join(",");
        assert!(
            put_back.contains("ip_monitor,change_log,traffic_events,trigger ip_monitor_inserted"),
            "{put_back}"
        );
        assert!(put_back.contains("trigger routes_updated"), "{put_back}");
        assert!(ensure(&conn, Upgrade::Allowed).unwrap().is_empty());
    }

    #[test]
    fn a_database_of_another_program_is_left_as_it_is() {
        for version in [0, upgrades::OLDEST, VERSION] {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(&format!("CREATE TABLE tokens (x); PRAGMA user_version = {version}")).unwrap();
            let before = read_state(&conn).unwrap();
            assert!(matches!(ensure(&conn, Upgrade::Allowed), Err(SchemaError::OtherProgram)), "{version}");
            assert_eq!(read_state(&conn).unwrap(), before);
        }
    }

    #[test]
    fn the_first_listeners_come_with_their_table_and_not_again() {
        let conn = Connection::open_in_memory().unwrap();
        let names = || {
            let mut names = conn.prepare("SELECT group_concat(name) FROM listeners").unwrap();
            names.query_row([], |row| row.get::<_, Option<String>>(0)).unwrap()
        };
        ensure(&conn, Upgrade::Allowed).unwrap();
        assert_eq!(names().as_deref(), Some("http,https"));
        conn.execute_batch("DELETE FROM listeners").unwrap();
        ensure(&conn, Upgrade::Allowed).unwrap();
        assert_eq!(names(), None);
        // A database of a version that had no listeners.
        conn.execute_batch("DROP TABLE listeners").unwrap();
        ensure(&conn, Upgrade::Allowed).unwrap();
        assert_eq!(names().as_deref(), Some("http,https"));
    }

    #[test]
    fn every_object_that_is_created_is_put_back_when_it_is_missing() {
        let conn = Connection::open_in_memory().unwrap();
        ensure(&conn, Upgrade::Allowed).unwrap();
        let mut created = conn
            .prepare("SELECT name FROM sqlite_master WHERE type <> 'trigger' AND name NOT LIKE 'sqlite_%'")
            .unwrap();
        let mut created: Vec<String> =
            created.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut known: Vec<&str> = ddl::objects().collect();
        created.sort_unstable();
        known.sort_unstable();
        assert_eq!(created, known);
    }

    #[test]
    fn every_column_of_the_events_is_described() {
        let conn = Connection::open_in_memory().unwrap();
        ensure(&conn, Upgrade::Allowed).unwrap();
        let mut columns = conn.prepare("SELECT name FROM pragma_table_info('traffic_events')").unwrap();
        let columns: Vec<String> =
            columns.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let docs = include_str!("../../../../../docs/API.md");
        let (_, section) = docs.split_once("### The table `traffic_events`").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let described = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(columns, described.collect::<Vec<_>>());
    }

    #[test]
    fn another_schema_version_is_refused_with_what_to_do() {
        let oldest = upgrades::OLDEST;
        for (other, upgrade) in
            [(oldest - 1, Upgrade::Allowed), (99, Upgrade::Allowed), (oldest, Upgrade::Refused)]
        {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(&format!("PRAGMA user_version = {other}")).unwrap();
            let refused = ensure(&conn, upgrade).unwrap_err().to_string();
            let wanted = format!("schema version {other}, and this program works with version {VERSION}");
            assert!(refused.contains(&wanted), "{refused}");
            assert!(refused.contains("start the program that wrote it"), "{refused}");
        }
    }

    /// All objects as SQL, without blanks.
    fn objects(conn: &Connection) -> Vec<String> {
        let mut all =
            conn.prepare("SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY type, name").unwrap();
        let objects =
            all.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
        let one = |(name, sql): (String, String)| {
            format!("{name}: {}", sql.replace(|c: char| c.is_whitespace() || c == '"', ""))
        };
        objects.map(Result::unwrap).map(one).collect()
    }

    #[test]
    fn an_upgraded_database_is_like_a_new_one_and_keeps_its_rows() {
        let (old, new) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        ensure(&new, Upgrade::Allowed).unwrap();
        ensure(&old, Upgrade::Allowed).unwrap();
        old.execute_batch(upgrades::tests::BACK_TO_3).unwrap();
        assert!(ensure(&old, Upgrade::Allowed).unwrap().is_empty());
        assert_eq!(objects(&old), objects(&new));
        for table in StoreTable::ALL.map(StoreTable::name) {
            let count = format!("SELECT count(*) FROM {table}");
            let [found, wanted] =
                [&old, &new].map(|conn| conn.query_row(&count, [], |row| row.get::<_, i64>(0)).unwrap());
            assert_eq!(found, wanted, "{table}");
        }
        let token = "SELECT hash || name || role || created_at FROM tokens";
        let token: String = old.query_row(token, [], |row| row.get(0)).unwrap();
        assert_eq!(token, "haliceadmin2026-01-02");
        let found = super::super::audit::check(&old, None).unwrap();
        assert_eq!((found.entries, found.faults.len()), (2, 0), "{found:?}");
        assert_eq!(super::super::meta::get(&old, super::super::meta::AUDITED).unwrap(), 1);
    }

    #[test]
    fn a_backup_of_an_earlier_version_is_upgraded_and_restored() {
        use crate::store::sqlite::SqliteStore;
        use crate::store::tests::support::ban;

        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.db"), dir.path().join("new.db"));
        let by = "test".into();
        SqliteStore::commit_beside(&old, &ban("9.9.9.9"), &by).unwrap();
        SqliteStore::commit_beside(&new, &ban("7.7.7.7"), &by).unwrap();
        Connection::open(&old).unwrap().execute_batch(upgrades::tests::BACK_TO_3).unwrap();
        let tables = SqliteStore::restore_beside(&new, &old, &by, false).unwrap().unwrap();
        assert_eq!((tables[0].table, tables[0].added, tables[0].removed), ("ip_monitor", 1, 1));
        assert_eq!(version(&Connection::open(&old).unwrap()).unwrap(), 3, "the backup itself is as it was");
        let place = dir.path().join("place.db");
        assert_eq!(SqliteStore::restore_beside(&place, &old, &by, false).unwrap(), None);
        assert_eq!(version(&Connection::open(&place).unwrap()).unwrap(), VERSION);
    }
}
