//! Connections of a load: HTTP/1.1, with or without TLS, one request at a time.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::load::{Body, Failure};
use super::result::ErrorKind;
use super::url_under_load::UrlUnderLoad;
use crate::cli::tls_error;

/// What connections of `https://` need.
pub struct ClientTls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl ClientTls {
    /// For a server of this name; `ca_file`: the only authorities that count, else the system's do.
    ///
    /// # Errors
    /// When the file cannot be read or has no certificate, or the name is none.
    pub fn new(name: &str, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let name =
            ServerName::try_from(bare.to_owned()).with_context(|| format!("{name} is no host's name"))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let builder = match ca_file {
            Some(path) => builder.with_root_certificates(authorities(path)?),
            None => builder.with_platform_verifier().context("the system's authorities cannot be read")?,
        };
        // No protocol is offered, which is HTTP/1.1.
        let config = builder.with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }
}

fn authorities(path: &Path) -> anyhow::Result<RootCertStore> {
    let pem = std::fs::read(path).with_context(|| format!("--ca: cannot read {}", path.display()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.unwrap_or_default());
    ensure!(taken > 0, "--ca: {} has no certificate in PEM", path.display());
    Ok(roots)
}

/// A new connection.
///
/// # Errors
/// When nobody takes it, or TLS fails.
pub async fn connect(to: &UrlUnderLoad) -> Result<SendRequest<Body>, Failure> {
    let stream = TcpStream::connect(to.address)
        .await
        .map_err(|error| Failure::new(ErrorKind::Connect, format!("{}: {error}", to.address)))?;
    // A request is one write; it fails only where there is no such option.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &to.tls else { return speak(stream).await };
    let stream = tls.connector.connect(tls.name.clone(), stream).await;
    let stream = stream.map_err(|error| {
        let why = tls_error::explained(&error).unwrap_or_else(|| error.to_string());
        Failure::new(ErrorKind::Tls, why)
    })?;
    speak(stream).await
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<Body>, Failure> {
    let spoken = handshake(TokioIo::new(stream)).await;
    let (sender, connection) = spoken.map_err(|error| Failure::broken(&error))?;
    // Its errors come with the request.
    tokio::spawn(connection);
    Ok(sender)
}
