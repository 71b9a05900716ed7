//! Counters of one write transaction over the events whose numbers the ledger takes in it:
//! checks, client addresses, and events without their end. Each event counts once.

use std::net::IpAddr;

use rusqlite::Connection;
use tidegate_policy::wire::event::TrafficEvent;

use super::check_counts::CheckTotals;
use super::integers::to_sql;
use super::recording_stats;
use super::top_addresses::TopAddresses;

/// Counts of one transaction, not yet written.
#[derive(Default)]
pub(super) struct EventCounts {
    checks: CheckTotals,
    addresses: Vec<(IpAddr, i64)>,
    /// How many more (or, negative, fewer) events the ledger has without their end.
    incomplete: i64,
}

impl EventCounts {
    /// Counts an event that entered the ledger.
    pub(super) fn add(&mut self, event: &TrafficEvent) {
        self.checks.add(event);
        if let Some(address) = event.client {
            self.addresses.push((address, to_sql(event.time_ms)));
        }
    }

    /// Counts an event that entered the ledger without its end.
    pub(super) fn add_incomplete(&mut self, event: &TrafficEvent) {
        self.add(event);
        self.incomplete += 1;
    }

    /// Counts the end of an event that was counted without it.
    pub(super) fn completed(&mut self) {
        self.incomplete -= 1;
    }

    /// Writes the counts, before the transaction is committed. If it is not committed, `top` must
    /// be loaded again.
    pub(super) fn write(self, conn: &Connection, top: &mut TopAddresses) -> rusqlite::Result<()> {
        self.checks.write(conn)?;
        for (address, time_ms) in self.addresses {
            top.note(address, time_ms);
        }
        recording_stats::add_incomplete(conn, self.incomplete)?;
        // The rows of `events` do not show whether an event without its end was counted, so such
        // counts of addresses are written at once.
        if top.is_due() || self.incomplete != 0 {
            top.write(conn)?;
        }
        Ok(())
    }
}
