//! Lets requests pass that have a token of the role that their endpoint needs.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tidegate_policy::wire::sync::{GATEWAY_HEADER, Gateway};
use tower_http::request_id::RequestId;
use tracing::Span;

use super::known_tokens::{FoundToken, Tokens};
use super::{Role, RoleTable, token_bound_body};
use crate::api::address_limits::{AddressLimits, TooMany};
use crate::api::query::shortened;
use crate::metrics::{Listener, Metrics, Refusal};
use crate::problem::{Problem, ProblemCode};
use crate::serve::connections::OpenConnection;
use crate::store::{Author, time_text};

/// What a listener requires of requests.
pub struct RoleGuard {
    /// The listener.
    pub listener: Listener,
    /// The stored tokens.
    pub tokens: Arc<Tokens>,
    /// The role that each endpoint needs.
    pub roles: RoleTable,
    /// How often an address may try without one.
    pub limits: AddressLimits,
    /// Where refusals are counted.
    pub metrics: Metrics,
}

/// The hash of the token that a request made within this process is made with, as an extension of it. No request
/// from outside has extensions of its own.
#[derive(Clone, Copy)]
pub struct SignedIn(pub [u8; 32]);

/// Why a request does not pass.
enum Refused {
    /// It may not.
    For(Refusal, Problem),
    /// It is not known whether it may.
    Unknown(Problem),
}

/// Lets a request pass if its token has the role that the endpoint needs. Nothing of the body was
/// read before: whether the token still lets in is asked again where a change is committed
/// ([`Author::token`]), and while an answer is streamed. A refusal is late, or another one, where an
/// address has had many.
///
/// # Errors
/// 401 without a known token, or with one that has ended; 403 with one of another role or of
/// another node; 429 after too many of these.
pub async fn require_role(
    State(guard): State<Arc<RoleGuard>>,
    mut request: Request,
    next: Next,
) -> Result<Response, TooMany> {
    let connection = request.extensions().get::<Arc<OpenConnection>>().cloned();
    if connection.as_ref().is_some_and(|connection| connection.is_reserve()) {
        return Ok(Problem::no_room().into_response());
    }
    let found = guard.find(Credentials::of(&request, &guard.roles)).await;
    match found {
        Ok(token) => {
            connection.iter().for_each(|connection| connection.note_token());
            let author = Author {
                name: Arc::clone(&token.name),
                address: connection.map(|connection| connection.peer()),
                request_id: request_id(&request),
                key: None,
                token: Some(Arc::clone(&token.proof)),
            };
            let proof = Arc::clone(&token.proof);
            drop(token);
            Span::current().record("actor", &*author.name);
            request.extensions_mut().insert(author);
            let answer = next.run(request).await;
            Ok(answer.map(|body| token_bound_body::bound(body, &guard.tokens, proof)))
        }
        Err(Refused::For(why, problem)) => {
            guard.metrics.refused(guard.listener, why);
            guard.limits.wait(connection.as_ref()).await?;
            Ok(problem.into_response())
        }
        Err(Refused::Unknown(problem)) => Ok(problem.into_response()),
    }
}

/// What a request says of who it is from, and the role that it needs.
struct Credentials<'r> {
    needed: Role,
    /// The token's hash; the error says what to send.
    token: Result<[u8; 32], &'static str>,
    gateway: Option<&'r HeaderValue>,
}

impl<'r> Credentials<'r> {
    fn of(request: &'r Request, roles: &RoleTable) -> Self {
        let path = request.extensions().get::<MatchedPath>();
        Self {
            needed: roles.needed(request.method(), path.map(MatchedPath::as_str)),
            token: token_hash(request),
            gateway: request.headers().get(GATEWAY_HEADER),
        }
    }
}

impl RoleGuard {
    /// The token that these name, if it may do what is asked for.
    async fn find(&self, asked: Credentials<'_>) -> Result<FoundToken, Refused> {
        let needed = asked.needed;
        let refused = |why, code, detail: String| {
            Refused::For(why, Problem::new(code, detail).with_needed_role(needed.name()))
        };
        let hash = asked.token.map_err(|missing| {
            let detail = format!("{missing}; a token of the role `{}` is needed here", needed.name());
            refused(Refusal::Missing, ProblemCode::Unauthorized, detail)
        })?;
        let found = self.tokens.find(&hash).await.map_err(|e| Refused::Unknown(Problem::unreadable(&e)))?;
        let token = found.ok_or_else(|| {
            let detail = format!(
                "this token is not known; a token of the role `{0}` is needed here: `tidegate token create --role \
                 {0}` makes one",
                needed.name()
            );
            refused(Refusal::Unknown, ProblemCode::Unauthorized, detail)
        })?;
        let now = time_text::now_ms();
        if token.has_ended(now) {
            let detail = format!(
                "the token `{}` has ended; a token of the role `{}` is needed here",
                token.name,
                needed.name()
            );
            return Err(refused(Refusal::Expired, ProblemCode::TokenExpired, detail));
        }
        if !token.role.is_some_and(|role: Role| role.allows(needed)) {
            let detail =
                format!("this token has the role `{}`, here `{}` is needed", token.proof.role, needed.name());
            return Err(refused(Refusal::WrongRole, ProblemCode::WrongRole, detail));
        }
        if let Some(node) = token.node.as_deref()
            && is_of_another_node(asked.gateway, node)
        {
            let detail = format!("this token is for gateways of the node `{node}`");
            return Err(refused(Refusal::WrongNode, ProblemCode::WrongNode, detail));
        }
        token.note_use(now);
        Ok(token)
    }
}

/// The request's id, shortened: it may be the client's own.
fn request_id(request: &Request) -> Option<Arc<str>> {
    let id = request.extensions().get::<RequestId>()?.header_value().to_str().ok()?;
    Some(shortened(id).into())
}

/// Whether the request says that it comes from a gateway of another node. Questions about requests
/// say nothing of a node, and their answers are the same for all.
fn is_of_another_node(gateway: Option<&HeaderValue>, node: &str) -> bool {
    let Some(gateway) = gateway else { return false };
    let gateway = gateway.to_str().ok().and_then(|text| text.parse::<Gateway>().ok());
    gateway.is_none_or(|gateway| gateway.node != node)
}

/// The hash of the request's token; the error says what to send.
fn token_hash(request: &Request) -> Result<[u8; 32], &'static str> {
    match request.extensions().get::<SignedIn>() {
        Some(SignedIn(hash)) => Ok(*hash),
        None => bearer(request).map(|token| Sha256::digest(token.as_bytes()).into()),
    }
}

/// The token's text; the error says what to send.
fn bearer(request: &Request) -> Result<&str, &'static str> {
    const FORM: &str = "`Authorization` is not of the form `Bearer <token>`";
    let header =
        request.headers().get(AUTHORIZATION).ok_or("send the header `Authorization: Bearer <token>`")?;
    let (scheme, token) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(FORM)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(FORM);
    }
    Ok(token.trim())
}
