//! What a listener shows, and asks of clients.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, ServerConfig};

use super::TlsFiles;
use super::files::Content;

/// What clients and listener may agree on.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate with its key, ready for use.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) config: Arc<ServerConfig>,
    /// From when the certificate is valid.
    pub(super) begins: SystemTime,
    /// Until when.
    pub(super) ends: SystemTime,
}

impl Credentials {
    /// Those in the files' content.
    ///
    /// # Errors
    /// When a file has nothing of its kind, or the key is not the certificate's. The message names the file.
    pub(super) fn of(files: &TlsFiles, content: &Content) -> anyhow::Result<Self> {
        let chain = certificates(&content.certificate, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&content.key)
            .ok()
            .with_context(|| format!("{} has no private key in PEM", files.key.display()))?;
        let clients = match (&content.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => client_verifier(pem, path)?,
            _ => WebPkiClientVerifier::no_client_auth(),
        };
        let (begins, ends) = validity(&chain[0]).with_context(|| {
            format!("{} has a certificate that cannot be read", files.certificate.display())
        })?;
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let built = builder.with_client_cert_verifier(clients).with_single_cert(chain, key);
        let mut config = match built {
            Ok(config) => config,
            Err(Error::InconsistentKeys(_)) => {
                bail!(
                    "the key in {} is not that of the certificate in {}",
                    files.key.display(),
                    files.certificate.display()
                )
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("{} and {} cannot be used", files.certificate.display(), files.key.display())
                });
            }
        };
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Self { config: Arc::new(config), begins, ends })
    }
}

/// The cryptography of all of this program's TLS.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates of a file, at least one.
fn certificates(pem: &[u8], path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
    certificates.with_context(|| format!("{} has no certificate in PEM", path.display()))
}

fn client_verifier(pem: &[u8], path: &Path) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(certificates(pem, path)?);
    ensure!(taken > 0, "{} has no certificate that can be read", path.display());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    verifier.with_context(|| format!("{} cannot be used", path.display()))
}

/// From when and until when a certificate is valid: what is wrong with it before all times and after all. That is
/// looked at before who has signed it.
fn validity(certificate: &CertificateDer<'_>) -> anyhow::Result<(SystemTime, SystemTime)> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let algorithms = provider().signature_verification_algorithms.all;
    let at = |time| {
        verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], time, algorithms)
    };
    let since_1970 = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    let begins = match at(UnixTime::since_unix_epoch(Duration::ZERO)) {
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            since_1970(not_before)
        }
        _ => SystemTime::UNIX_EPOCH,
    };
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    match at(end_of_time) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Ok((begins, since_1970(not_after)))
        }
        Err(error) => Err(error.into()),
        Ok(()) => bail!("it has no end"),
    }
}
