//! Bearer tokens: created here, stored as hashes only, and compared in constant time.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::api::address_limits::{AddressLimits, TooMany};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::serve::connections::OpenConnection;
use crate::store::{Store, StoreError, TokenRow};

/// Prefix of every token, by which secret scanners can find leaked ones.
pub const TOKEN_PREFIX: &str = "tg_";
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// After this long the stored tokens are read again: a revoked token stops working within this
/// time.
const STALE: Duration = Duration::from_secs(1);
/// An unknown token makes the stored ones be read again, at most this often.
const RETRY: Duration = Duration::from_millis(100);

/// What a token allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Scope {
    /// Everything on the people's listener.
    Admin,
    /// Everything on the gateways' listener.
    Gateway,
}

impl Scope {
    /// The name in the database and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Gateway => "gateway",
        }
    }
}

/// A new token: its text, which is shown once and not stored.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn new_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{TOKEN_PREFIX}{}", hex::encode(bytes)))
}

/// The hash that is stored for `token`. A plain hash is enough: the token is
/// 256 random bits, not a password.
#[must_use]
pub fn hash_token(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// The owner of a request's token; in the request's extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token's name, given by the operator.
    pub name: Arc<str>,
}

/// The stored tokens, at most a second old.
pub struct Tokens {
    store: Arc<dyn Store>,
    known: RwLock<CachedTokens>,
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct CachedTokens {
    read_at: Option<Instant>,
    tokens: Arc<[Token]>,
}

/// A stored token in the form in which it is compared, which happens for every question of every
/// gateway.
struct Token {
    hash: [u8; 32],
    name: Arc<str>,
    scope: String,
}

impl Token {
    /// `None` for a row with an invalid hash, which no token can have.
    fn read(row: TokenRow) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&row.hash, &mut hash).ok()?;
        Some(Self { hash, name: row.name.into(), scope: row.scope })
    }
}

impl CachedTokens {
    fn is_older_than(&self, age: Duration) -> bool {
        self.read_at.is_none_or(|at| at.elapsed() > age)
    }
}

impl Tokens {
    /// The tokens of `store`, read at the first use.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, known: RwLock::default(), reading: tokio::sync::Mutex::default() }
    }

    /// The owner of this token, if it is known and of `scope`.
    async fn find(&self, token: &str, scope: Scope) -> ApiResult<Caller> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        for age in [STALE, RETRY] {
            let tokens = self.read(age).await.map_err(|error| Problem::unreadable(&error))?;
            let Some(found) = find_in(&tokens, &hash) else { continue };
            if found.scope == scope.name() {
                return Ok(Caller { name: Arc::clone(&found.name) });
            }
            let detail =
                format!("this token has the scope `{}`, here `{}` is needed", found.scope, scope.name());
            return Err(Problem::new(ProblemCode::WrongScope, detail));
        }
        let detail = "this token is not known: `tidegate token create` makes one";
        Err(Problem::new(ProblemCode::Unauthorized, detail))
    }

    /// The tokens, at most `age` old. Callers that come during a read wait for that read.
    async fn read(&self, age: Duration) -> Result<Arc<[Token]>, StoreError> {
        let known = self.known();
        if !known.is_older_than(age) {
            return Ok(known.tokens);
        }
        let _one_at_a_time = self.reading.lock().await;
        let known = self.known();
        if !known.is_older_than(age) {
            return Ok(known.tokens);
        }
        let tokens: Arc<[Token]> = self.store.tokens().await?.into_iter().filter_map(Token::read).collect();
        let fresh = CachedTokens { read_at: Some(Instant::now()), tokens: Arc::clone(&tokens) };
        *self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
        Ok(tokens)
    }

    fn known(&self) -> CachedTokens {
        self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Compares with every byte of every token, also after a match or difference, so that the time
/// tells nothing.
fn find_in<'t>(tokens: &'t [Token], hash: &[u8; 32]) -> Option<&'t Token> {
    let mut found = None;
    for token in tokens {
        if bool::from(token.hash.ct_eq(hash)) {
            found = Some(token);
        }
    }
    found
}

/// What a listener requires: a known token of this scope.
#[derive(Clone)]
pub struct RequiredScope {
    /// The stored tokens.
    pub tokens: Arc<Tokens>,
    /// The scope that a token needs here.
    pub scope: Scope,
    /// How often an address may try without one.
    pub limits: AddressLimits,
}

/// Lets a request pass if its token has the required scope. Nothing of the body was read before. A
/// refusal is late, or another one, where an address has had many.
///
/// # Errors
/// 401 without a known token, 403 with one of another scope, 429 after too many of these.
pub async fn require_scope(
    State(required): State<RequiredScope>,
    mut request: Request,
    next: Next,
) -> Result<Response, TooMany> {
    let connection = request.extensions().get::<Arc<OpenConnection>>().cloned();
    let found = match bearer(&request) {
        Ok(token) => required.tokens.find(token, required.scope).await,
        Err(missing) => Err(missing),
    };
    match found {
        Ok(caller) => {
            connection.iter().for_each(|connection| connection.note_token());
            request.extensions_mut().insert(caller);
            Ok(next.run(request).await)
        }
        Err(refusal) => {
            if matches!(refusal.code(), ProblemCode::Unauthorized | ProblemCode::WrongScope) {
                required.limits.wait(connection.as_ref()).await?;
            }
            Ok(refusal.into_response())
        }
    }
}

fn bearer(request: &Request) -> ApiResult<&str> {
    let missing = |detail| Problem::new(ProblemCode::Unauthorized, detail);
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .ok_or_else(|| missing("send the header `Authorization: Bearer <token>`"))?;
    let (scheme, token) = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(|| missing("`Authorization` is not of the form `Bearer <token>`"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing("`Authorization` is not of the form `Bearer <token>`"));
    }
    Ok(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_random_and_found_by_their_hash_only() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), TOKEN_PREFIX.len() + 2 * TOKEN_BYTES);
        let row = |token: &str| TokenRow { hash: hash_token(token), name: "n".into(), scope: "admin".into() };
        let tokens = [&one, &other].map(|token| Token::read(row(token)).unwrap());
        let found = |text: &str| find_in(&tokens, &Sha256::digest(text.as_bytes()).into()).map(|t| t.hash);
        assert_eq!(found(&other), Some(tokens[1].hash));
        assert_eq!(found("tg_"), None);
        assert_eq!(found(&hash_token(&one)), None);
        for bad in ["", "00", &"g".repeat(64), &"+1".repeat(32)] {
            assert!(Token::read(TokenRow { hash: bad.into(), ..row(&one) }).is_none(), "{bad}");
        }
    }
}
