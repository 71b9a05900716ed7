//! Which connections of a listener may stay when there are too many: each address has its share,
//! and who has shown a token goes last.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::lock::locked;

/// Connections beyond the limit: of these only `/api/health` and `/metrics` are answered, so that
/// whoever looks after the service is told why nobody else is.
pub const RESERVE: usize = 16;
/// From accepting a connection until the whole head of its first request has come.
const FIRST_HEAD_TIME: Duration = Duration::from_secs(10);
/// The connection of a caller with a token is not closed within this time after its last answer,
/// which may still be on its way.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Health says that there is no room for this long after a connection was closed for another.
const SAID_FOR: Duration = Duration::from_secs(60);

/// The addresses that share one share: an IPv4 address, or 64 bits of an IPv6 one, which are a
/// single customer's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressBlock(IpAddr);

impl From<IpAddr> for AddressBlock {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 => v4,
        })
    }
}

/// One open connection. Requests have it among their extensions.
#[derive(Debug)]
pub struct OpenConnection {
    peer: IpAddr,
    from: AddressBlock,
    opened: Instant,
    /// It was accepted beyond the limit.
    is_reserve: bool,
    /// Milliseconds after `opened` at which it was last of use: when it was opened, or its last
    /// request ended.
    used_ms: AtomicU64,
    /// Whether a whole request head has come.
    has_asked: AtomicBool,
    /// Whether a request with a known token has come.
    has_token: AtomicBool,
    /// Requests that are being answered; not those that are made to wait.
    busy: AtomicUsize,
    close: Notify,
}

impl OpenConnection {
    /// The address at the other end, an IPv4 address as such.
    #[must_use]
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The block of the address at the other end.
    #[must_use]
    pub fn from(&self) -> AddressBlock {
        self.from
    }

    /// Whether only the open paths are answered on it.
    #[must_use]
    pub fn is_reserve(&self) -> bool {
        self.is_reserve
    }

    /// A request came with a known token.
    pub fn note_token(&self) {
        self.has_token.store(true, Ordering::Relaxed);
    }

    fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }

    /// A request begins; it ends when the guard is dropped.
    pub fn request(self: &Arc<Self>) -> RequestGuard {
        self.has_asked.store(true, Ordering::Relaxed);
        self.busy.fetch_add(1, Ordering::Relaxed);
        RequestGuard(Arc::clone(self))
    }

    /// One of its requests is made to wait, until the guard is dropped. Meanwhile the connection counts as
    /// idle: whoever asks too much must not hold places by that.
    pub fn wait(&self) -> WaitGuard<'_> {
        self.busy.fetch_sub(1, Ordering::Relaxed);
        WaitGuard(self)
    }

    /// Returns when the connection must be closed to make room.
    pub async fn displaced(&self) {
        self.close.notified().await;
    }

    /// How long it has been of no use; `None` while a request is being answered.
    fn idle_for(&self, now: Instant) -> Option<Duration> {
        let used = self.opened + Duration::from_millis(self.used_ms.load(Ordering::Relaxed));
        (self.busy.load(Ordering::Relaxed) == 0).then(|| now.saturating_duration_since(used))
    }
}

/// A request that is being answered.
pub struct RequestGuard(Arc<OpenConnection>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let since = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.used_ms.store(since, Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is made to wait.
pub struct WaitGuard<'c>(&'c OpenConnection);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a connection was closed by the listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// It had sent no whole request head within the time for that.
    Silent,
    /// Another one needed its place.
    Displaced,
    /// There was no place for it, and none could be made.
    Refused,
    /// It was not even accepted. Counts the tries: it waits, and is tried again.
    Failed,
}

impl CloseReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Silent, Self::Displaced, Self::Refused, Self::Failed];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Displaced => "displaced",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The open connections of one listener.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    first_head_time: Duration,
    open: Mutex<OpenSet>,
    closed: [AtomicU64; CloseReason::ALL.len()],
    /// When there was last no room.
    full_at: Mutex<Option<Instant>>,
    /// When none could be accepted last, and why.
    failed: Mutex<Option<(Instant, String)>>,
}

#[derive(Default, Debug)]
struct OpenSet {
    next: u64,
    all: HashMap<u64, Arc<OpenConnection>>,
}

/// A connection's place; given up when it is dropped.
pub struct Place {
    of: Arc<Connections>,
    number: u64,
    /// The connection.
    pub connection: Arc<OpenConnection>,
}

impl Place {
    /// Returns if no whole request head comes in the time for that.
    pub async fn is_silent(&self) {
        tokio::time::sleep(self.of.first_head_time).await;
        if self.connection.has_asked() {
            std::future::pending::<()>().await;
        }
    }

    /// Counts this connection as closed by the listener.
    pub fn count(&self, why: CloseReason) {
        self.of.count(why);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.of.open).all.remove(&self.number);
    }
}

