//! Names of keys in shared data and of shared queues: a fixed set, because neither can
//! be deleted.

use tidegate_policy::tables::Table;

/// Version of everything under these keys, and part of them, with the number of tables
/// (the manifest has one entry per table). Two versions of the filter may run on one
/// `vm_id` for a while; if these numbers differ, they share nothing.
const SCHEMA: u32 = 8;

/// Slots of a process. Envoy runs one VM per worker plus one or two on the main
/// thread, so this is far more than any machine needs.
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

    /// The queue of sealed batches of events, for the holder of the lease.
    #[must_use]
    pub fn events(&self) -> String {
        self.name(format_args!("events"))
    }

    /// The process's id, a random number.
    #[must_use]
    pub fn process(&self) -> String {
        self.name(format_args!("process"))
    }

    /// The lease.
    #[must_use]
    pub fn lease(&self) -> String {
        self.name(format_args!("lease"))
    }

    /// The manifest of the published tables.
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

    /// The seed of the hashes under which limits are counted.
    #[must_use]
    pub fn limit_seed(&self) -> String {
        self.name(format_args!("limit/seed"))
    }

    /// A bucket with the usage of limits; below
    /// [`BUCKETS`](tidegate_policy::limit::BUCKETS).
    #[must_use]
    pub fn bucket(&self, bucket: u16) -> String {
        self.name(format_args!("limit/{bucket}"))
    }

    /// A chunk of a table on one of its two sides.
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
        assert_eq!((SCHEMA, BATCH_FORMAT), (8, 6), "a new batch format needs a new SCHEMA as well");
    }
}
