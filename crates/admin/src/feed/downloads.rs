//! Turns for what is large: so many gateways are sent large tables at once, and the others' polls wait until it is
//! their turn. Thousands that all fetched a new base at the same time would each wait for its pages longer than a
//! gateway waits, begin again, and never be done. Whoever waits enforces what it has.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tidegate_policy::wire::sync::Gateway;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::lock::locked;

/// What an answer and its tables come to without waiting for a turn, in bytes.
const SMALL: usize = 256 << 10;
/// Turns at once: few enough that a page arrives within a gateway's 5 s where the service has 1 Gbit/s (32 pages are
/// 134 MB), and enough that slow lines do not hold up the others.
const AT_ONCE: usize = 32;
/// A turn in which no page is asked for ends after this long: the gateway has gone, or has what it needs.
const IDLE: Duration = Duration::from_secs(5);
/// A turn whose page takes longer than this ends as well: a gateway waits 5 s for a page, and one whose host or line has
/// failed reads no more, for as long as the connection stands.
const STALLED: Duration = Duration::from_secs(15);
/// A gateway that does not poll again for this long loses its place.
const ABSENT: Duration = Duration::from_secs(3);
/// How long a page waits that is asked for out of turn, as of a base that a gateway folded wrongly.
const PAGE_WAIT: Duration = Duration::from_secs(2);

/// Who is sent large tables, and who waits for it.
#[derive(Clone, Default)]
pub(super) struct Downloads(Arc<Mutex<Turns>>);

#[derive(Default)]
struct Turns {
    active: HashMap<Gateway, Active>,
    waiting: HashMap<Gateway, Waiting>,
    /// The order of those who wait: first those that hold nothing, and so let no request pass. Names that do not
    /// wait any more are passed over.
    order: [VecDeque<Gateway>; 2],
}

/// A gateway whose turn it is.
struct Active {
    /// Bytes of tables that it has not been sent yet.
    left: usize,
    /// Pages under way.
    pages: usize,
    /// When a page last began or ended.
    used: Instant,
}

impl Active {
    fn new(left: usize) -> Self {
        Self { left, pages: 0, used: Instant::now() }
    }
}

/// A gateway that waits.
struct Waiting {
    bytes: usize,
    turn: Arc<Notify>,
    /// Requests of it that wait.
    requests: usize,
    last: Instant,
}

/// A request that may have to wait for its gateway's turn.
pub(super) struct Turn<'g> {
    downloads: Downloads,
    gateway: &'g Gateway,
    has_tables: bool,
    waits: Option<Arc<Notify>>,
}

/// A page under way. It counts as sent when this is dropped.
pub struct PageGuard {
    turns: Weak<Mutex<Turns>>,
    gateway: Gateway,
    bytes: usize,
}

impl Downloads {
    /// For a request of `gateway`, which has tables already or not.
    pub fn turn<'g>(&self, gateway: &'g Gateway, has_tables: bool) -> Turn<'g> {
        Turn { downloads: self.clone(), gateway, has_tables, waits: None }
    }

    /// For a page of `bytes`, of a table of `all` bytes. `None`: too many others are sent theirs.
    pub async fn page(&self, gateway: &Gateway, bytes: usize, all: usize) -> Option<PageGuard> {
        if all > SMALL {
            let mut turn = self.turn(gateway, true);
            let waited = async {
                while !turn.asks(all, false) {
                    turn.comes().await;
                }
            };
            timeout(PAGE_WAIT, waited).await.ok()?;
        }
        if let Some(active) = self.turns().active.get_mut(gateway) {
            active.pages = active.pages.saturating_add(1);
            active.used = Instant::now();
        }
        Some(PageGuard { turns: Arc::downgrade(&self.0), gateway: gateway.clone(), bytes })
    }

    /// Ends turns that are not used, and forgets who does not ask any more.
    pub fn expire(&self) {
        let now = Instant::now();
        let mut turns = self.turns();
        turns.active.retain(|_, one| {
            let longest = if one.pages > 0 { STALLED } else { IDLE };
            now.saturating_duration_since(one.used) < longest
        });
        turns.waiting.retain(|_, one| one.requests > 0 || now.saturating_duration_since(one.last) < ABSENT);
        let Turns { waiting, order, .. } = &mut *turns;
        order.iter_mut().for_each(|order| order.retain(|gateway| waiting.contains_key(gateway)));
        turns.pass_on();
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        locked(&self.0)
    }
}

