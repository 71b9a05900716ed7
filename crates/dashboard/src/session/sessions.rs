//! Sessions of visitors, and one-time links that begin one. They are in memory: whoever signed in does so again
//! after a restart of the service.
//!
//! A session stands for a token. It holds neither the token nor rights of its own: each request asks the API
//! with the token's hash, so a token that is revoked, or ends, or has another role, has that effect at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::upload::Upload;
use crate::api::TokenHash;

/// The page that signs in.
pub const SIGN_IN_PATH: &str = "/ui/sign-in";
/// A session ends when nothing was asked for so long. Live parts of an open page do not count.
pub const IDLE: Duration = Duration::from_secs(60 * 60);
/// And after so long in any case.
pub const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);
/// Sessions of one token, at most; beyond it the one of them that was used longest ago ends. Other tokens' sessions
/// never end for it.
const MAX_SESSIONS_OF_TOKEN: usize = 20;
/// Sessions of all tokens, at most; beyond it only a token that has one gets another, in the place of its own.
const MAX_SESSIONS: usize = 1_000;
/// How long a one-time link works.
pub const LINK_FOR: Duration = Duration::from_secs(15 * 60);
/// Links of one token, at most; beyond it its oldest ends.
const MAX_LINKS_OF_TOKEN: usize = 10;
/// Links of all tokens, at most; as with sessions.
const MAX_LINKS: usize = 1_000;
/// Streams of a session's open pages, at most.
const MAX_STREAMS: usize = 8;
/// Streams of all sessions of a token, at most.
const MAX_STREAMS_OF_TOKEN: usize = 16;
/// Notices that wait for a session's next page, at most.
const MAX_NOTICES: usize = 8;

/// Random bytes of a session's cookie, a form's secret, and a link.
type Secret = [u8; 32];
/// The SHA-256 of a secret, which is what is kept of cookies and links.
pub(super) type SecretHash = [u8; 32];

/// A session's secrets, in clear only in the visitor's browser.
#[derive(Clone, Copy)]
pub struct SessionId(pub(super) SecretHash);

/// All sessions and links.
#[derive(Default)]
pub struct Sessions(Mutex<Table>);

#[derive(Default)]
pub(super) struct Table {
    pub(super) sessions: HashMap<SecretHash, Session>,
    links: HashMap<SecretHash, Link>,
}

pub(super) struct Session {
    token: TokenHash,
    form_secret: Secret,
    began: Instant,
    used: Instant,
    notices: Vec<String>,
    /// A list that waits to be imported, and since when.
    pub(super) upload: Option<(Instant, Upload)>,
    /// Places for streams.
    streams: Arc<Semaphore>,
    /// The place of who sends a list.
    sending: Arc<Semaphore>,
}

impl Session {
    fn new(token: TokenHash, form_secret: Secret, now: Instant) -> Self {
        let (notices, upload) = Default::default();
        let (streams, sending) = (Arc::new(Semaphore::new(MAX_STREAMS)), Arc::new(Semaphore::new(1)));
        Self { token, form_secret, began: now, used: now, notices, upload, streams, sending }
    }
}

struct Link {
    token: TokenHash,
    made: Instant,
}

/// Why a secret cannot be made.
#[derive(Debug)]
pub struct NoRandomBytes;

/// Why there is no session, or no link.
#[derive(Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// The operating system gives no random bytes.
    NoRandomBytes,
    /// There are as many as there may be, of other tokens.
    TooMany,
}

impl From<NoRandomBytes> for NotBegun {
    fn from(_: NoRandomBytes) -> Self {
        Self::NoRandomBytes
    }
}

impl Sessions {
    /// Begins a session of a token, and gives the text of its cookie.
    ///
    /// # Errors
    /// When the operating system gives no random bytes, or other tokens have all sessions.
    pub fn begin(&self, token: TokenHash) -> Result<String, NotBegun> {
        let (cookie, form_secret) = (secret()?, secret()?);
        let now = Instant::now();
        let mut table = self.table();
        table.end_old(now);
        make_room(&mut table.sessions, [MAX_SESSIONS_OF_TOKEN, MAX_SESSIONS], |session| {
            (session.token == token).then_some(session.used)
        })?;
        table.sessions.insert(hash(&cookie), Session::new(token, form_secret, now));
        Ok(hex::encode(cookie))
    }

