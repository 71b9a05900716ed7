//! What only the holder of the lease does: polls the admin service, publishes, wakes
//! other VMs, acks.

use std::time::Duration;

use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::{Ack, BlobRef, Held, MAX_PAGE, Poller, SyncAnswer};

use super::acks::Acks;
use super::apply_answer::{Applied, ApplyAnswer, ApplyError, ApplyStep};
use super::calls::{RootCall, SyncCalls};
use crate::admin_client::{Backoff, InFlight};
use crate::host::{CallToken, Host};
use crate::metrics::{Count, Metrics};
use crate::sync::load::table_loader::TableLoader;
use crate::sync::publish::{Publish, PublishEnd};
use crate::sync::shared::keys::Keys;
use crate::sync::shared::lease::Role;
use crate::sync::shared::manifest::CHUNK;
use crate::sync::shared::service_clock::ServiceClock;
use crate::sync::shared::slots::{self, Slot};
use crate::sync::shared::wake::Waker;

/// The least time between the beginnings of two polls, if the first had no news.
const POLL_GAP_NS: u64 = 50_000_000;

/// A VM that lives and has not loaded what is published after this long cannot: something else has
/// overwritten it, and it is fetched and written anew. A base of ten million takes some seconds.
const BEHIND_NS: u64 = 30_000_000_000;

/// The longest wait between tries. An admin service that was restarted does not know of
/// a gateway before its next try, and would report a ban as applied that this gateway
/// does not have.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The holder of the lease.
pub struct LeaseHolder {
    fence: u64,
    stage: HolderStage,
    poll: Option<RootCall>,
    page: Option<RootCall>,
    ack: Option<(RootCall, Ack)>,
    backoff: Backoff,
    ack_backoff: Backoff,
    /// The next poll asks for all tables.
    full: bool,
    /// All tables are to be written, because what is published cannot be loaded.
    anew: bool,
    /// A VM that may not be able to load what is published.
    suspect: Option<Suspect>,
    acks: Acks,
    waker: Waker,
    /// A higher fence that was seen: the lease is lost.
    pub higher_fence: Option<u64>,
    /// The admin service's clock at its last answer to a poll.
    pub clock: ServiceClock,
}

/// A live VM that has not loaded what is published.
#[derive(Clone, Copy)]
struct Suspect {
    slot: u16,
    /// What it has instead.
    version: Version,
    /// Since when, monotonic nanoseconds.
    since_ns: u64,
}

enum HolderStage {
    /// Writing this lease's fence into the manifest: after that no VM with a lower
    /// fence can change it.
    Adopt(Box<Publish>),
    /// Waiting until this VM has loaded what is published: polls continue from that
    /// version.
    Load,
    /// A poll is open, or the next one waits for its time.
    Ready,
    /// Applying an answer; true if its poll asked for all tables.
    Apply(Box<ApplyAnswer>, bool),
    /// Publishing the result.
    Publish(Box<Publish>, Box<Applied>),
}

/// Whether there is more to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Call again.
    Pending,
    /// A callback must come first.
    Waiting,
}

/// What a step needs beside the holder itself.
pub struct HolderContext<'a, H> {
    /// Calls to the admin service, from the root whose callback runs.
    pub calls: SyncCalls<'a, H>,
    /// Names in shared data.
    pub keys: &'a Keys,
    /// Metrics.
    pub metrics: &'a Metrics<H>,
    /// What this VM is for.
    pub role: Role,
    /// This VM's slot.
    pub own: Option<u16>,
    /// This VM's tables.
    pub loader: &'a mut TableLoader,
}

impl LeaseHolder {
    /// The holder of a lease just taken.
    #[must_use]
    pub fn new(fence: u64) -> Self {
        Self {
            fence,
            stage: HolderStage::Adopt(Box::new(Publish::adopt(fence))),
            poll: None,
            page: None,
            ack: None,
            backoff: Backoff::new(LONGEST_WAIT),
            ack_backoff: Backoff::new(LONGEST_WAIT),
            full: false,
            anew: false,
            suspect: None,
            acks: Acks::default(),
            waker: Waker::default(),
            higher_fence: None,
            clock: ServiceClock::default(),
        }
    }

    /// The fence of the lease.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The root that made the calls is gone, and the calls with it.
    pub fn root_gone(&mut self, root: u32) {
        let other = |made: &RootCall| made.root != root;
        self.poll = self.poll.take().filter(other);
        self.page = self.page.take().filter(other);
        self.ack = self.ack.take().filter(|(made, _)| other(made));
    }

