//! The shared queue of event batches in a process, and the gauge that counts its
//! bytes: Envoy's shared queues have no bound and no length that can be read.

use crate::host::{Host, HostError, MetricId, MetricKind, QueueId};
use crate::metrics::QUEUE_BYTES;

/// One instance's queue, as used by one VM. Each instance has a gauge of its own, as it
/// has a queue: a drainer that resets its gauge must not change another queue's count.
pub struct EventQueue<H> {
    host: H,
    name: String,
    bytes: Option<MetricId>,
}

impl<H: Host> EventQueue<H> {
    /// The queue `name` of the admin service `instance`.
    pub fn new(host: H, name: String, instance: u64) -> Self {
        let gauge = format!("{QUEUE_BYTES}.{instance:016x}");
        let bytes = host.define_metric(MetricKind::Gauge, &gauge).ok();
        Self { host, name, bytes }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes in the queue, by the gauge. A value under zero, seen between the changes of
    /// two VMs, counts as zero.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.signed_bytes()).unwrap_or(0)
    }

    /// Whether the gauge says that the queue is empty.
    #[must_use]
    pub fn gauge_is_zero(&self) -> bool {
        self.signed_bytes() == 0
    }

    fn signed_bytes(&self) -> i64 {
        self.bytes.map_or(0, |metric| self.host.metric(metric).unwrap_or(0).cast_signed())
    }

    /// Sets the gauge to zero: the queue has been empty for long.
    pub fn reset_gauge(&self) {
        if let Some(metric) = self.bytes {
            let _ = self.host.set_metric(metric, 0);
        }
    }

    /// A message of this length was taken out.
    pub fn count_dequeued(&self, len: usize) {
        self.change(i64::try_from(len).unwrap_or(i64::MAX).saturating_neg());
    }

    /// Appends a message. The gauge is changed first, because the drainer may take the
    /// message out at once.
    ///
    /// # Errors
    /// Those of the host; then the gauge is as before.
    pub fn enqueue(&self, queue: QueueId, message: &[u8]) -> Result<(), HostError> {
        self.change(i64::try_from(message.len()).unwrap_or(i64::MAX));
        let result = self.host.enqueue(queue, message);
        if result.is_err() {
            self.count_dequeued(message.len());
        }
        result
    }

    fn change(&self, by: i64) {
        if let Some(metric) = self.bytes {
            let _ = self.host.add_metric(metric, by);
        }
    }
}
