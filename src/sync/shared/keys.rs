//! The names in shared data: a fixed set, because nothing there can be deleted.

use tidegate_policy::tables::Table;

/// Schema of everything below the prefix. Two versions of the filter may run on one
/// `vm_id` for a while; with other numbers they do not see each other. The number of
/// tables stands beside it: the manifest has one entry per table.
const SCHEMA: u32 = 4;

/// Slots of a process. Envoy runs one VM per worker plus one or two on the main
/// thread, so this is far over any machine's need.
pub const SLOTS: u16 = 256;

/// Names of the keys and queues of one instance: one admin service, as one
/// plugin configuration names it. Istio gives every plugin the same empty
/// `vm_id`, so the instance is part of every name.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Names for the instance, a hash of admin cluster and authority.
    #[must_use]
    pub fn new(instance: u64) -> Self {
        Self { prefix: format!("tidegate/{SCHEMA}.{}/{instance:016x}/", Table::COUNT) }
    }

    fn name(&self, rest: std::fmt::Arguments<'_>) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// The queue that carries sealed batches of events to the holder of the lease.
    #[must_use]
    pub fn events(&self) -> String {
        self.name(format_args!("events"))
    }

    /// The process id, minted once.
    #[must_use]
    pub fn process(&self) -> String {
        self.name(format_args!("process"))
    }

    /// Who pulls, publishes and drains.
    #[must_use]
    pub fn lease(&self) -> String {
        self.name(format_args!("lease"))
    }

    /// What is published.
    #[must_use]
    pub fn manifest(&self) -> String {
        self.name(format_args!("manifest"))
    }

    /// A VM's slot.
    #[must_use]
    pub fn slot(&self, slot: u16) -> String {
        self.name(format_args!("slot/{slot}"))
    }

    /// The queue that wakes the VM in a slot.
    #[must_use]
    pub fn wake(&self, slot: u16) -> String {
        self.name(format_args!("wake/{slot}"))
    }

    /// The key of the hashes under which limits are counted.
    #[must_use]
    pub fn limit_seed(&self) -> String {
        self.name(format_args!("limit/seed"))
    }

    /// A bucket of what is used of limits; under
    /// [`BUCKETS`](tidegate_policy::limit::BUCKETS).
    #[must_use]
    pub fn bucket(&self, bucket: u16) -> String {
        self.name(format_args!("limit/{bucket}"))
    }

    /// A piece of a table on one of its two sides.
    #[must_use]
    pub fn chunk(&self, table: Table, side: u8, index: usize) -> String {
        self.name(format_args!("{}/{side}/{index}", table.name()))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policy::wire::event::BATCH_FORMAT;

    use super::SCHEMA;

    /// Otherwise a new filter would drain an old one's queue in the same process, and
    /// drop as unreadable what the service would have taken.
    #[test]
    fn the_schema_moves_with_the_batches_in_the_queue() {
        assert_eq!((SCHEMA, BATCH_FORMAT), (4, 3), "a new batch format needs a new SCHEMA as well");
    }
}