    /// The session of a cookie, and its token; `counts`: this is a use, from which its idle time begins anew.
    pub fn find(&self, cookie: &str, counts: bool) -> Option<(SessionId, TokenHash)> {
        let mut secret = Secret::default();
        hex::decode_to_slice(cookie, &mut secret).ok()?;
        let id = hash(&secret);
        let now = Instant::now();
        let mut table = self.table();
        table.end_old(now);
        let session = table.sessions.get_mut(&id)?;
        if counts {
            session.used = now;
        }
        Some((SessionId(id), session.token))
    }

    /// Ends one session.
    pub fn end(&self, id: SessionId) {
        self.table().sessions.remove(&id.0);
    }

    /// Ends all sessions of a token, and its links. Returns how many sessions that were.
    pub fn end_all(&self, token: TokenHash) -> usize {
        let mut table = self.table();
        let before = table.sessions.len();
        table.sessions.retain(|_, session| session.token != token);
        table.links.retain(|_, link| link.token != token);
        before - table.sessions.len()
    }

    /// What a form of this session carries, so that no other site can send it. It is another text each time, for
    /// pages are compressed: what is the same in each could be guessed by the length of what is around it.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn form_token(&self, id: SessionId) -> Result<String, NoRandomBytes> {
        let mask = secret()?;
        let table = self.table();
        let Some(session) = table.sessions.get(&id.0) else { return Ok(String::new()) };
        Ok(format!("{}{}", hex::encode(mask), hex::encode(xor(&mask, &session.form_secret))))
    }

    /// Whether a form of this session carried this.
    pub fn is_form_token(&self, id: SessionId, text: &str) -> bool {
        let mut both = [0; 64];
        if hex::decode_to_slice(text, &mut both).is_err() {
            return false;
        }
        let mut halves = [Secret::default(); 2];
        halves[0].copy_from_slice(&both[..32]);
        halves[1].copy_from_slice(&both[32..]);
        let table = self.table();
        let secret = table.sessions.get(&id.0).map(|session| session.form_secret);
        secret.is_some_and(|secret| xor(&halves[0], &halves[1]).ct_eq(&secret).into())
    }

    /// Keeps a notice for the session's next page.
    pub fn note(&self, id: SessionId, notice: String) {
        let mut table = self.table();
        let notices = table.sessions.get_mut(&id.0).map(|session| &mut session.notices);
        if let Some(notices) = notices.filter(|notices| notices.len() < MAX_NOTICES) {
            notices.push(notice);
        }
    }

    /// Takes the session's notices.
    pub fn take_notices(&self, id: SessionId) -> Vec<String> {
        let mut table = self.table();
        table.sessions.get_mut(&id.0).map(|session| std::mem::take(&mut session.notices)).unwrap_or_default()
    }

    /// Makes a link that signs in once, for a token: its path, with what begins the session.
    ///
    /// # Errors
    /// When the operating system gives no random bytes, or other tokens have all links.
    pub fn make_link(&self, token: TokenHash) -> Result<String, NotBegun> {
        let code = secret()?;
        let now = Instant::now();
        let mut table = self.table();
        table.end_old(now);
        make_room(&mut table.links, [MAX_LINKS_OF_TOKEN, MAX_LINKS], |link| {
            (link.token == token).then_some(link.made)
        })?;
        table.links.insert(hash(&code), Link { token, made: now });
        Ok(format!("{SIGN_IN_PATH}?code={}", hex::encode(code)))
    }

    /// Takes the token of a link, which works no more after that.
    pub fn take_link(&self, code: &str) -> Option<TokenHash> {
        let mut secret = Secret::default();
        hex::decode_to_slice(code, &mut secret).ok()?;
        let mut table = self.table();
        table.end_old(Instant::now());
        table.links.remove(&hash(&secret)).map(|link| link.token)
    }

    /// A place for a stream of this session; `None`: it, or its token, has as many as it may have.
    pub fn stream_place(&self, id: SessionId) -> Option<OwnedSemaphorePermit> {
        let table = self.table();
        let session = table.sessions.get(&id.0)?;
        let of_token = table.sessions.values().filter(|other| other.token == session.token);
        let taken: usize = of_token.map(|other| MAX_STREAMS - other.streams.available_permits()).sum();
        if taken >= MAX_STREAMS_OF_TOKEN {
            return None;
        }
        Arc::clone(&session.streams).try_acquire_owned().ok()
    }

    /// The place of who sends a list in this session; `None`: it is taken.
    pub fn sending_place(&self, id: SessionId) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.table().sessions.get(&id.0)?.sending).try_acquire_owned().ok()
    }

    /// Whether a session has not ended. This is no use of it.
    pub fn is_open(&self, id: SessionId) -> bool {
        let mut table = self.table();
        table.end_old(Instant::now());
        table.sessions.contains_key(&id.0)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn end_old(&mut self, now: Instant) {
        self.sessions.retain(|_, session| {
            now.duration_since(session.used) < IDLE && now.duration_since(session.began) < LONGEST
        });
        self.links.retain(|_, link| now.duration_since(link.made) < LINK_FOR);
    }
}

