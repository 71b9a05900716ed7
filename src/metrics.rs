//! The filter's metrics in Envoy's statistics. The names are an interface:
//! `docs/METRICS.md` lists them, and a test compares the two.
//!
//! Counts of requests and events are added up in the VM and handed to Envoy at
//! the next flush (after 50 ms at most): a host call per count would cost more
//! than the rest of counting.

mod figures;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use tidegate_policy::flags::{Flag, Flags};
use tidegate_policy::tables::{PerTable, Table};

use crate::host::{Host, MetricId, MetricKind};

pub use figures::{COUNTS, Count, GAUGES, Gauge, QUEUE_BYTES};

/// A VM's view of the process's metrics.
pub struct Metrics<H> {
    host: H,
    counts: [(Option<MetricId>, Cell<u64>); COUNTS.len()],
    gauges: [GaugeSlot; GAUGES.len()],
    /// How many entries each table has. The flags have none.
    entries: PerTable<GaugeSlot>,
}

/// A gauge, unless the host refused it, and the value that this VM set last.
type GaugeSlot = (Option<MetricId>, Cell<Option<u64>>);

impl<H: Host> Metrics<H> {
    /// Defines all metrics, or finds them again. One that the host refuses is
    /// left out: requests are served without it.
    pub fn new(host: H) -> Self {
        let define = |kind, name: &str| host.define_metric(kind, name).ok();
        let counts = COUNTS.map(|(_, name)| (define(MetricKind::Counter, name), Cell::new(0)));
        let gauges = GAUGES.map(|(_, name)| (define(MetricKind::Gauge, name), Cell::new(None)));
        // Each flag has a gauge of its own instead.
        let entries = PerTable::from_fn(|table| match table {
            Table::Flags => (None, Cell::new(None)),
            _ => (define(MetricKind::Gauge, &entries_name(table)), Cell::new(None)),
        });
        Self { host, counts, gauges, entries }
    }

    /// Counts one; Envoy sees it at the next [`flush`](Self::flush).
    pub fn count(&self, what: Count) {
        self.add(what, 1);
    }

    /// Counts several.
    pub fn add(&self, what: Count, by: u64) {
        if let Some((_, waiting)) = self.counts.get(what as usize) {
            waiting.set(waiting.get().saturating_add(by));
        }
    }

    /// Hands over what was counted since the last time.
    pub fn flush(&self) {
        for (metric, waiting) in &self.counts {
            let by = waiting.replace(0);
            if by > 0
                && let Some(metric) = metric
            {
                let _ = self.host.add_metric(*metric, i64::try_from(by).unwrap_or(i64::MAX));
            }
        }
    }

    /// Sets a gauge, if it is not what this VM set last.
    pub fn set(&self, what: Gauge, value: u64) {
        if let Some(gauge) = self.gauges.get(what as usize) {
            self.set_slot(gauge, value);
        }
    }

    fn set_slot(&self, (metric, last): &GaugeSlot, value: u64) {
        if let Some(metric) = metric
            && last.replace(Some(value)) != Some(value)
        {
            let _ = self.host.set_metric(*metric, value);
        }
    }

    /// Sets the gauges of the tables' entries.
    pub fn set_entries(&self, entries: &PerTable<Option<usize>>) {
        for (table, entries) in entries.iter() {
            if let Some(entries) = entries {
                self.set_slot(&self.entries[table], *entries as u64);
            }
        }
    }

    /// Sets the flags' gauges: the share of the clients for which each is on where it is, in percent.
    pub fn set_flags(&self, flags: &Flags) {
        for flag in Flag::ALL {
            self.set(Gauge::flag(flag), flags.get(flag).percent().into());
        }
    }

    /// Sets a gauge even if this VM set the same value last: another VM may have set
    /// another one since.
    pub fn reset(&self, what: Gauge, value: u64) {
        if let Some((Some(metric), last)) = self.gauges.get(what as usize) {
            last.set(Some(value));
            let _ = self.host.set_metric(*metric, value);
        }
    }
}

/// The name of the gauge that shows how many entries a table has.
fn entries_name(table: Table) -> String {
    ["tidegate.tables.", table.name(), ".entries"].concat()
}
