//! Connections that read. They never wait for the writer, nor it for them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::file::connect_reader;
use super::shared::{Shared, locked};
use super::{failed, sql_error};
use crate::store::StoreError;

/// Reads at the same time.
const MAX_READERS: usize = 4;
/// How long a read waits in the few moments in which SQLite makes one wait.
const READ_WAIT: Duration = Duration::from_secs(2);
/// Times that a read is repeated because the world moved meanwhile.
const TRIES: usize = 10;

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
        for _ in 0..TRIES {
            let world = shared.world();
            let (file, mut conn) = self.connection(shared).map_err(|e| sql_error(&e))?;
            let value = in_transaction(&mut conn, read).map_err(|e| sql_error(&e))?;
            if world == shared.world() {
                locked(&self.idle).push((file, conn));
                return Ok(value);
            }
        }
        Err(failed("the database is being replaced again and again"))
    }

    fn connection(&self, shared: &Shared) -> rusqlite::Result<(u64, Connection)> {
        let file = shared.file();
        let idle = {
            let mut idle = locked(&self.idle);
            idle.retain(|(of, _)| *of == file);
            idle.pop()
        };
        match idle {
            Some(found) => Ok(found),
            None => Ok((file, connect_reader(&shared.path, READ_WAIT)?)),
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
