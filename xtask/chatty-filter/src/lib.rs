//! A stranger in the same Envoy: a filter that ticks, counts in shared data and talks
//! to itself through a queue, under names as short and as likely as any. Under Istio all
//! plugins share one `vm_id` and with it all of these. It counts what is not its own or
//! went back: nothing may. The tests start it beside the gate; nothing else uses it.
#![cfg(target_arch = "wasm32")]
#![expect(missing_docs, reason = "the SDK's macro writes a function without")]

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, MetricType};

/// As often as the gate ticks when it is in a hurry, about.
const TICK: Duration = Duration::from_millis(20);
/// Names of the gate's, without its prefix.
const KEYS: [&str; 4] = ["lease", "manifest", "process", "slot/0"];
const QUEUE: &str = "events";
/// How its values and messages begin.
const OWN: &str = "chatty:";
/// Requests are counted here as well as in its metric.
const REQUESTS: &str = "requests";

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root { metrics: None, seen: [0; KEYS.len()], queue: None }));
}}

/// Counters, which are the process's.
#[derive(Clone, Copy)]
struct Metrics {
    ticks: u32,
    requests: u32,
    sent: u32,
    received: u32,
    foreign: u32,
}

impl Metrics {
    fn define() -> Option<Self> {
        let counter = |name: &str| hostcalls::define_metric(MetricType::Counter, name).ok();
        Some(Self {
            ticks: counter("chatty.ticks")?,
            requests: counter("chatty.requests")?,
            sent: counter("chatty.sent")?,
            received: counter("chatty.received")?,
            foreign: counter("chatty.foreign")?,
        })
    }
}

fn count(metric: u32) {
    let _ = hostcalls::increment_metric(metric, 1);
}

/// The number in a value of its own; `None`: somebody else's.
fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.strip_prefix(OWN)?.parse().ok()
}

/// Adds one to the number under `key`, and says what it is then; `None`: there is
/// something else, or another thread was faster too often.
fn add_one(key: &str) -> Option<u64> {
    for _ in 0..100 {
        let (value, cas) = hostcalls::get_shared_data(key).ok()?;
        let next = match value {
            Some(value) => number(&value)? + 1,
            None => 1,
        };
        // A wrong token is refused only where there is a value.
        let cas = cas.or(Some(u32::MAX));
        if hostcalls::set_shared_data(key, Some(format!("{OWN}{next}").as_bytes()), cas).is_ok() {
            return Some(next);
        }
    }
    None
}

struct Root {
    metrics: Option<Metrics>,
    /// The highest number seen under each key: it never goes back.
    seen: [u64; KEYS.len()],
    queue: Option<u32>,
}

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn on_configure(&mut self, _: usize) -> bool {
        self.metrics = Metrics::define();
        self.queue = hostcalls::register_shared_queue(QUEUE).ok();
        self.set_tick_period(TICK);
        self.metrics.is_some() && self.queue.is_some()
    }

    fn on_tick(&mut self) {
        let Some(metrics) = self.metrics else { return };
        count(metrics.ticks);
        for (key, seen) in KEYS.iter().zip(&mut self.seen) {
            match add_one(key) {
                Some(next) if next > *seen => *seen = next,
                _ => count(metrics.foreign),
            }
        }
        let message = format!("{OWN}{}", self.seen[0]);
        if self
            .queue
            .is_some_and(|queue| hostcalls::enqueue_shared_queue(queue, Some(message.as_bytes())).is_ok())
        {
            count(metrics.sent);
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        let Some(metrics) = self.metrics else { return };
        while let Ok(Some(message)) = hostcalls::dequeue_shared_queue(queue) {
            count(if number(&message).is_some() { metrics.received } else { metrics.foreign });
        }
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request { metrics: self.metrics }))
    }
}

struct Request {
    metrics: Option<Metrics>,
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_log(&mut self) {
        let Some(metrics) = self.metrics else { return };
        count(if add_one(REQUESTS).is_some() { metrics.requests } else { metrics.foreign });
    }
}
