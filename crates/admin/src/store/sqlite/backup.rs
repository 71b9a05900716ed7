//! Copies of the whole database, and what people wrote put back from one.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, params};
use serde_json::json;
use tokio::sync::mpsc;

use super::audit::Auditor;
use super::connection::connect_reader;
use super::error::{failed, sql_error};
use super::file::beside;
use super::integers::{from_sql, to_sql};
use super::schema::{self, SchemaError, Upgrade, read_state};
use super::{foreign_changes, meta, rollouts};
use crate::store::{Author, Restored, RestoredTable, StoreError, StoreTable, time_text};

/// How long a copy waits for a lock of another program, at most.
const COPY_WAIT: Duration = Duration::from_secs(2);
/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(20);
/// The copy of a backup whose rows are put back, as SQL names it.
const FROM: &str = "backup";

/// A copy of the database at `path`, as it was at one moment: an SQLite file that has no name any
/// more. Other programs go on writing meanwhile.
///
/// # Errors
/// When the database cannot be read, or there is no room for a copy beside it.
pub(super) fn copy(path: &Path) -> Result<File, StoreError> {
    let to = Scratch::new(path, ".backup").map_err(failed)?;
    let source = connect_reader(path, COPY_WAIT).map_err(|e| sql_error(&e))?;
    let mut target = Connection::open(&to.path).map_err(|e| sql_error(&e))?;
    copy_all(&source, &mut target)?;
    // One file, which needs none beside it.
    target.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(|e| sql_error(&e))?;
    target.close().map_err(|(_, e)| sql_error(&e))?;
    File::open(&to.path).map_err(failed)
}

/// All pages in one step: a copy in several begins anew whenever another connection writes.
fn copy_all(source: &Connection, target: &mut Connection) -> Result<(), StoreError> {
    let backup = Backup::new(source, target).map_err(|e| sql_error(&e))?;
    let give_up = Instant::now() + COPY_WAIT;
    loop {
        match backup.step(-1).map_err(|e| sql_error(&e))? {
            StepResult::Done => return Ok(()),
            _ if Instant::now() > give_up => return Err(StoreError::Busy),
            _ => std::thread::sleep(RETRY),
        }
    }
}

/// A file beside the database that is removed when it is dropped. It is locked meanwhile: of two
/// programs that want the same one, the second is refused.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    /// Creates the file, which only its owner may read; one that an ended process left is replaced.
    fn new(database: &Path, suffix: &str) -> io::Result<Self> {
        let path = beside(database, suffix);
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let in_use =
            || io::Error::other(format!("{} is in use: another program makes a copy", path.display()));
        file.try_lock().map_err(|_| in_use())?;
        // Its former owner may have removed it before it gave up the lock.
        if std::fs::metadata(&path).is_ok_and(|at_path| {
            file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (at_path.dev(), at_path.ino()))
        }) {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.set_len(0)?;
            let scratch = Self { path, file };
            scratch.remove(&SIDE_FILES);
            return Ok(scratch);
        }
        Err(in_use())
    }

    fn remove(&self, suffixes: &[&str]) {
        for suffix in suffixes {
            let _ = std::fs::remove_file(beside(&self.path, suffix));
        }
    }
}

/// Files that SQLite makes beside a database.
const SIDE_FILES: [&str; 3] = ["-journal", "-wal", "-shm"];

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove(&SIDE_FILES);
        self.remove(&[""]);
    }
}

/// Whether the file at `path` is a whole backup of this program's database, of its schema version or one
/// that can be upgraded. Returns the version.
///
/// # Errors
/// When it is not, with the reason.
pub(super) fn check(path: &Path) -> Result<i64, StoreError> {
    check_named(path, &path.display().to_string())
}

/// The same; errors call the file `name`.
fn check_named(path: &Path, name: &str) -> Result<i64, StoreError> {
    look_at(path).map_err(|why| no_backup(name, &why))
}

fn no_backup(name: &str, why: &str) -> StoreError {
    StoreError::NoBackup(format!("{name} is no backup that can be restored: {why}"))
}

fn look_at(path: &Path) -> Result<i64, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let told = |e: rusqlite::Error| e.to_string();
    let conn = Connection::open_with_flags(path, flags).map_err(told)?;
    let version = schema::version(&conn).map_err(told)?;
    if version == 0 {
        return Err("it is no database of the admin service".to_owned());
    }
    let ours = schema::VERSION;
    if !schema::is_upgradable(version) {
        return Err(format!("it has schema version {version}, and this program works with version {ours}"));
    }
    // One of an earlier version is looked at once more when it is upgraded.
    if version == ours {
        if let Some(missing) = missing_column(&conn)? {
            return Err(format!("it has no {missing}"));
        }
        if let Some(other) = not_a_table(&conn)? {
            return Err(format!("its {other} is no table"));
        }
    }
    // SQLite takes what is missing of the last page for zeros.
    let page: i64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(told)?;
    let bytes = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if !bytes.is_multiple_of(page.unsigned_abs()) {
        return Err("it is cut off within a page".to_owned());
    }
    let found: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(told)?;
    if found == "ok" { Ok(version) } else { Err(found) }
}

