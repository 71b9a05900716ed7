//! Sends the notices of rollouts to webhooks, as <https://www.standardwebhooks.com> has it: at least once, with an id
//! by which the receiver knows one that comes twice, signed, and again and again until it is taken or too old.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Rollouts;
use crate::lock::locked;
use crate::sources::{self, Reach};
use crate::store::{Change, NewNotice, NoticeTry, WaitingNotice, time_text};

/// Notices that wait for one webhook of a rollout, at most: the oldest are given up.
const MAX_WAITING: u64 = 200;
/// Tries of a notice, at most.
const MAX_TRIES: u32 = 20;
/// How long a notice is tried, milliseconds.
const MAX_AGE_MS: i64 = 24 * 3_600 * 1_000;
/// Pause before the second try; each further one is twice as long,
const FIRST_PAUSE_MS: i64 = 1_000;
/// and at most this.
const LONGEST_PAUSE_MS: i64 = 2 * 3_600 * 1_000;
/// How long a webhook may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Pause after the database took nothing, and between two looks at it.
const RETRY: Duration = Duration::from_secs(1);
/// The longest time between two looks: a clock that jumped is noticed by then.
const LONGEST_SLEEP_MS: i64 = 60_000;
/// What a secret begins with that is given in Base64.
const BASE64_SECRET: &str = "whsec_";
/// Health speaks of notices that were given up within this time.
const RECENTLY: Duration = Duration::from_secs(3_600);

/// A webhook, as a notice has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Webhook {
    /// Where to.
    pub url: String,
    /// The file with the secret; `None`: notices are not signed.
    pub secret_file: Option<String>,
    /// It may be sent without TLS.
    pub allow_insecure: bool,
    /// It may be sent to an address that is not of the public internet.
    pub allow_private: bool,
}

/// What came of notices since the service began.
#[derive(Default)]
pub struct Webhooks {
    bell: Notify,
    sent: AtomicU64,
    failed: AtomicU64,
    given_up: AtomicU64,
    /// Webhooks whose last try failed, by rollout and URL; and when a notice was given up last.
    failing: Mutex<BTreeMap<(String, String), Failing>>,
    given_up_at: Mutex<Option<Instant>>,
}

/// A webhook whose last try failed.
struct Failing {
    /// Why.
    why: String,
    /// Whether there are still notices for it.
    has_waiting: bool,
}

/// The counts of [`Webhooks`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WebhookCounts {
    /// Notices that were taken.
    pub sent: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Notices that were given up.
    pub given_up: u64,
    /// Whether a notice was given up within the last hour.
    pub gave_up_lately: bool,
}

impl Webhooks {
    /// Notices were written.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// The counts.
    #[must_use]
    pub fn counts(&self) -> WebhookCounts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        WebhookCounts {
            sent: load(&self.sent),
            failed: load(&self.failed),
            given_up: load(&self.given_up),
            gave_up_lately: locked(&self.given_up_at).is_some_and(|at| at.elapsed() < RECENTLY),
        }
    }

    /// Webhooks whose last try failed, with the reason: those that notices wait for, and those for which `is_in_plan` says that
    /// the rollout has them now. Others are forgotten: the plan was mended, or the rollout removed.
    pub fn failing(&self, is_in_plan: impl Fn(&str, &str) -> bool) -> Vec<(String, String)> {
        let mut failing = locked(&self.failing);
        failing.retain(|(rollout, url), one| one.has_waiting || is_in_plan(rollout, url));
        failing.iter().map(|((_, url), one)| (url.clone(), one.why.clone())).collect()
    }

    /// Notes which webhooks notices wait for.
    fn note_waiting(&self, waiting: &[WaitingNotice]) {
        for ((rollout, url), one) in &mut *locked(&self.failing) {
            let is_it =
                |waiting: &WaitingNotice| waiting.rollout == *rollout && url_of(&waiting.notice) == *url;
            one.has_waiting = waiting.iter().any(is_it);
        }
    }

    /// Notes what came of a try.
    fn note(&self, waiting: &WaitingNotice, url: &str, tried: &Result<(), String>, next: NoticeTry) {
        let name = &waiting.rollout;
        match tried {
            Ok(()) => {
                self.sent.fetch_add(1, Ordering::Relaxed);
                locked(&self.failing).remove(&(name.clone(), url.to_owned()));
            }
            Err(why) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let failing = Failing { why: why.clone(), has_waiting: true };
                locked(&self.failing).insert((name.clone(), url.to_owned()), failing);
                tracing::warn!(
                    rollout = name,
                    url,
                    tries = waiting.tries + 1,
                    "a webhook took no notice: {why}"
                );
                if next == NoticeTry::Done {
                    self.given_up.fetch_add(1, Ordering::Relaxed);
                    *locked(&self.given_up_at) = Some(Instant::now());
                    tracing::error!(rollout = name, url, id = waiting.notice.id, "a notice is given up");
                }
            }
        }
    }
}

