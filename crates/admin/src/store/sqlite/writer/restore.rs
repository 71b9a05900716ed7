//! Restores, in a transaction of the writer: what others write meanwhile waits for it, and is not refused.

use std::time::Instant;

use super::{TransactionEnd, Writer};
use crate::store::sqlite::backup;
use crate::store::sqlite::error::{failed, sql_error};
use crate::store::sqlite::queue::RestoreJob;
use crate::store::sqlite::tokens;
use crate::store::{Restored, StoreError};

/// What the audit calls what was put back.
const NAME: &str = "backup";

impl Writer {
    pub(super) fn restore(&mut self, job: RestoreJob) {
        let restored = self.restore_once(&job);
        self.note_failure(&restored);
        let RestoreJob { copy, reply, one_at_a_time, .. } = job;
        drop((copy, one_at_a_time));
        // The caller may be gone; what was put back is committed.
        drop(reply.send(restored));
    }

    fn restore_once(&mut self, job: &RestoreJob) -> Result<Restored, StoreError> {
        let deadline = Instant::now() + self.database.options.busy_for;
        // Nothing can be attached within a transaction, and another file would be opened at its begin.
        self.follow_file(deadline)?;
        job.copy.attach(&self.conn).map_err(|e| sql_error(&e))?;
        let restored = self.restore_attached(job, deadline);
        if restored.is_err() {
            self.rollback();
            self.forget();
        }
        if let Err(e) = backup::detach(&self.conn) {
            tracing::debug!("cannot detach a backup: {e}");
        }
        restored
    }

    fn restore_attached(&mut self, job: &RestoreJob, deadline: Instant) -> Result<Restored, StoreError> {
        self.begin(deadline)?;
        tokens::check_author(&self.conn, &job.by)?;
        let before = self.conn.total_changes();
        let restored = backup::put_back_attached(&self.conn, NAME, &job.by).map_err(|e| sql_error(&e))?;
        match self.end(before)? {
            TransactionEnd::Durable => Ok(restored),
            TransactionEnd::Lost => Err(failed("the database was replaced meanwhile")),
        }
    }
}