/// A column of the tables that are put back, as `table.column`, that there is not.
fn missing_column(conn: &Connection) -> Result<Option<String>, String> {
    let told = |e: rusqlite::Error| e.to_string();
    let ours = Connection::open_in_memory().map_err(told)?;
    schema::ensure(&ours, Upgrade::Refused).map_err(|e| e.to_string())?;
    for table in StoreTable::ALL.map(StoreTable::name) {
        let [wanted, found] = [&ours, conn].map(|conn| columns(conn, table).map_err(told));
        let (wanted, found) = (wanted?, found?);
        if let Some(missing) = wanted.into_iter().find(|column| !found.contains(column)) {
            return Ok(Some(format!("{table}.{missing}")));
        }
    }
    Ok(None)
}

/// One of the tables that are put back which is something else: a view may have rows without end.
fn not_a_table(conn: &Connection) -> Result<Option<&'static str>, String> {
    const TABLE: &str = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1 AND rootpage > 0";
    let mut look = conn.prepare(TABLE).map_err(|e| e.to_string())?;
    for table in StoreTable::ALL.map(StoreTable::name) {
        if !look.exists([table]).map_err(|e| e.to_string())? {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// The columns of a table of the database itself.
fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut columns = conn.prepare("SELECT name FROM pragma_table_info(?1)")?;
    columns.query_map(params![table], |row| row.get(0))?.collect()
}

/// A copy of a backup, beside the database `at`: reading it changes no file but the copy.
pub(super) struct BackupCopy(Scratch);

impl BackupCopy {
    /// Copies the backup at `path`, and checks the copy.
    ///
    /// # Errors
    /// When there is no room, or it is no backup.
    pub(super) fn of(path: &Path, at: &Path) -> Result<Self, StoreError> {
        let named = |e: io::Error| failed(format_args!("{}: {e}", path.display()));
        let mut from = File::open(path).map_err(named)?;
        let mut scratch = Scratch::new(at, ".restore").map_err(failed)?;
        // The content only: its permissions may let others read it.
        io::copy(&mut from, &mut scratch.file).map_err(named)?;
        // Somebody may have copied a database while it was open.
        match std::fs::copy(beside(path, "-wal"), beside(&scratch.path, "-wal")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named(e)),
            _ => {}
        }
        Self::checked(scratch, &path.display().to_string())
    }

    /// Takes the backup out of `pieces`, which end with `None`.
    ///
    /// # Errors
    /// When there is no room, it breaks off, or it is no backup.
    pub(super) fn received(mut pieces: mpsc::Receiver<Option<Bytes>>, at: &Path) -> Result<Self, StoreError> {
        let mut scratch = Scratch::new(at, ".upload").map_err(failed)?;
        let broken = || StoreError::NoBackup("the backup broke off".to_owned());
        while let Some(piece) = pieces.blocking_recv().ok_or_else(broken)? {
            scratch
                .file
                .write_all(&piece)
                .map_err(|e| failed(format_args!("{}: {e}", scratch.path.display())))?;
        }
        Self::checked(scratch, "what was sent")
    }

    /// Checks the copy, and upgrades one of an earlier schema version; `name`: what errors call it.
    fn checked(scratch: Scratch, name: &str) -> Result<Self, StoreError> {
        if check_named(&scratch.path, name)? != schema::VERSION {
            let conn = Connection::open(&scratch.path).map_err(|e| sql_error(&e))?;
            conn.execute_batch("BEGIN IMMEDIATE").map_err(|e| sql_error(&e))?;
            schema::ensure(&conn, Upgrade::Allowed).map_err(|error| match error {
                SchemaError::OtherProgram => no_backup(name, &error.to_string()),
                other => failed(other),
            })?;
            conn.execute_batch("COMMIT").map_err(|e| sql_error(&e))?;
            drop(conn);
            check_named(&scratch.path, name)?;
        }
        Ok(Self(scratch))
    }

    /// Puts back what people wrote into the database of `conn`: rows that are not in the backup are
    /// removed, those that differ are replaced, in one transaction. Their triggers write the change
    /// log, so that gateways follow these rows and no others. Events, tokens and audit stay.
    ///
    /// # Errors
    /// When the database cannot be written; then nothing was changed.
    pub(super) fn put_back(
        &self,
        conn: &Connection,
        name: &str,
        by: &Author,
    ) -> Result<Restored, StoreError> {
        let run = || -> rusqlite::Result<Restored> {
            self.attach(conn)?;
            conn.execute_batch("BEGIN IMMEDIATE")?;
            foreign_changes::audit(conn, read_state(conn)?.newest)?;
            let restored = put_back_attached(conn, name, by)?;
            meta::set(conn, meta::AUDITED, to_sql(restored.seq))?;
            conn.execute_batch("COMMIT")?;
            Ok(restored)
        };
        // A connection that is closed within a transaction rolls it back.
        run().map_err(|e| sql_error(&e))
    }

    /// What [`put_back`](Self::put_back) would change in the database of `conn`, which is only read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn compare(&self, conn: &Connection) -> Result<Restored, StoreError> {
        let run = || -> rusqlite::Result<Restored> {
            self.attach(conn)?;
            conn.execute_batch("BEGIN")?;
            let tables = StoreTable::ALL.map(|table| compare_table(conn, table));
            let tables = tables.into_iter().collect::<rusqlite::Result<Vec<_>>>()?;
            let seq = read_state(conn)?.newest;
            conn.execute_batch("ROLLBACK")?;
            Ok(Restored { seq, tables })
        };
        run().map_err(|e| sql_error(&e))
    }

    /// Lets `conn`, which is in no transaction, see the copy.
    pub(super) fn attach(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.execute(&format!("ATTACH ?1 AS {FROM}"), [self.0.path.display().to_string()])?;
        Ok(())
    }
}