/// Takes out the oldest of a token's own where there are as many as there may be. `most`: of one token, and of all;
/// `age`: what the token's own are ordered by, `None`: it is of another token.
fn make_room<T>(
    table: &mut HashMap<SecretHash, T>,
    most: [usize; 2],
    age: impl Fn(&T) -> Option<Instant>,
) -> Result<(), NotBegun> {
    let own = || table.iter().filter_map(|(id, one)| Some((age(one)?, *id)));
    if own().count() < most[0] && table.len() < most[1] {
        return Ok(());
    }
    let (_, oldest) = own().min().ok_or(NotBegun::TooMany)?;
    table.remove(&oldest);
    Ok(())
}

fn secret() -> Result<Secret, NoRandomBytes> {
    let mut bytes = Secret::default();
    getrandom::fill(&mut bytes).map_err(|_| NoRandomBytes)?;
    Ok(bytes)
}

/// A random text for a form, by which a second sending of it is known.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn once_key() -> Result<String, NoRandomBytes> {
    Ok(hex::encode(&secret()?[..16]))
}

fn hash(secret: &Secret) -> SecretHash {
    Sha256::digest(secret).into()
}

fn xor(one: &Secret, other: &Secret) -> Secret {
    std::array::from_fn(|index| one[index] ^ other[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: TokenHash = TokenHash([7; 32]);
    const OTHER: TokenHash = TokenHash([8; 32]);

    #[test]
    fn a_session_is_found_by_its_cookie_until_it_ends() {
        let sessions = Sessions::default();
        let cookie = sessions.begin(TOKEN).unwrap();
        let (id, token) = sessions.find(&cookie, true).unwrap();
        assert_eq!(token, TOKEN);
        for wrong in ["", "00", &"0".repeat(64), &cookie[1..], &format!("{cookie}0")] {
            assert!(sessions.find(wrong, true).is_none(), "{wrong}");
        }
        sessions.end(id);
        assert!(sessions.find(&cookie, true).is_none());
    }

    #[test]
    fn all_sessions_of_a_token_end_together() {
        let sessions = Sessions::default();
        let cookies = [TOKEN, OTHER, TOKEN].map(|token| sessions.begin(token).unwrap());
        let link = sessions.make_link(TOKEN).unwrap();
        assert_eq!(sessions.end_all(TOKEN), 2);
        assert_eq!(cookies.map(|cookie| sessions.find(&cookie, true).is_some()), [false, true, false]);
        assert!(sessions.take_link(link.split_once('=').unwrap().1).is_none());
    }

    #[test]
    fn an_idle_session_ends_and_so_does_an_old_one() {
        let sessions = Sessions::default();
        sessions.begin(TOKEN).unwrap();
        let now = Instant::now();
        let mut table = sessions.table();
        table.end_old(now + IDLE - Duration::from_secs(1));
        assert_eq!(table.sessions.len(), 1);
        table.sessions.values_mut().for_each(|session| session.used = now + LONGEST);
        table.end_old(now + LONGEST - Duration::from_secs(1));
        assert_eq!(table.sessions.len(), 1);
        table.end_old(now + LONGEST + Duration::from_secs(1));
        assert_eq!(table.sessions.len(), 0);
    }

    #[test]
    fn a_form_token_is_of_its_session_and_another_text_each_time() {
        let sessions = Sessions::default();
        let ids = [TOKEN, TOKEN].map(|token| {
            let cookie = sessions.begin(token).unwrap();
            sessions.find(&cookie, true).unwrap().0
        });
        let (one, two) = (sessions.form_token(ids[0]).unwrap(), sessions.form_token(ids[0]).unwrap());
        assert_ne!(one, two);
        assert!(sessions.is_form_token(ids[0], &one) && sessions.is_form_token(ids[0], &two));
        assert!(!sessions.is_form_token(ids[1], &one));
        for wrong in ["", "00", &"0".repeat(128)] {
            assert!(!sessions.is_form_token(ids[0], wrong), "{wrong}");
        }
        sessions.end(ids[0]);
        assert!(!sessions.is_form_token(ids[0], &one));
    }

    #[test]
    fn a_link_works_once_and_not_for_long() {
        let sessions = Sessions::default();
        let code = |link: String| link.split_once("?code=").unwrap().1.to_owned();
        let link = code(sessions.make_link(TOKEN).unwrap());
        assert_eq!(sessions.take_link(&link), Some(TOKEN));
        assert_eq!(sessions.take_link(&link), None);
        let late = code(sessions.make_link(TOKEN).unwrap());
        sessions.table().end_old(Instant::now() + LINK_FOR);
        assert_eq!(sessions.take_link(&late), None);
        let of_other = code(sessions.make_link(OTHER).unwrap());
        for _ in 0..MAX_LINKS_OF_TOKEN + 1 {
            sessions.make_link(TOKEN).unwrap();
        }
        assert_eq!(sessions.table().links.len(), MAX_LINKS_OF_TOKEN + 1);
        assert_eq!(sessions.take_link(&of_other), Some(OTHER));
    }

    #[test]
    fn the_tokens_own_session_that_was_used_longest_ago_makes_room() {
        let sessions = Sessions::default();
        let of_other = sessions.begin(OTHER).unwrap();
        let first = sessions.begin(TOKEN).unwrap();
        let second = sessions.begin(TOKEN).unwrap();
        for _ in 2..MAX_SESSIONS_OF_TOKEN {
            sessions.begin(TOKEN).unwrap();
        }
        sessions.find(&first, true).unwrap();
        sessions.begin(TOKEN).unwrap();
        assert!(sessions.find(&first, true).is_some() && sessions.find(&second, true).is_none());
        assert!(sessions.find(&of_other, true).is_some());
    }

    #[test]
    fn where_others_have_all_sessions_none_of_them_ends() {
        let sessions = Sessions::default();
        let token = |number: usize| TokenHash(Sha256::digest(number.to_be_bytes()).into());
        let cookies: Vec<_> =
            (0..MAX_SESSIONS).map(|number| sessions.begin(token(number)).unwrap()).collect();
        assert_eq!(sessions.begin(TOKEN), Err(NotBegun::TooMany));
        // Who has one gets another in its place.
        sessions.begin(token(0)).unwrap();
        assert!(sessions.find(&cookies[0], true).is_none());
        assert!(cookies[1..].iter().all(|cookie| sessions.find(cookie, true).is_some()));
    }

    #[test]
    fn a_session_and_a_token_have_only_so_many_streams() {
        let sessions = Sessions::default();
        let session = |token| sessions.find(&sessions.begin(token).unwrap(), true).unwrap().0;
        let ids: Vec<_> = (0..3).map(|_| session(TOKEN)).collect();
        let mut places = Vec::new();
        for id in &ids {
            while let Some(place) = sessions.stream_place(*id) {
                places.push((id.0, place));
            }
        }
        let of = |id: &SessionId| places.iter().filter(|(other, _)| *other == id.0).count();
        assert_eq!([of(&ids[0]), of(&ids[1]), of(&ids[2])], [8, 8, 0]);
        assert!(sessions.stream_place(session(OTHER)).is_some());
        places.clear();
        assert!(sessions.stream_place(ids[2]).is_some());
        let sending = sessions.sending_place(ids[0]).unwrap();
        assert!(sessions.sending_place(ids[0]).is_none() && sessions.sending_place(ids[1]).is_some());
        drop(sending);
        assert!(sessions.sending_place(ids[0]).is_some());
    }
}