impl Turn<'_> {
    /// Whether an answer of `answer` bytes may be sent, which names tables of `tables` bytes that the gateway then
    /// fetches. What is small always may.
    pub fn has_come(&mut self, answer: usize, tables: usize) -> bool {
        if answer.saturating_add(tables) <= SMALL {
            self.ends();
            return true;
        }
        self.asks(tables, true)
    }

    /// `is_poll`: whatever the gateway was sent before, this is what it lacks now.
    fn asks(&mut self, bytes: usize, is_poll: bool) -> bool {
        let downloads = self.downloads.clone();
        let mut turns = downloads.turns();
        if !turns.active.contains_key(self.gateway) {
            turns.wait(self, bytes);
            turns.pass_on();
        } else if is_poll {
            turns.active.insert(self.gateway.clone(), Active::new(bytes));
        }
        turns.active.contains_key(self.gateway)
    }

    /// Waits until the turn may have come; for ever if it was not asked for.
    pub async fn comes(&self) {
        match &self.waits {
            Some(turn) => turn.notified().await,
            None => std::future::pending().await,
        }
    }

    /// The gateway needs nothing large, or nothing any more: its turn is over.
    pub fn ends(&mut self) {
        self.stop_waiting();
        let mut turns = self.downloads.turns();
        if turns.active.get(self.gateway).is_some_and(|active| active.pages == 0) {
            turns.active.remove(self.gateway);
            turns.pass_on();
        }
    }

    fn stop_waiting(&mut self) {
        if self.waits.take().is_none() {
            return;
        }
        if let Some(waiting) = self.downloads.turns().waiting.get_mut(self.gateway) {
            waiting.requests = waiting.requests.saturating_sub(1);
            waiting.last = Instant::now();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

impl Turns {
    /// `turn` waits for `bytes`; a gateway that waits already keeps its place.
    fn wait(&mut self, turn: &mut Turn<'_>, bytes: usize) {
        if !self.waiting.contains_key(turn.gateway) {
            self.order[usize::from(turn.has_tables)].push_back(turn.gateway.clone());
        }
        let waiting = self.waiting.entry(turn.gateway.clone()).or_insert_with(|| Waiting {
            bytes,
            turn: Arc::default(),
            requests: 0,
            last: Instant::now(),
        });
        waiting.bytes = bytes;
        if turn.waits.is_none() {
            waiting.requests = waiting.requests.saturating_add(1);
            turn.waits = Some(Arc::clone(&waiting.turn));
        }
    }

    /// Gives free turns to who waits longest. Who has no request that waits at this moment keeps its place.
    fn pass_on(&mut self) {
        let Self { active, waiting: all_waiting, order } = self;
        for order in order {
            let mut absent = VecDeque::new();
            while active.len() < AT_ONCE
                && let Some(gateway) = order.pop_front()
            {
                let Some(waiting) = all_waiting.get(&gateway) else { continue };
                if waiting.requests == 0 {
                    absent.push_back(gateway);
                    continue;
                }
                // For those that wait now, and for one that is about to.
                waiting.turn.notify_waiters();
                waiting.turn.notify_one();
                let begun = Active::new(waiting.bytes);
                all_waiting.remove(&gateway);
                active.insert(gateway, begun);
            }
            while let Some(gateway) = absent.pop_back() {
                order.push_front(gateway);
            }
        }
    }
}

impl Drop for PageGuard {
    fn drop(&mut self) {
        let Some(turns) = self.turns.upgrade() else { return };
        let mut turns = locked(&turns);
        let Some(active) = turns.active.get_mut(&self.gateway) else { return };
        active.pages = active.pages.saturating_sub(1);
        active.left = active.left.saturating_sub(self.bytes);
        active.used = Instant::now();
        if active.left == 0 && active.pages == 0 {
            turns.active.remove(&self.gateway);
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: usize = 12 << 20;

    fn gateway(number: usize) -> Gateway {
        Gateway::new(format!("g{number:03}").as_bytes(), 1)
    }

    /// Whose turn it is, by number.
    fn active(downloads: &Downloads) -> Vec<usize> {
        let number = |gateway: &Gateway| gateway.node[1..].parse().unwrap();
        let mut active: Vec<usize> = downloads.turns().active.keys().map(number).collect();
        active.sort_unstable();
        active
    }

    /// `AT_ONCE` gateways whose turn it is.
    async fn full() -> Downloads {
        let downloads = Downloads::default();
        for number in 0..AT_ONCE {
            assert!(downloads.turn(&gateway(number), true).has_come(99, TABLE));
        }
        downloads
    }

    async fn fetch_all(downloads: &Downloads, number: usize) {
        for _ in 0..3 {
            drop(downloads.page(&gateway(number), TABLE / 3, TABLE).await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_longest_is_next_and_first_who_holds_nothing() {
        let downloads = full().await;
        let waiting = [100, 101, 102].map(gateway);
        let mut turns = [(0, true), (1, true), (2, false)]
            .map(|(at, has_tables): (usize, _)| downloads.turn(&waiting[at], has_tables));
        for turn in &mut turns {
            assert!(!turn.has_come(99, TABLE));
        }
        let small = gateway(200);
        assert!(downloads.turn(&small, true).has_come(SMALL / 2, SMALL / 2), "what is small does not wait");
        for (at, next) in [(2, 102), (0, 100), (1, 101)] {
            assert!(!turns[at].has_come(99, TABLE));
            let done = active(&downloads)[0];
            fetch_all(&downloads, done).await;
            turns[at].comes().await;
            assert!(turns[at].has_come(99, TABLE));
            assert!(active(&downloads).contains(&next) && !active(&downloads).contains(&done));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_by_the_next_poll_or_by_silence_but_not_while_a_page_is_under_way() {
        let downloads = full().await;
        let (one, next, last) = (gateway(0), gateway(100), gateway(101));
        let page = downloads.page(&one, TABLE / 3, TABLE).await.unwrap();
        let [mut waits, mut waits_too] = [&next, &last].map(|gateway| downloads.turn(gateway, true));
        assert!(!waits.has_come(99, TABLE) && !waits_too.has_come(99, TABLE));
        // The poll of another VM.
        assert!(downloads.turn(&one, true).has_come(99, 0));
        assert!(active(&downloads).contains(&0));
        // It has loaded what it was sent.
        assert!(downloads.turn(&gateway(1), true).has_come(99, 0));
        assert!(active(&downloads).contains(&100) && !active(&downloads).contains(&1));
        tokio::time::advance(IDLE).await;
        downloads.expire();
        assert_eq!(active(&downloads), [0, 101], "of the others none asked for a page");
        drop(page);
        tokio::time::advance(IDLE).await;
        downloads.expire();
        assert!(active(&downloads).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn gateways_that_stop_to_read_hold_up_nobody_for_long() {
        let downloads = full().await;
        let mut pages = Vec::new();
        for number in 0..AT_ONCE {
            pages.push(downloads.page(&gateway(number), TABLE / 3, TABLE).await.unwrap());
        }
        let next = gateway(100);
        let mut waits = downloads.turn(&next, true);
        assert!(!waits.has_come(99, TABLE));
        tokio::time::advance(IDLE).await;
        downloads.expire();
        assert!(!waits.has_come(99, TABLE), "their pages may still arrive");
        tokio::time::advance(STALLED).await;
        downloads.expire();
        waits.comes().await;
        assert!(waits.has_come(99, TABLE));
        drop(pages);
        assert_eq!(active(&downloads), [100], "the ends of their pages are theirs alone");
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_polls_a_place_is_kept_for_a_moment() {
        let downloads = full().await;
        let (early, late) = (gateway(100), gateway(101));
        assert!(!downloads.turn(&early, true).has_come(99, TABLE));
        let mut waits = downloads.turn(&late, true);
        assert!(!waits.has_come(99, TABLE));
        fetch_all(&downloads, 0).await;
        waits.comes().await;
        assert!(active(&downloads).contains(&101), "nothing is kept free for who does not poll");
        fetch_all(&downloads, 1).await;
        assert!(downloads.turn(&early, true).has_come(99, TABLE));

        let early = gateway(102);
        assert!(!downloads.turn(&early, true).has_come(99, TABLE));
        tokio::time::advance(ABSENT).await;
        downloads.expire();
        assert!(downloads.turns().waiting.is_empty() && downloads.turns().order[1].is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_out_of_turn_waits_for_one_and_is_refused_after_a_while() {
        let downloads = full().await;
        assert!(downloads.page(&gateway(100), TABLE / 3, TABLE).await.is_none());
        assert!(downloads.page(&gateway(100), 9, 99).await.is_some(), "a small table's is not");
        let waiting = tokio::spawn({
            let downloads = downloads.clone();
            async move { downloads.page(&gateway(101), TABLE / 3, TABLE).await.is_some() }
        });
        tokio::task::yield_now().await;
        fetch_all(&downloads, 0).await;
        assert!(waiting.await.unwrap());
    }
}
