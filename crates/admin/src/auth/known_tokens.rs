//! The stored tokens as requests are compared with them, and when each was last used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

use super::Role;
use crate::store::{AuthorToken, Store, StoreError, TokenRow, time_text};

/// After this long the stored tokens are read again: one that was revoked by another program stops
/// working within this time.
const STALE: Duration = Duration::from_secs(1);
/// An unknown token makes the stored ones be read again, at most this often.
const RETRY: Duration = Duration::from_millis(100);

/// The stored tokens, at most a second old.
pub struct Tokens {
    store: Arc<dyn Store>,
    known: RwLock<CachedTokens>,
    /// Counts the changes by this service: what was read before one is not kept.
    changes: AtomicU64,
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct CachedTokens {
    read_at: Option<Instant>,
    tokens: Arc<[Token]>,
}

/// A stored token in the form in which it is compared, which happens for every question of every
/// gateway.
pub(super) struct Token {
    hash: [u8; 32],
    /// The same with its role, as those whom it lets in keep it.
    pub(super) proof: Arc<AuthorToken>,
    /// The operator's name for it.
    pub(super) name: Arc<str>,
    /// `None`: a text that is no role, which allows nothing.
    pub(super) role: Option<Role>,
    /// The only node whose gateways may use it.
    pub(super) node: Option<String>,
    /// When it ends, in milliseconds since the Unix epoch. An end that cannot be read has passed.
    pub(super) ends: Option<i64>,
    /// When it was last used by a request to this service, in milliseconds since the Unix epoch;
    /// 0: not since the start.
    used: Arc<AtomicI64>,
}

impl Token {
    /// `None` for a row with an invalid hash, which no token can have.
    fn read(row: TokenRow, before: &[Self]) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&row.hash, &mut hash).ok()?;
        let used = before.iter().find(|token| token.hash == hash).map(|token| Arc::clone(&token.used));
        let ends = row.ends_ms();
        Some(Self {
            hash,
            name: row.name.into(),
            role: Role::of_name(&row.role),
            proof: Arc::new(AuthorToken { hash: hex::encode(hash), role: row.role }),
            node: row.node,
            ends,
            used: used.unwrap_or_default(),
        })
    }

    /// Whether its end has come.
    pub(super) fn has_ended(&self, now: i64) -> bool {
        self.ends.is_some_and(|end| end <= now)
    }

    /// Notes that a request came with it.
    pub(super) fn note_use(&self, now: i64) {
        self.used.store(now, Ordering::Relaxed);
    }
}

impl CachedTokens {
    fn is_older_than(&self, age: Duration) -> bool {
        self.read_at.is_none_or(|at| at.elapsed() > age)
    }
}

/// A token among those that were read together.
pub(super) struct FoundToken {
    tokens: Arc<[Token]>,
    index: usize,
}

impl std::ops::Deref for FoundToken {
    type Target = Token;

    fn deref(&self) -> &Token {
        &self.tokens[self.index]
    }
}

impl Tokens {
    /// The tokens of `store`, read at the first use.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            known: RwLock::default(),
            changes: AtomicU64::new(0),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// The stored token with this SHA-256; `None`: there is none.
    pub(super) async fn find(&self, hash: &[u8; 32]) -> Result<Option<FoundToken>, StoreError> {
        for age in [STALE, RETRY] {
            let tokens = self.read(age).await?;
            if let Some(index) = find_in(&tokens, hash) {
                return Ok(Some(FoundToken { tokens, index }));
            }
        }
        Ok(None)
    }

    /// Whether `token` still lets in whom it let in before: within a second after another program revoked it,
    /// at once after this service did.
    ///
    /// # Errors
    /// When the tokens cannot be read.
    pub async fn still_let_in(&self, token: &AuthorToken) -> Result<bool, StoreError> {
        let tokens = self.read(STALE).await?;
        let now = time_text::now_ms();
        Ok(tokens.iter().any(|known| *known.proof == *token && !known.has_ended(now)))
    }

    /// The tokens were changed by this service: the next request reads them again.
    pub fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.known.write().unwrap_or_else(PoisonError::into_inner).read_at = None;
    }

    /// The tokens, at most `age` old. Callers that come during a read wait for that read.
    async fn read(&self, age: Duration) -> Result<Arc<[Token]>, StoreError> {
        let known = self.known();
        if !known.is_older_than(age) {
            return Ok(known.tokens);
        }
        let _one_at_a_time = self.reading.lock().await;
        loop {
            let known = self.known();
            if !known.is_older_than(age) {
                return Ok(known.tokens);
            }
            let changes = self.changes.load(Ordering::SeqCst);
            let rows = self.store.tokens().await?;
            let tokens: Arc<[Token]> =
                rows.into_iter().filter_map(|row| Token::read(row, &known.tokens)).collect();
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if self.changes.load(Ordering::SeqCst) == changes {
                *known = CachedTokens { read_at: Some(Instant::now()), tokens: Arc::clone(&tokens) };
                return Ok(tokens);
            }
        }
    }

    fn known(&self) -> CachedTokens {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes when tokens were last used, those whose time is not in `written` yet.
    ///
    /// # Errors
    /// When the store fails; the next call tries again.
    pub async fn write_uses(&self, written: &mut HashMap<String, i64>) -> Result<(), StoreError> {
        let uses: Vec<(String, i64)> = self
            .known()
            .tokens
            .iter()
            .map(|token| (token.proof.hash.clone(), token.used.load(Ordering::Relaxed)))
            .filter(|(hash, used)| *used > written.get(hash).copied().unwrap_or(0))
            .collect();
        if !uses.is_empty() {
            self.store.note_tokens_used(uses.clone()).await?;
            written.extend(uses);
        }
        Ok(())
    }
}

/// Compares with every byte of every token, also after a match or difference, so that the time
/// tells nothing.
fn find_in(tokens: &[Token], hash: &[u8; 32]) -> Option<usize> {
    let mut found = None;
    for (index, token) in tokens.iter().enumerate() {
        if bool::from(token.hash.ct_eq(hash)) {
            found = Some(index);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::auth::{hash_token, new_token};

    #[test]
    fn tokens_are_found_by_their_hash_only() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        let row = |token: &str| TokenRow { hash: hash_token(token), ..TokenRow::default() };
        let tokens = [&one, &other].map(|token| Token::read(row(token), &[]).unwrap());
        let found = |text: &str| find_in(&tokens, &Sha256::digest(text.as_bytes()).into());
        assert_eq!(found(&other), Some(1));
        assert_eq!(found("tg_"), None);
        assert_eq!(found(&hash_token(&one)), None);
        for bad in ["", "00", &"g".repeat(64), &"+1".repeat(32)] {
            assert!(Token::read(TokenRow { hash: bad.into(), ..row(&one) }, &[]).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_end_that_cannot_be_read_has_passed() {
        let ending = |end: Option<&str>| {
            let row =
                TokenRow { hash: "0".repeat(64), expires_at: end.map(str::to_owned), ..TokenRow::default() };
            Token::read(row, &[]).unwrap().has_ended(1_000)
        };
        assert_eq!(
            [None, Some("2100-01-01"), Some("1970-01-01"), Some("soon")].map(ending),
            [false, false, true, true]
        );
    }
}
