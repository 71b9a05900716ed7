//! TLS of a listener: certificate, key and the authority of clients from PEM files, which are read
//! again while the service runs.

mod credentials;
mod files;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::lock::locked;
use credentials::Credentials;
pub use files::TlsFiles;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A certificate ends soon this long before its end; one of a short life in the last fifth of it.
const SOON: Duration = Duration::from_secs(14 * 86_400);
/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// TLS of one listener.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    state: Mutex<State>,
    failed_handshakes: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// What new connections begin with.
    credentials: Credentials,
    /// Hash of the files as they were last read, or why they could not be.
    read: Result<[u8; 32], String>,
    /// Why what the files hold by now is not what connections begin with.
    refused: Option<String>,
}

/// How a listener's certificate is.
#[derive(Clone, PartialEq, Debug)]
pub struct CertificateState {
    /// Days until the certificate ends; negative once it has.
    pub days_left: f64,
    /// It ends within two weeks, or within a fifth of its life if that is less.
    pub ends_soon: bool,
    /// Why the files' present content is not used.
    pub refused: Option<String>,
    /// Handshakes that failed so far.
    pub failed_handshakes: u64,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file cannot be read, has nothing of its kind, or the key is not the certificate's.
    pub fn open(files: TlsFiles) -> anyhow::Result<Arc<Self>> {
        let content = files.read()?;
        let credentials = Credentials::of(&files, &content)?;
        let state = State { credentials, read: Ok(content.hash()), refused: None };
        Ok(Arc::new(Self { files, state: Mutex::new(state), failed_handshakes: AtomicU64::new(0) }))
    }

    /// Reads the files again. New connections begin with what they hold now, unless that is not usable: then with
    /// what they held before. Connections that are open stay as they are.
    pub fn reload(&self) {
        let content = self.files.read().map_err(|error| format!("{error:#}"));
        let read = content.as_ref().map(files::Content::hash).map_err(Clone::clone);
        if locked(&self.state).read == read {
            return;
        }
        let usable = content
            .and_then(|content| Credentials::of(&self.files, &content).map_err(|error| format!("{error:#}")));
        let mut state = locked(&self.state);
        state.read = read;
        match usable {
            Ok(credentials) => {
                tracing::info!(
                    file = %self.files.certificate.display(),
                    ends = %jiff::Timestamp::try_from(credentials.ends).unwrap_or(jiff::Timestamp::MAX),
                    "a new certificate is shown from now on"
                );
                state.credentials = credentials;
                state.refused = None;
            }
            Err(why) => {
                tracing::error!(%why, "the certificate that was shown before stays");
                state.refused = Some(why);
            }
        }
    }

    /// The stream once the client has agreed.
    ///
    /// # Errors
    /// When the handshake fails; that is counted.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&locked(&self.state).credentials.config);
        let shaken = TlsAcceptor::from(config).accept(stream).await;
        if shaken.is_err() {
            self.failed_handshakes.fetch_add(1, Ordering::Relaxed);
        }
        shaken
    }

    /// How the certificate is at this moment.
    #[must_use]
    pub fn state(&self) -> CertificateState {
        let state = locked(&self.state);
        let Credentials { begins, ends, .. } = state.credentials;
        let now = SystemTime::now();
        let left = ends.duration_since(now).unwrap_or_default();
        let over = now.duration_since(ends).unwrap_or_default();
        let life = ends.duration_since(begins).unwrap_or_default();
        CertificateState {
            days_left: (left.as_secs_f64() - over.as_secs_f64()) / DAY,
            ends_soon: left < SOON.min(life / 5),
            refused: state.refused.clone(),
            failed_handshakes: self.failed_handshakes.load(Ordering::Relaxed),
        }
    }
}

/// Reads the files of all of these again and again, until the service stops.
pub async fn follow(all: Vec<Arc<Tls>>, mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the service.
    while tokio::time::timeout(LOOK_EVERY, stop.wait_for(|stop| *stop)).await.is_err() {
        reload(all.clone()).await;
    }
}

/// Reads the files of all of these again.
pub async fn reload(all: Vec<Arc<Tls>>) {
    // A file system may hang. It panics nowhere.
    let _ = tokio::task::spawn_blocking(move || all.iter().for_each(|tls| tls.reload())).await;
}

#[cfg(test)]
mod tests;
