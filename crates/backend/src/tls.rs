//! Backends with TLS: an authority that nobody else knows, and a listener that shows
//! its certificates.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tidegate_stack::ports::local;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ResolvesServerCertUsingSni, WantsServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ConfigBuilder, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::{InProcess, Known, Served, Sni, router};

/// A client that does not go on with its handshake holds up the others that long.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// A private authority: new at every start, its key known to this process only.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one, with its certificate in `file` (PEM) for those who are to trust it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new(file: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        // Not the name that certificates have where none is given: one that its own
        // subject seems to have issued counts as self-signed.
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(file, issuer.pem()).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { issuer, file: file.to_owned() })
    }

    /// Its certificate.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A certificate for `name` and its key, PEM, in files beside the authority's: for a
    /// server of another process.
    ///
    /// # Errors
    /// No certificate can have that name, or the files cannot be written.
    pub fn files(&self, name: &str) -> Result<CertificateFiles> {
        self.write_files(name, CertificateParams::new([name.to_owned()])?)
    }

    /// The same, with a certificate that is valid `during` this time.
    ///
    /// # Errors
    /// As [`Self::files`].
    pub fn files_valid(&self, name: &str, during: Range<SystemTime>) -> Result<CertificateFiles> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        (params.not_before, params.not_after) = (during.start.into(), during.end.into());
        self.write_files(name, params)
    }

    fn write_files(&self, name: &str, params: CertificateParams) -> Result<CertificateFiles> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = |ending| self.file.with_file_name(format!("{name}.{ending}"));
        let files = CertificateFiles { certificate: file("crt"), key: file("key") };
        std::fs::write(&files.certificate, certificate.pem())?;
        std::fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }

    /// For a server that has a certificate for each of `names`.
    fn acceptor(&self, names: &[&str]) -> Result<TlsAcceptor> {
        let mut by_name = ResolvesServerCertUsingSni::new();
        for name in names {
            let (certificate, key) = self.certificate(name)?;
            let key = ring::sign::any_supported_type(&key)?;
            by_name.add(name, CertifiedKey::new(vec![certificate], key))?;
        }
        Ok(TlsAcceptor::from(Arc::new(server()?.with_cert_resolver(Arc::new(by_name)))))
    }

    /// For a server that shows the certificate of `name` to everybody.
    fn acceptor_as(&self, name: &str) -> Result<TlsAcceptor> {
        let (certificate, key) = self.certificate(name)?;
        Ok(TlsAcceptor::from(Arc::new(server()?.with_single_cert(vec![certificate], key)?)))
    }

    fn certificate(&self, name: &str) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([name.to_owned()])
            .and_then(|params| params.signed_by(&key, &self.issuer))
            .with_context(|| format!("no certificate for {name}"))?;
        Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into())))
    }
}

fn server() -> Result<ConfigBuilder<ServerConfig, WantsServerCert>> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_no_client_auth())
}

impl Connected<IncomingStream<'_, TlsListener>> for Sni {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(stream.io().get_ref().1.server_name().map(str::to_owned))
    }
}

/// Accepts connections whose handshake comes to an end.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsListener {
    fn new(tcp: TcpListener, acceptor: TlsAcceptor) -> Self {
        Self { tcp, acceptor }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // axum's: it waits when the process has no descriptors left.
            let (stream, address) = Listener::accept(&mut self.tcp).await;
            let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, self.acceptor.accept(stream));
            // A client that does not trust the certificate goes away: that is its answer.
            if let Ok(Ok(stream)) = handshake.await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

impl InProcess {
    /// Starts one with TLS, on a free port of 127.0.0.1. It shows a certificate of
    /// `authority` for the one of `names` (host names) that the client asks for, and
    /// none to a client that asks for another or does not say.
    ///
    /// # Errors
    /// No certificate can be made for one of the names.
    pub fn start_tls(name: &str, authority: &Authority, names: &[&str]) -> Result<Self> {
        Self::with_tls(name, authority.acceptor(names)?)
    }

    /// As [`InProcess::start_tls`], with one certificate of `authority`, for `shown`,
    /// that everybody gets, whatever name they ask for.
    ///
    /// # Errors
    /// No certificate can be made for the name.
    pub fn start_tls_as(name: &str, authority: &Authority, shown: &str) -> Result<Self> {
        Self::with_tls(name, authority.acceptor_as(shown)?)
    }

    fn with_tls(name: &str, acceptor: TlsAcceptor) -> Result<Self> {
        let known = Known::new(name);
        let app = router(Arc::clone(&known)).into_make_service_with_connect_info::<Sni>();
        let served = Served::start(local(0), |listener| async {
            axum::serve(TlsListener::new(listener, acceptor), app).await
        })?;
        Ok(Self { known, served })
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};

    use super::*;

    /// Whether a client that trusts this authority only, and wants this name, is content.
    async fn is_trusted(address: SocketAddr, authority: &Path, name: &'static str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.is_ok()
    }

    #[tokio::test]
    async fn only_who_knows_the_authority_trusts_its_names() {
        let dir = tidegate_stack::programs::repository().join("target/tests/authorities");
        let ours = Authority::new(&dir.join("ours.pem")).unwrap();
        let theirs = Authority::new(&dir.join("theirs.pem")).unwrap();
        let backend = InProcess::start_tls("one", &ours, &["one.test", "two.test"]).unwrap();
        let address = backend.address();
        assert!(is_trusted(address, ours.file(), "one.test").await);
        assert!(is_trusted(address, ours.file(), "two.test").await);
        assert!(!is_trusted(address, ours.file(), "three.test").await);
        assert!(!is_trusted(address, theirs.file(), "one.test").await);
    }
}