    /// At a tick: gives up calls that will not be answered any more.
    pub fn expire_calls<H: Host>(&mut self, context: &HolderContext<'_, H>) {
        let now = context.calls.host.monotonic_ns();
        let lost = |made: &Option<RootCall>| made.is_some_and(|made| made.call.is_lost(now));
        if lost(&self.poll) || lost(&self.page) {
            (self.poll, self.page) = (None, None);
            self.poll_failed(context);
        }
        if lost(&self.ack.as_ref().map(|(made, _)| *made)) {
            self.ack = None;
        }
    }

    /// Nanoseconds until a tick is needed for the next try, if one is needed.
    #[must_use]
    pub fn next_try_ns(&self, now_ns: u64) -> Option<u64> {
        let poll = self.poll.is_none() && self.page.is_none();
        let ack = self.ack.is_none() && self.acks.due().is_some();
        let poll = poll.then(|| self.backoff.remaining_ns(now_ns));
        let ack = ack.then(|| self.ack_backoff.remaining_ns(now_ns));
        poll.into_iter().chain(ack).min()
    }

    /// Makes one step: one host call, or a bounded piece of work.
    pub fn step<H: Host>(&mut self, context: &mut HolderContext<'_, H>) -> Progress {
        match &mut self.stage {
            HolderStage::Adopt(publish) => {
                let outcome = publish.step(context.calls.host, context.keys);
                self.on_adopt_step(outcome, context)
            }
            HolderStage::Load if context.loader.is_settled() => {
                self.anew |= context.loader.is_undecodable();
                self.full |= self.anew;
                if let Some(loaded) = context.loader.loaded() {
                    // The admin service may wait for an ack that the previous holder
                    // did not post.
                    self.acks.note_wanted(loaded.tables.version, loaded.refresh);
                }
                self.stage = HolderStage::Ready;
                Progress::Pending
            }
            HolderStage::Load => Progress::Waiting,
            HolderStage::Ready => {
                self.open_poll(context);
                self.fold_recent(context)
            }
            HolderStage::Apply(apply, full) => {
                if self.page.is_some() {
                    return Progress::Waiting;
                }
                let (progress, full) = (apply.step(), *full);
                self.on_apply_step(progress, full, context)
            }
            HolderStage::Publish(publish, _) => {
                let outcome = publish.step(context.calls.host, context.keys);
                self.on_publish_step(outcome, context)
            }
        }
    }

    fn on_adopt_step<H: Host>(
        &mut self,
        outcome: Option<PublishEnd>,
        context: &mut HolderContext<'_, H>,
    ) -> Progress {
        match outcome {
            None => return Progress::Pending,
            Some(PublishEnd::Outranked(fence)) => self.higher_fence = Some(fence),
            Some(PublishEnd::Retry) => self.stage = HolderStage::Adopt(Box::new(Publish::adopt(self.fence))),
            Some(_) => {
                context.loader.check_manifest(context.calls.host, context.keys);
                self.stage = HolderStage::Load;
            }
        }
        Progress::Waiting
    }

    fn open_poll<H: Host>(&mut self, context: &mut HolderContext<'_, H>) {
        let now = context.calls.host.monotonic_ns();
        if self.poll.is_some() || self.backoff.remaining_ns(now) > 0 {
            return;
        }
        self.check_slots(context);
        let loaded = context.loader.loaded().filter(|_| !self.full);
        let since = loaded.map(|loaded| loaded.tables.version);
        let held = loaded.map_or_else(Held::default, |loaded| loaded.held());
        context.metrics.count(Count::Polls);
        if since.is_none() {
            context.metrics.count(Count::FullLoads);
        }
        let clock_ms = context.calls.host.wall_us() / 1_000;
        let poller = Poller { lease: self.fence, recorder: context.role == Role::Recorder, clock_ms };
        match context.calls.poll(since, &held, &self.acks.current(), poller) {
            Ok(made) => self.poll = Some(made),
            Err(_) => self.poll_failed(context),
        }
    }

    /// Folds recent bans into the overlay once they are many. Meanwhile the poll is open: an answer
    /// takes precedence, and the fold begins anew after it.
    fn fold_recent<H: Host>(&mut self, context: &HolderContext<'_, H>) -> Progress {
        let held = context.loader.loaded().filter(|_| !self.full && self.poll.is_some());
        let Some(fold) = held.and_then(|held| ApplyAnswer::fold_of(held)) else { return Progress::Waiting };
        self.stage = HolderStage::Apply(Box::new(fold), false);
        Progress::Pending
    }

    /// Looks at the slots: wakes VMs that have not loaded the newest tables, and posts
    /// an ack if one is due.
    pub fn wake_and_ack<H: Host>(&mut self, context: &HolderContext<'_, H>) {
        self.check_slots(context);
        let now = context.calls.host.monotonic_ns();
        let Some(ack) = self.acks.due() else { return };
        if self.ack.is_some() || self.ack_backoff.remaining_ns(now) > 0 {
            return;
        }
        match context.calls.ack(&ack) {
            Ok(made) => self.ack = Some((made, ack)),
            Err(_) => self.ack_failed(context),
        }
    }