/// Ends what [`BackupCopy::attach`] began.
pub(super) fn detach(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(&format!("DETACH {FROM}"))
}

/// Puts back what the copy has that `conn` sees, in the write transaction that it is in, with its entry of the audit.
pub(super) fn put_back_attached(conn: &Connection, name: &str, by: &Author) -> rusqlite::Result<Restored> {
    let tables = StoreTable::ALL.map(|table| put_back_table(conn, table));
    let tables = tables.into_iter().collect::<rusqlite::Result<Vec<_>>>()?;
    let now = time_text::from_ms(time_text::now_ms());
    Auditor::new(conn, by, &now).write("restore", name, None, Some(json!(tables).to_string()))?;
    Ok(Restored { seq: read_state(conn)?.newest, tables })
}

/// The SQL by which a table is put back.
struct TableSql {
    name: &'static str,
    /// The columns of its key, with commas between them.
    key: String,
    columns: Vec<String>,
}

impl TableSql {
    fn of(conn: &Connection, table: StoreTable) -> rusqlite::Result<Self> {
        let key = table.key_columns().join(", ");
        Ok(Self { name: table.name(), key, columns: columns(conn, table.name())? })
    }

    /// Which rows of `one` have a key that `other` does not have.
    fn only_in(&self, one: &str, other: &str) -> String {
        let Self { name, key, .. } = self;
        format!("FROM {one}.{name} WHERE ({key}) NOT IN (SELECT {key} FROM {other}.{name})")
    }

    /// The rows of the backup that are not as they are here.
    fn different(&self) -> String {
        let (name, all) = (self.name, self.columns.join(", "));
        format!("SELECT {all} FROM {FROM}.{name} EXCEPT SELECT {all} FROM main.{name}")
    }
}

fn count(conn: &Connection, what: &str) -> rusqlite::Result<u64> {
    conn.query_row(&format!("SELECT count(*) {what}"), [], |row| row.get(0)).map(from_sql)
}

fn compare_table(conn: &Connection, table: StoreTable) -> rusqlite::Result<RestoredTable> {
    let sql = TableSql::of(conn, table)?;
    let added = count(conn, &sql.only_in(FROM, "main"))?;
    let removed = count(conn, &sql.only_in("main", FROM))?;
    let written = count(conn, &format!("FROM ({})", sql.different()))?;
    Ok(RestoredTable { table: sql.name, added, changed: written.saturating_sub(added), removed })
}

fn put_back_table(conn: &Connection, table: StoreTable) -> rusqlite::Result<RestoredTable> {
    let sql = TableSql::of(conn, table)?;
    let TableSql { name, key, columns } = &sql;
    let added = count(conn, &sql.only_in(FROM, "main"))?;
    let removed = conn.execute(&format!("DELETE {}", sql.only_in("main", FROM)), [])? as u64;
    let set: Vec<_> = columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
    let written = format!(
        "INSERT INTO main.{name} ({}) {} WHERE true ON CONFLICT ({key}) DO UPDATE SET {}",
        columns.join(", "),
        sql.different(),
        set.join(", ")
    );
    let written = conn.execute(&written, [])? as u64;
    Ok(RestoredTable { table: name, added, changed: written.saturating_sub(added), removed })
}

/// Puts a whole backup, events, tokens and audit included, where there is no database yet.
///
/// # Errors
/// When it is no backup, or there is a file at `to`.
pub(super) fn place(backup: &Path, to: &Path) -> Result<(), StoreError> {
    let copy = BackupCopy::of(backup, to)?;
    let conn = Connection::open(&copy.0.path).map_err(|e| sql_error(&e))?;
    rollouts::pause_restored(&conn, time_text::now_ms()).map_err(|e| sql_error(&e))?;
    conn.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(|e| sql_error(&e))?;
    conn.close().map_err(|(_, e)| sql_error(&e))?;
    // A link, unlike a rename, replaces nothing.
    std::fs::hard_link(&copy.0.path, to).map_err(|e| failed(format_args!("{}: {e}", to.display())))
}
