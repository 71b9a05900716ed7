//! Bodies of requests, as they are sent: without long pauses, and taken to some extent when they are refused.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::BodyExt as _;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

/// How long there may be nothing; the API has the same.
const PAUSE_TIME: Duration = Duration::from_secs(15);
/// How long all of it may take.
const WHOLE_TIME: Duration = Duration::from_secs(300);
/// Bytes that are still taken of what is refused: a browser that writes before it reads would not see the answer
/// otherwise.
const MAX_DRAINED: usize = 64 << 20;
/// How long they may take.
const DRAINED_FOR: Duration = Duration::from_secs(20);

/// The body of a request that may be refused before all of it has come.
#[derive(Clone)]
pub struct SentBody {
    body: Arc<Mutex<Body>>,
    until: Instant,
}

impl SentBody {
    /// The body of a request that has just come.
    pub fn new(body: Body) -> Self {
        Self { body: Arc::new(Mutex::new(body)), until: Instant::now() + WHOLE_TIME }
    }

    /// The body as it comes. It breaks off when nothing comes for 15 s, or when it takes over five minutes.
    pub fn paced(&self) -> Body {
        Body::from_stream(unfold(Some(self.clone()), async |sent| {
            let sent = sent?;
            let next = sent.next().await?;
            // What has broken off does not go on.
            let rest = next.is_ok().then_some(sent);
            Some((next, rest))
        }))
    }

    async fn next(&self) -> Option<io::Result<Bytes>> {
        let until = self.until.min(Instant::now() + PAUSE_TIME);
        loop {
            let frame = async { self.body.lock().await.frame().await };
            match timeout_at(until, frame).await {
                Err(_) => return Some(Err(io::ErrorKind::TimedOut.into())),
                Ok(frame) => match frame? {
                    Ok(frame) => {
                        // Trailers are not of a form.
                        if let Ok(data) = frame.into_data() {
                            return Some(Ok(data));
                        }
                    }
                    Err(error) => return Some(Err(io::Error::other(error))),
                },
            }
        }
    }

    /// Takes what is still to come of a body that is refused, and throws it away.
    pub async fn drain(&self) {
        let all = async {
            let (mut body, mut taken) = (self.body.lock().await, 0);
            while let Some(Ok(frame)) = body.frame().await {
                taken += frame.data_ref().map_or(0, Bytes::len);
                if taken > MAX_DRAINED {
                    return;
                }
            }
        };
        // Whether it ends or not, the answer is the same.
        let _ = timeout(DRAINED_FOR, all).await;
    }

    /// `answer`, after what is left of the body when it is a refusal.
    ///
    /// # Errors
    /// As `answer`.
    pub async fn after<T, E>(&self, answer: Result<T, E>) -> Result<T, E> {
        if answer.is_err() {
            self.drain().await;
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use futures_util::{StreamExt as _, stream};

    use super::*;

    fn pieces(pause: Duration, count: usize) -> Body {
        Body::from_stream(stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, io::Error>(Bytes::from_static(b"ab"))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_pauses_or_takes_long_breaks_off() {
        let second = Duration::from_secs(1);
        let whole =
            |pause, count| async move { to_bytes(SentBody::new(pieces(pause, count)).paced(), 1_000).await };
        assert_eq!(whole(second, 5).await.unwrap(), "ababababab");
        assert!(whole(PAUSE_TIME + second, 2).await.is_err());
        assert!(whole(PAUSE_TIME - second, 100).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_refused_body_is_taken() {
        let sent = SentBody::new(pieces(Duration::from_secs(1), 10));
        let mut paced = sent.paced().into_data_stream();
        assert!(paced.next().await.is_some());
        assert_eq!(sent.after(Err::<(), _>("refused")).await, Err("refused"));
        assert!(paced.next().await.is_none());
    }
}