    fn check_slots<H: Host>(&mut self, context: &HolderContext<'_, H>) {
        // Until a newer set is published, this VM's own is the published one.
        let Some(loaded) = context.loader.loaded() else { return };
        let host = context.calls.host;
        let slots = slots::all(host, context.keys);
        let now = host.monotonic_ns();
        let version = (loaded.tables.version, loaded.refresh);
        let is_behind = |index: u16, slot: &Slot| {
            context.own != Some(index) && slot.is_live(now) && (slot.version, slot.refresh) != version
        };
        let behind = || slots.iter().filter(|(index, slot)| is_behind(*index, slot));
        for (index, slot) in behind() {
            self.waker.wake(host, context.keys, *index, slot);
        }
        let before = self.suspect.filter(|suspect| {
            behind().any(|(index, slot)| (*index, slot.version) == (suspect.slot, suspect.version))
        });
        let first = behind().next();
        let first = first.map(|(slot, Slot { version, .. })| Suspect {
            slot: *slot,
            version: *version,
            since_ns: now,
        });
        self.suspect = before.or(first);
        if self.suspect.take_if(|suspect| now.saturating_sub(suspect.since_ns) > BEHIND_NS).is_some() {
            (self.full, self.anew) = (true, true);
        }
        self.acks.update(&slots, loaded, now);
    }

    /// The call `token` ended, with this status. False if it was not made here.
    pub fn on_call_response<H: Host>(
        &mut self,
        token: CallToken,
        status: Option<u16>,
        context: &mut HolderContext<'_, H>,
    ) -> bool {
        let is = |made: &RootCall| made.call.token == token;
        if let Some(poll) = self.poll.take_if(|made| is(made)) {
            self.on_poll_response(status, poll.call, context);
        } else if self.page.take_if(|made| is(made)).is_some() {
            self.on_page_response(status, context);
        } else if let Some((_, ack)) = self.ack.take_if(|(made, _)| is(made)) {
            match status {
                Some(204) => {
                    self.acks.accepted(ack);
                    self.ack_backoff.worked();
                }
                _ => self.ack_failed(context),
            }
        } else {
            return false;
        }
        true
    }

    fn on_poll_response<H: Host>(
        &mut self,
        status: Option<u16>,
        poll: InFlight,
        context: &mut HolderContext<'_, H>,
    ) {
        let now = context.calls.host.monotonic_ns();
        match status {
            Some(304) => {
                // Without the header it is of something in between, and nothing was heard.
                let Some(said_ms) = context.calls.client.service_ms() else {
                    return self.poll_failed(context);
                };
                self.clock = ServiceClock { heard_ns: now, said_ms };
                self.backoff.worked_but_wait(poll.since_ns.saturating_add(POLL_GAP_NS));
            }
            Some(200) => {
                let body = context.calls.host.call_body(MAX_PAGE);
                match SyncAnswer::from_bytes(&body).ok() {
                    Some(answer) => {
                        self.clock = ServiceClock { heard_ns: now, said_ms: answer.server_time_ms };
                        self.on_answer(answer, poll, context);
                    }
                    None => self.bad_answer("does not decode", self.full, context),
                }
            }
            _ => self.poll_failed(context),
        }
    }

    fn on_answer<H: Host>(&mut self, answer: SyncAnswer, poll: InFlight, context: &mut HolderContext<'_, H>) {
        if matches!(self.stage, HolderStage::Apply(..) | HolderStage::Publish(..)) {
            // Recent bans were being folded; what came is more urgent.
            self.stage = HolderStage::Ready;
        }
        let full = self.full || context.loader.loaded().is_none();
        let held = context.loader.loaded().filter(|_| !self.full).cloned();
        if answer.ack_wanted {
            self.acks.note_wanted(answer.version, answer.refresh);
        }
        if held.as_ref().is_some_and(|held| held.refresh < answer.refresh) {
            // A refresh was ordered: all tables are loaded anew, even equal ones.
            self.full = true;
            self.backoff.worked();
            return;
        }
        let is_news = !answer.whole.is_empty() || answer.bans.is_some();
        if !is_news && held.as_ref().is_some_and(|held| held.tables.version == answer.version) {
            // The answer only asks for an ack.
            self.backoff.worked_but_wait(poll.since_ns.saturating_add(POLL_GAP_NS));
            return;
        }
        match ApplyAnswer::new(answer, self.clock.heard_ns, held.as_deref()) {
            Ok(apply) => self.stage = HolderStage::Apply(Box::new(apply), full),
            Err(error) => self.bad_answer(&format!("{error:?}"), full, context),
        }
    }

