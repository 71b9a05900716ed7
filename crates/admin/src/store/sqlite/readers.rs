//! Connections that read. They never wait for the writer, nor it for them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::file::connect_reader;
use super::shared::{Shared, locked};
use super::{failed, sql_error};
use crate::store::StoreError;

/// Reads at the same time.
const MAX_READERS: usize = 4;
/// How long a read waits in the few moments in which it must.
const READ_WAIT: Duration = Duration::from_secs(2);
/// Pause before a connection is tried again while the file is being replaced.
const RETRY: Duration = Duration::from_millis(5);

/// See the module.
pub(super) struct Readers {
    permits: Semaphore,
    /// Idle connections, each with the count of the file that it has open.
    idle: Mutex<Vec<(u64, Connection)>>,
}

impl Readers {
    pub(super) fn new() -> Self {
        Self { permits: Semaphore::new(MAX_READERS), idle: Mutex::new(Vec::new()) }
    }

    /// Runs `read` in a read transaction of its own, off the async threads. It is
    /// run again when the world moved meanwhile, so it must only read.
    pub(super) async fn read<T, F>(self: &Arc<Self>, shared: &Arc<Shared>, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let _permit = self.permits.acquire().await.map_err(|_| StoreError::Closed)?;
        let (readers, shared) = (Arc::clone(self), Arc::clone(shared));
        tokio::task::spawn_blocking(move || readers.read_now(&shared, &read))
            .await
            .map_err(|e| failed(format_args!("a read ended early: {e}")))?
    }

    fn read_now<T>(
        &self,
        shared: &Shared,
        read: &dyn Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let give_up = Instant::now() + READ_WAIT;
        while Instant::now() < give_up {
            let world = shared.world();
            let Some((file, mut conn)) = self.connection(shared).map_err(|e| sql_error(&e))? else {
                shared.queue.put_mend();
                std::thread::sleep(RETRY);
                continue;
            };
            let value = in_transaction(&mut conn, read).map_err(|e| sql_error(&e))?;
            if world == shared.world() {
                locked(&self.idle).push((file, conn));
                return Ok(value);
            }
        }
        Err(failed(format_args!("{} is being replaced", shared.path.display())))
    }

    /// `None`: another file is at the path, and the writer has not seen it yet.
    fn connection(&self, shared: &Shared) -> rusqlite::Result<Option<(u64, Connection)>> {
        let file = shared.file();
        let idle = {
            let mut idle = locked(&self.idle);
            idle.retain(|(of, _)| *of == file);
            idle.pop()
        };
        if idle.is_some() {
            return Ok(idle);
        }
        let new = connect_reader(&shared.path, READ_WAIT);
        if shared.is_in_place() && file == shared.file() {
            new.map(|conn| Some((file, conn)))
        } else {
            Ok(None)
        }
    }
}

/// Runs `read` in one read transaction: what it sees was true at one moment.
pub(super) fn in_transaction<T>(
    conn: &mut Connection,
    read: impl Fn(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = conn.transaction()?;
    let value = read(&transaction)?;
    transaction.finish()?;
    Ok(value)
}
