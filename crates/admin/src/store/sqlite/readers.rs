//! Pool of read connections (4 at most). Readers and the writer do not wait for each other,
//! because the database is in WAL mode.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::connection::{connect_reader, in_transaction};
use super::database::Database;
use super::error::{failed, sql_error};
use super::faults::Work;
use crate::lock::locked;
use crate::store::StoreError;

/// Reads at the same time, at most.
const MAX_READERS: usize = 4;
/// How long a read waits for a lock, or for a replaced file, at most.
pub(super) const READ_WAIT: Duration = Duration::from_secs(2);
/// Pause between attempts while the file is being replaced.
const RETRY: Duration = Duration::from_millis(5);

/// The pool of read connections.
pub(super) struct Readers {
    permits: Arc<Semaphore>,
    /// Idle connections, each with [`Database::file()`] when it was opened.
    idle: Mutex<Vec<(u64, Connection)>>,
}

impl Readers {
    pub(super) fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_READERS)), idle: Mutex::new(Vec::new()) }
    }

    /// Runs `read` in a read transaction, on a blocking thread. It is repeated if the database
    /// was replaced or restored meanwhile, so it must only read. `name` is how health calls it if
    /// it fails.
    pub(super) async fn read<T, F>(
        self: &Arc<Self>,
        database: &Arc<Database>,
        name: &'static str,
        read: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (readers, database) = (Arc::clone(self), Arc::clone(database));
        let work = move || {
            // It is read to the end, whoever still waits for it.
            let _permit = permit;
            let value = readers.read_now(&database, &read);
            database.faults.note(Work::Read(name), &value);
            value
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| failed(format_args!("a read ended early: {e}")))?
    }

    fn read_now<T>(
        &self,
        database: &Database,
        read: &dyn Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let give_up = Instant::now() + READ_WAIT;
        while Instant::now() < give_up {
            let generation = database.generation();
            let Some((file, mut conn)) = self.connection(database).map_err(|e| sql_error(&e))? else {
                database.queue.put_repair();
                std::thread::sleep(RETRY);
                continue;
            };
            let value = in_transaction(&mut conn, read).map_err(|e| sql_error(&e))?;
            if generation == database.generation() {
                locked(&self.idle).push((file, conn));
                return Ok(value);
            }
        }
        Err(failed(format_args!("{} is being replaced", database.path.display())))
    }

    /// An idle or new connection; `None`: another file is at the path, and the writer has not
    /// opened it yet.
    fn connection(&self, database: &Database) -> rusqlite::Result<Option<(u64, Connection)>> {
        let file = database.file();
        let idle = {
            let mut idle = locked(&self.idle);
            idle.retain(|(of, _)| *of == file);
            idle.pop()
        };
        if idle.is_some() {
            return Ok(idle);
        }
        let new = connect_reader(&database.path, READ_WAIT);
        if database.is_in_place() && file == database.file() {
            new.map(|conn| Some((file, conn)))
        } else {
            Ok(None)
        }
    }
}
