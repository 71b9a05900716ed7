//! The dashboard under `/ui/`: its pages ask the API of this router, within the process.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::Extensions;
use tidegate_dashboard::{Answer, ApiService, Caller, Dashboard, SignIn, TokenHash};
use tower::ServiceExt as _;
use tower_http::request_id::RequestId;

use super::app_state::AppState;
use crate::auth::{SignedIn, hash_token};
use crate::serve::connections::OpenConnection;

/// All pages; `api`: what they ask.
pub fn routes(api: Router, app: &AppState) -> Router {
    let is_secure = app.tls.people.is_some();
    tidegate_dashboard::router(Dashboard::new(
        Arc::new(ApiInProcess(api)),
        Arc::clone(&app.sessions),
        is_secure,
    ))
}

/// The people's API.
struct ApiInProcess(Router);

impl ApiService for ApiInProcess {
    fn hash(&self, token: &str) -> TokenHash {
        token_hash(&hash_token(token)).unwrap_or(TokenHash([0; 32]))
    }

    fn call(&self, mut request: Request, caller: &Caller) -> Answer {
        // From there changes come, in the audit, and refusals are counted for it.
        if let Some(connection) = caller.extensions.get::<Arc<OpenConnection>>() {
            request.extensions_mut().insert(Arc::clone(connection));
        }
        if let Some(id) = caller.extensions.get::<RequestId>() {
            request.headers_mut().insert("x-request-id", id.header_value().clone());
        }
        request.extensions_mut().insert(SignedIn(caller.token.0));
        let api = self.0.clone();
        Box::pin(async move { api.oneshot(request).await.unwrap_or_else(|never| match never {}) })
    }

    fn log_sign_in(&self, extensions: &Extensions, outcome: SignIn<'_>) {
        let address = extensions.get::<Arc<OpenConnection>>().map(|connection| connection.peer());
        let address = address.map(tracing::field::display);
        match outcome {
            SignIn::Begun { name, by_link } => {
                tracing::info!(by = name, address, by_link, "signed in to the dashboard");
            }
            SignIn::Refused { code } => {
                tracing::warn!(address, code, "a sign-in to the dashboard was refused");
            }
        }
    }
}

/// A stored token's hash as the dashboard has it; `None`: it is no hash.
pub fn token_hash(hash: &str) -> Option<TokenHash> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(hash, &mut bytes).ok()?;
    Some(TokenHash(bytes))
}