/// The URL that a notice goes to.
fn url_of(notice: &NewNotice) -> String {
    serde_json::from_str(&notice.webhook).map(|webhook: Webhook| webhook.url).unwrap_or_default()
}

/// Whose notices are sent one after the other: a webhook of a rollout. One that hangs holds up nobody else.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Queue {
    rollout: String,
    webhook: String,
}

impl Queue {
    fn of(waiting: &WaitingNotice) -> Self {
        Self { rollout: waiting.rollout.clone(), webhook: waiting.notice.webhook.clone() }
    }
}

/// Sends the notices that wait until the task is aborted.
pub(super) async fn follow(service: &Rollouts) {
    let (mut tries, mut busy) = (JoinSet::new(), BTreeSet::new());
    loop {
        let Ok(next) = service.0.store.next_notices().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        service.0.webhooks.note_waiting(&next);
        let now = time_text::now_ms();
        let mut pause_ms = LONGEST_SLEEP_MS;
        for waiting in next {
            let queue = Queue::of(&waiting);
            if busy.contains(&queue) {
                continue;
            }
            if waiting.next_try_ms > now {
                pause_ms = pause_ms.min(waiting.next_try_ms.saturating_sub(now));
                continue;
            }
            busy.insert(queue.clone());
            let service = service.clone();
            tries.spawn(async move {
                if !send_one(&service, &waiting).await {
                    // The database did not take what came of it.
                    tokio::time::sleep(RETRY).await;
                }
                queue
            });
        }
        let pause = Duration::from_millis(pause_ms.unsigned_abs());
        tokio::select! {
            Some(done) = tries.join_next() => match done {
                Ok(queue) => {
                    busy.remove(&queue);
                }
                // A try does not panic; if it did, all begin anew.
                Err(_) => busy.clear(),
            },
            () = service.0.webhooks.bell.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn send_one(service: &Rollouts, waiting: &WaitingNotice) -> bool {
    let webhook: Option<Webhook> = serde_json::from_str(&waiting.notice.webhook).ok();
    let tried = match &webhook {
        _ if waiting.waiting > MAX_WAITING => Err(format!("more than {MAX_WAITING} notices wait for it")),
        Some(webhook) => send(service, webhook, &waiting.notice).await,
        None => Err("the database has no webhook for it".to_owned()),
    };
    let next = match &tried {
        Ok(()) => NoticeTry::Done,
        Err(_) if waiting.waiting > MAX_WAITING => NoticeTry::Done,
        Err(_) => after_failure(waiting, time_text::now_ms()),
    };
    let url = webhook.map(|webhook| webhook.url).unwrap_or_default();
    service.0.webhooks.note(waiting, &url, &tried, next);
    let change = Change::NoteNoticeTry { id: waiting.notice.id.clone(), tried: next };
    service.0.store.commit(change, &waiting.rollout.as_str().into()).await.is_ok()
}

/// When a notice is tried again that was not taken.
fn after_failure(waiting: &WaitingNotice, now: i64) -> NoticeTry {
    let is_last = waiting.tries + 1 >= MAX_TRIES || now.saturating_sub(waiting.made_ms) >= MAX_AGE_MS;
    if is_last {
        return NoticeTry::Done;
    }
    let pause = FIRST_PAUSE_MS.checked_shl(waiting.tries).unwrap_or(LONGEST_PAUSE_MS).min(LONGEST_PAUSE_MS);
    NoticeTry::Failed { next_try_ms: now.saturating_add(pause) }
}

async fn send(service: &Rollouts, webhook: &Webhook, notice: &NewNotice) -> Result<(), String> {
    let now = time_text::now_ms().div_euclid(1_000);
    let mut headers = vec![("webhook-id", notice.id.clone()), ("webhook-timestamp", now.to_string())];
    if let Some(file) = &webhook.secret_file {
        let secret = service.0.sources.secret(file).map_err(|error| error.to_string())?;
        headers.push(("webhook-signature", signature(&secret, &notice.id, now, &notice.body)?));
    }
    let reach = Reach { allow_insecure: webhook.allow_insecure, allow_private: webhook.allow_private };
    let answer = sources::post(&webhook.url, reach, &headers, notice.body.clone());
    let answer = tokio::time::timeout(ANSWER_TIME, answer).await;
    let status = answer
        .map_err(|_| format!("no answer within {} s", ANSWER_TIME.as_secs()))?
        .map_err(|error| error.to_string())?;
    if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
}

/// The signature: HMAC-SHA256 over id, time and body with dots between them, in Base64.
fn signature(secret: &str, id: &str, seconds: i64, body: &str) -> Result<String, String> {
    let key = match secret.strip_prefix(BASE64_SECRET) {
        Some(text) => BASE64_STANDARD.decode(text).map_err(|_| "its secret is not Base64 after `whsec_`")?,
        None => secret.as_bytes().to_vec(),
    };
    let signed =
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), format!("{id}.{seconds}.{body}").as_bytes());
    Ok(format!("v1,{}", BASE64_STANDARD.encode(signed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standards_example() {
        // Of the specification's reference implementations.
        let signed = signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed.as_deref(), Ok("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert!(signature("whsec_*", "a", 1, "").is_err());
        assert!(signature("plain", "a", 1, "").is_ok());
    }

    #[test]
    fn a_webhook_is_failing_as_long_as_something_is_to_be_told_or_a_plan_has_it() {
        let webhook =
            r#"{"url":"https://a/","secret_file":null,"allow_insecure":false,"allow_private":false}"#;
        let waiting = WaitingNotice {
            rollout: "r".into(),
            notice: NewNotice { id: "a".into(), webhook: webhook.into(), body: String::new() },
            made_ms: 0,
            next_try_ms: 0,
            tries: 0,
            waiting: 1,
        };
        let webhooks = Webhooks::default();
        let failing =
            |has: bool| webhooks.failing(|rollout, url| has && (rollout, url) == ("r", "https://a/")).len();
        let next = NoticeTry::Failed { next_try_ms: 9 };
        webhooks.note(&waiting, "https://a/", &Err("no".into()), next);
        webhooks.note_waiting(std::slice::from_ref(&waiting));
        assert_eq!(failing(false), 1);
        webhooks.note_waiting(&[]);
        assert_eq!([failing(true), failing(false), failing(true)], [1, 0, 0], "and it is forgotten");
        webhooks.note(&waiting, "https://a/", &Err("no".into()), next);
        webhooks.note(&waiting, "https://a/", &Ok(()), NoticeTry::Done);
        assert_eq!(failing(true), 0);
    }

    #[test]
    fn a_notice_is_tried_less_and_less_often_and_then_no_more() {
        let waiting = |tries, made_ms| WaitingNotice {
            rollout: "r".into(),
            notice: NewNotice { id: "a".into(), webhook: String::new(), body: String::new() },
            made_ms,
            next_try_ms: 0,
            tries,
            waiting: 1,
        };
        let now = 1_795_456_800_000;
        let pause = |tries| match after_failure(&waiting(tries, now), now) {
            NoticeTry::Failed { next_try_ms } => Some(next_try_ms - now),
            NoticeTry::Done => None,
        };
        let found = [0, 1, 5, 12, 13, 18, 19, 40].map(pause);
        let hours = Some(LONGEST_PAUSE_MS);
        assert_eq!(
            found,
            [Some(1_000), Some(2_000), Some(32_000), Some(4_096_000), hours, hours, None, None]
        );
        assert_eq!(after_failure(&waiting(0, now - MAX_AGE_MS), now), NoticeTry::Done);
    }
}
