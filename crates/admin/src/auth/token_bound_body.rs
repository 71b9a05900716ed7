//! Bodies of answers that break off when the token of their request lets nobody in any more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use super::Tokens;
use crate::store::AuthorToken;

/// How often the token is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A body that is made while it is sent, which may take minutes.
struct TokenBoundBody {
    body: Body,
    /// Ends when the token lets nobody in any more; `None`: it has ended.
    token_gone: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// `body`, which breaks off within about a second after `token` was revoked or has ended. One whose length is
/// known is in memory already, and stays as it is.
pub(super) fn bound(body: Body, tokens: &Arc<Tokens>, token: Arc<AuthorToken>) -> Body {
    if body.size_hint().exact().is_some() {
        return body;
    }
    Body::new(TokenBoundBody { body, token_gone: Some(Box::pin(until_gone(Arc::clone(tokens), token))) })
}

/// While the tokens cannot be read, nobody is known to be gone.
async fn until_gone(tokens: Arc<Tokens>, token: Arc<AuthorToken>) {
    while tokens.still_let_in(&token).await.unwrap_or(true) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl hyper::body::Body for TokenBoundBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(gone) = &mut self.token_gone else { return Poll::Ready(None) };
        if gone.as_mut().poll(cx).is_ready() {
            self.token_gone = None;
            self.body = Body::empty();
            return Poll::Ready(Some(Err(io::Error::other("the token was revoked or has ended").into())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.token_gone.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
