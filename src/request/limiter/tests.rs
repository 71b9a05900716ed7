//! Many workers at one limit: how many requests pass, in any order.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_policy::limit::{BUCKETS, KEYS_PER_BUCKET, LimitKey};

use super::*;
use crate::host::Cas;
use tidegate_host_sim::SimHost;

/// Shared data of a process with real threads.
#[derive(Default)]
struct Process(Mutex<Values>);

#[derive(Default)]
struct Values {
    values: HashMap<String, (Vec<u8>, Cas)>,
    last: Cas,
}

impl SharedData for Process {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError> {
        Ok(self.0.lock().unwrap().values.get(key).cloned())
    }

    fn set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError> {
        let mut guard = self.0.lock().unwrap();
        let Values { values, last } = &mut *guard;
        let expected = match (values.get(key), expect) {
            (Some((_, cas)), Expect::Unchanged(known)) => *cas == known,
            (None, Expect::Absent) => true,
            _ => false,
        };
        if !expected {
            return Err(HostError::CasMismatch);
        }
        *last += 1;
        values.insert(key.to_owned(), (value.to_vec(), *last));
        Ok(())
    }
}

#[test]
fn of_many_that_ask_at_the_same_time_as_many_pass_as_the_limit_says() {
    let (process, passed, gave_up) = (Process::default(), AtomicU64::new(0), AtomicU64::new(0));
    let gcra = Gcra::new(1, 1, 500);
    std::thread::scope(|scope| {
        for worker in 0..4u128 {
            let (process, passed, gave_up) = (&process, &passed, &gave_up);
            scope.spawn(move || {
                for _ in 0..300 {
                    // The same time for all: nothing is replenished. Keys in the same
                    // bucket cause retries, too.
                    take_from_bucket(process, "bucket", worker + 10, gcra, || 1).unwrap();
                    match take_from_bucket(process, "bucket", 1, gcra, || 1).unwrap().answer {
                        LimitAnswer::Passes { .. } => passed.fetch_add(1, Ordering::Relaxed),
                        LimitAnswer::Waits { .. } => continue,
                        LimitAnswer::Unknown => gave_up.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
    });
    // A request that lost 32 races to three others passed too, and was counted.
    assert_eq!(passed.into_inner(), 500, "{gave_up:?} gave up");
}

/// Shared data in which another worker writes right before each write.
struct Overtaken<'p> {
    process: &'p Process,
    times: Cell<u32>,
    overtakes: &'p dyn Fn(&Process),
}

impl SharedData for Overtaken<'_> {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError> {
        self.process.get(key)
    }

    fn set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError> {
        if let Some(left) = self.times.get().checked_sub(1) {
            self.times.set(left);
            (self.overtakes)(self.process);
        }
        self.process.set(key, value, expect)
    }
}

#[test]
fn who_is_overtaken_asks_anew_and_finds_what_is_left() {
    let gcra = Gcra::new(1, 1, 3);
    let overtakes = |process: &Process| {
        take_from_bucket(process, "b", 1, gcra, || 7).unwrap();
    };
    for (times, passes) in [(0, true), (1, true), (2, true), (3, false)] {
        let process = Process::default();
        let shared = Overtaken { process: &process, times: Cell::new(times), overtakes: &overtakes };
        let took = take_from_bucket(&shared, "b", 1, gcra, || 7).unwrap();
        assert_eq!((took.retries, matches!(took.answer, LimitAnswer::Passes { .. })), (times, passes));
        let left =
            std::iter::from_fn(|| match take_from_bucket(&process, "b", 1, gcra, || 7).unwrap().answer {
                LimitAnswer::Passes { .. } => Some(()),
                _ => None,
            });
        assert_eq!(left.count() as u32, 3 - times - u32::from(passes));
    }
}

#[test]
fn who_is_overtaken_again_and_again_passes_and_is_counted() {
    let process = Process::default();
    let gcra = Gcra::new(1, 1, 1_000);
    let overtakes = |process: &Process| {
        take_from_bucket(process, "b", 2, gcra, || 7).unwrap();
    };
    let shared = Overtaken { process: &process, times: Cell::new(u32::MAX), overtakes: &overtakes };
    let took = take_from_bucket(&shared, "b", 1, gcra, || 7).unwrap();
    assert_eq!((took.answer, took.retries), (LimitAnswer::Unknown, TRIES));
}

fn limiter(host: &SimHost) -> Limiter<SimHost> {
    Limiter::new(host.clone(), Rc::new(Metrics::new(host.clone())), Keys::new(7))
}

fn limit(burst: u32) -> Limit {
    Limit { name: "l".to_owned(), burst, ..Limit::new(LimitKey::Ip) }
}

#[test]
fn vms_of_a_process_count_together_and_find_the_same_seed() {
    let host = SimHost::alone();
    let (one, other) = (limiter(&host), limiter(&host));
    let client = KeyValue::Client("1.2.3.4".parse().unwrap());
    let stranger = KeyValue::Client("1.2.3.5".parse().unwrap());
    let passes = |limiter: &Limiter<SimHost>, value| {
        matches!(limiter.take(&limit(2), value), LimitAnswer::Passes { .. })
    };
    assert!(passes(&one, &client) && passes(&other, &client));
    assert!(!passes(&one, &client) && !passes(&other, &client));
    assert!(passes(&other, &stranger));
    let keys = host.shared().len();
    assert!(keys <= 3, "two buckets and the seed: {keys}");
}

#[test]
fn bytes_that_are_no_bucket_hold_nothing_and_are_replaced() {
    let host = SimHost::alone();
    let client = KeyValue::Client("1.2.3.4".parse().unwrap());
    let limiter = limiter(&host);
    assert!(matches!(limiter.take(&limit(1), &client), LimitAnswer::Passes { .. }));
    for bytes in [&b""[..], b"\xffjunk", &[1; 30]] {
        for (key, (value, _)) in host.shared().iter_mut() {
            if !key.ends_with("seed") {
                *value = bytes.to_vec();
            }
        }
        assert!(matches!(limiter.take(&limit(1), &client), LimitAnswer::Passes { .. }), "{bytes:?}");
        assert!(matches!(limiter.take(&limit(1), &client), LimitAnswer::Waits { .. }), "{bytes:?}");
    }
}

#[test]
fn however_many_clients_come_the_keys_are_a_fixed_set() {
    let process = Process::default();
    let seed = [3; 16];
    let limit = limit(1);
    let (keys, mut forgotten) = (Keys::new(7), 0usize);
    for bits in 0..200_000u32 {
        let client = KeyValue::Client(tidegate_policy::address::Prefix::v4(bits, 32).unwrap());
        let location = KeyLocation::of(&limit, &client, &seed);
        let took =
            take_from_bucket(&process, &keys.bucket(location.bucket), location.hash, limit.gcra(), || 5)
                .unwrap();
        assert!(matches!(took.answer, LimitAnswer::Passes { .. }), "a stranger is never denied");
        forgotten += usize::from(took.forgot);
    }
    let values = &process.0.lock().unwrap().values;
    assert!(values.len() <= usize::from(BUCKETS));
    let bytes: usize = values.values().map(|(value, _)| value.len()).sum();
    assert!(bytes <= usize::from(BUCKETS) * 385, "{bytes}");
    let kept = 200_000 - forgotten;
    assert_eq!(bytes, values.len() + kept * 24, "who is not kept was counted as forgotten");
    assert!(kept <= usize::from(BUCKETS) * KEYS_PER_BUCKET);
}