impl Connections {
    /// At most `limit` connections, and [`RESERVE`] beyond.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Self::with_head_time(limit, FIRST_HEAD_TIME)
    }

    /// The same with another time for the first request head.
    #[must_use]
    pub fn with_head_time(limit: usize, first_head_time: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            first_head_time,
            open: Mutex::default(),
            closed: Default::default(),
            full_at: Mutex::default(),
            failed: Mutex::default(),
        })
    }

    /// A place for a connection from `from`. If there is none, one that is idle is closed for it;
    /// if there is none of those either, the new one gets a place of the reserve. `None`: that is
    /// taken, too.
    pub fn place(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let now = Instant::now();
        let mut open = locked(&self.open);
        if open.all.len() >= self.limit
            && let Some(number) = open.least_useful(now)
            && let Some(connection) = open.all.remove(&number)
        {
            connection.close.notify_one();
            self.count(CloseReason::Displaced);
        }
        let is_reserve = open.all.len() >= self.limit;
        if open.all.len() >= self.limit + RESERVE {
            self.count(CloseReason::Refused);
            return None;
        }
        let connection = Arc::new(OpenConnection {
            peer: from.to_canonical(),
            from: from.into(),
            opened: now,
            is_reserve,
            used_ms: AtomicU64::new(0),
            has_asked: AtomicBool::new(false),
            has_token: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            close: Notify::new(),
        });
        let number = open.next;
        open.next += 1;
        open.all.insert(number, Arc::clone(&connection));
        Some(Place { of: Arc::clone(self), number, connection })
    }

    /// Counts a connection that the listener closed.
    pub fn count(&self, why: CloseReason) {
        self.closed[why as usize].fetch_add(1, Ordering::Relaxed);
        if why != CloseReason::Silent {
            *locked(&self.full_at) = Some(Instant::now());
        }
    }

    /// Notes that no connection could be accepted: most likely there are no descriptors left.
    pub fn note_failure(&self, error: &std::io::Error) {
        self.closed[CloseReason::Failed as usize].fetch_add(1, Ordering::Relaxed);
        *locked(&self.failed) = Some((Instant::now(), error.to_string()));
    }

    /// Why no connection could be accepted within the last minute, if that was so.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let failed = locked(&self.failed);
        failed.as_ref().filter(|(at, _)| at.elapsed() < SAID_FOR).map(|(_, why)| why.clone())
    }

    /// Connections closed so far, for this reason.
    #[must_use]
    pub fn closed(&self, why: CloseReason) -> u64 {
        self.closed[why as usize].load(Ordering::Relaxed)
    }

    /// Open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        locked(&self.open).all.len()
    }

    /// The most connections without the reserve.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether there was no room for a connection within the last minute.
    #[must_use]
    pub fn was_full(&self) -> bool {
        locked(&self.full_at).is_some_and(|at| at.elapsed() < SAID_FOR)
    }
}

impl OpenSet {
    /// The connection to close for another one: of those without a token if there are any that
    /// are idle, else of those with one, from the address that has most of them, the one that was
    /// of no use for longest.
    fn least_useful(&self, now: Instant) -> Option<u64> {
        [false, true].into_iter().find_map(|has_token| {
            let of_kind =
                || self.all.iter().filter(move |(_, one)| one.has_token.load(Ordering::Relaxed) == has_token);
            let mut by_address = HashMap::<AddressBlock, usize>::new();
            of_kind().for_each(|(_, one)| *by_address.entry(one.from).or_default() += 1);
            let least = if has_token { ANSWER_TIME } else { Duration::ZERO };
            let idle = of_kind().filter_map(|(&number, one)| Some((number, one, one.idle_for(now)?)));
            idle.filter(|(.., idle_for)| *idle_for >= least)
                .max_by_key(|(number, one, idle_for)| {
                    (by_address.get(&one.from).copied(), *idle_for, std::cmp::Reverse(*number))
                })
                .map(|(number, ..)| number)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn numbers(of: &Connections) -> Vec<u64> {
        let mut numbers: Vec<u64> = locked(&of.open).all.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn the_address_with_most_connections_gives_one_up() {
        let of = Connections::new(4);
        let _silent = [of.place(from(1)), of.place(from(2)), of.place(from(2)), of.place(from(2))];
        let _new = of.place(from(3)).unwrap();
        assert_eq!(numbers(&of), [0, 2, 3, 4], "the oldest of 192.0.2.2");
        assert_eq!((of.closed(CloseReason::Displaced), of.was_full()), (1, true));
        let near = [1, 2]
            .map(|end| AddressBlock::from(IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, end, 0, 0, end))));
        assert_eq!(near[0], near[1]);
    }

    #[test]
    fn whoever_is_answered_or_has_a_token_goes_last() {
        let of = Connections::new(3);
        let places = [1, 1, 2].map(|last| of.place(from(last)).unwrap());
        places[0].connection.note_token();
        let busy = places[1].connection.request();
        let first = of.place(from(3)).unwrap();
        assert_eq!(numbers(&of), [0, 1, 3], "192.0.2.2 had fewer, and was idle");
        let guard = first.connection.request();
        // Nobody is idle but the one with a token, whose answer may be on its way.
        let in_reserve = |_| {
            let place = of.place(from(9)).unwrap();
            assert!(place.connection.is_reserve());
            (place.connection.request(), place)
        };
        let reserve: Vec<_> = (0..RESERVE).map(in_reserve).collect();
        assert!(of.place(from(9)).is_none());
        assert_eq!(of.closed(CloseReason::Refused), 1);
        drop((reserve, busy, guard));
        assert!(of.place(from(4)).is_some_and(|place| !place.connection.is_reserve()));
    }

    #[test]
    fn a_request_that_is_made_to_wait_holds_no_place() {
        let of = Connections::new(3);
        let places = [1, 1, 2].map(|last| of.place(from(last)).unwrap());
        let _requests = [0, 1, 2].map(|at: usize| places[at].connection.request());
        let waits = places[1].connection.wait();
        let new = of.place(from(3)).unwrap();
        assert_eq!((numbers(&of), new.connection.is_reserve()), (vec![0, 2, 3], false));
        drop(waits);
        let _answered = new.connection.request();
        assert!(of.place(from(4)).unwrap().connection.is_reserve(), "the others are being answered");
    }
}