    fn on_page_response<H: Host>(&mut self, status: Option<u16>, context: &mut HolderContext<'_, H>) {
        let HolderStage::Apply(apply, full) = &mut self.stage else { return };
        let full = *full;
        let page = match status {
            Some(200) => Some(context.calls.host.call_body(MAX_PAGE)),
            _ => None,
        };
        match page {
            Some(page) => {
                if let Err(error) = apply.add_page(&page) {
                    self.bad_answer(&format!("{error:?}"), full, context);
                }
            }
            // 410: the table was replaced by a newer one. In this and any other case
            // the next poll names what is needed.
            None => {
                self.stage = HolderStage::Ready;
                self.poll_failed(context);
            }
        }
    }

    fn on_apply_step<H: Host>(
        &mut self,
        progress: Result<ApplyStep, ApplyError>,
        full: bool,
        context: &mut HolderContext<'_, H>,
    ) -> Progress {
        match progress {
            Ok(ApplyStep::More) => Progress::Pending,
            Ok(ApplyStep::Fetch(blob, offset)) => self.fetch(&blob, offset, context),
            Ok(ApplyStep::Done(built)) => {
                context.metrics.add(Count::Misfolds, built.misfolded);
                self.publish(built);
                Progress::Pending
            }
            Err(error) => {
                self.bad_answer(&format!("{error:?}"), full, context);
                Progress::Pending
            }
        }
    }

    fn publish(&mut self, built: Box<Applied>) {
        let publish = Publish::new(self.fence, built.set.clone(), CHUNK).anew(self.anew);
        self.stage = HolderStage::Publish(Box::new(publish), built);
    }

    fn fetch<H: Host>(&mut self, blob: &BlobRef, offset: u64, context: &HolderContext<'_, H>) -> Progress {
        match context.calls.page(blob, offset) {
            Ok(made) => self.page = Some(made),
            Err(_) => {
                self.stage = HolderStage::Ready;
                self.poll_failed(context);
            }
        }
        Progress::Waiting
    }

    fn on_publish_step<H: Host>(
        &mut self,
        outcome: Option<PublishEnd>,
        context: &mut HolderContext<'_, H>,
    ) -> Progress {
        let Some(outcome) = outcome else { return Progress::Pending };
        let HolderStage::Publish(_, built) = std::mem::replace(&mut self.stage, HolderStage::Ready) else {
            return Progress::Waiting;
        };
        match outcome {
            PublishEnd::Done(_) => {
                context.metrics.count(Count::Publishes);
                (self.full, self.anew) = (false, false);
                self.backoff.worked();
                context.loader.enforce(context.metrics, built.loaded);
                Progress::Pending
            }
            // An answer without news: the next poll waits.
            PublishEnd::NotNewer(_) | PublishEnd::Nothing => {
                self.full = false;
                self.poll_failed(context);
                Progress::Waiting
            }
            PublishEnd::Outranked(fence) => {
                self.higher_fence = Some(fence);
                Progress::Waiting
            }
            PublishEnd::Incomplete => {
                self.full = true;
                Progress::Pending
            }
            PublishEnd::Retry => {
                self.publish(built);
                Progress::Waiting
            }
        }
    }

    /// An answer is wrong. The tables stay in force; the next poll asks for all tables,
    /// at once unless this one did too (`was_full`).
    fn bad_answer<H: Host>(&mut self, what: &str, was_full: bool, context: &HolderContext<'_, H>) {
        context.metrics.count(Count::DecodeFailures);
        let say = ["an answer of the admin service is wrong (", what, "); the tables before stay in force"];
        context.calls.host.log(log::Level::Error, &say.concat());
        self.stage = HolderStage::Ready;
        self.full = true;
        if was_full {
            self.poll_failed(context);
        } else {
            self.backoff.worked();
        }
    }

    fn poll_failed<H: Host>(&mut self, context: &HolderContext<'_, H>) {
        context.metrics.count(Count::PollFailures);
        let host = context.calls.host;
        self.backoff.failed(host.monotonic_ns(), host.random_u64());
        if !matches!(self.stage, HolderStage::Adopt(_) | HolderStage::Load | HolderStage::Publish(..)) {
            self.stage = HolderStage::Ready;
        }
    }

    fn ack_failed<H: Host>(&mut self, context: &HolderContext<'_, H>) {
        context.metrics.count(Count::PollFailures);
        let host = context.calls.host;
        self.ack_backoff.failed(host.monotonic_ns(), host.random_u64());
    }
}
