//! Options of `tidegate serve` for TLS.

use std::path::PathBuf;

use anyhow::bail;

use crate::api::app_state::PerListener;
use crate::serve::tls::TlsFiles;

/// Files for TLS, PEM each. They are read again when they change, and at SIGHUP.
#[derive(clap::Args, Debug)]
pub struct TlsArgs {
    /// The certificate of the listener for people, followed by those between it and its authority; with it
    /// that listener speaks TLS only.
    #[arg(long, env = "TIDEGATE_TLS_CERT", value_name = "PATH")]
    tls_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, env = "TIDEGATE_TLS_KEY", value_name = "PATH")]
    tls_key: Option<PathBuf>,
    /// The certificate of the listener for gateways, which may be the same.
    #[arg(long, env = "TIDEGATE_GATEWAY_TLS_CERT", value_name = "PATH")]
    gateway_tls_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, env = "TIDEGATE_GATEWAY_TLS_KEY", value_name = "PATH")]
    gateway_tls_key: Option<PathBuf>,
    /// Authorities, of one of which a gateway must show a certificate, besides its token.
    #[arg(long, env = "TIDEGATE_GATEWAY_CLIENT_CA", value_name = "PATH")]
    gateway_client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// The files of each listener.
    ///
    /// # Errors
    /// When one is missing that the others need.
    pub fn files(&self) -> anyhow::Result<PerListener<Option<TlsFiles>>> {
        let people = pair("--tls", &self.tls_cert, &self.tls_key)?;
        let mut gateways = pair("--gateway-tls", &self.gateway_tls_cert, &self.gateway_tls_key)?;
        match (&mut gateways, &self.gateway_client_ca) {
            (Some(files), client_ca) => files.client_ca.clone_from(client_ca),
            (None, Some(_)) => {
                bail!("--gateway-client-ca is for TLS: it needs --gateway-tls-cert and --gateway-tls-key")
            }
            (None, None) => {}
        }
        Ok(PerListener { people, gateways })
    }
}

fn pair(option: &str, cert: &Option<PathBuf>, key: &Option<PathBuf>) -> anyhow::Result<Option<TlsFiles>> {
    match (cert, key) {
        (Some(certificate), Some(key)) => {
            Ok(Some(TlsFiles { certificate: certificate.clone(), key: key.clone(), client_ca: None }))
        }
        (None, None) => Ok(None),
        _ => bail!("{option}-cert and {option}-key go together: only one of them is given"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let files = |given: &[&str]| {
            let of = |name| given.contains(&name).then(|| PathBuf::from(name));
            let args = TlsArgs {
                tls_cert: of("cert"),
                tls_key: of("key"),
                gateway_tls_cert: of("gateway cert"),
                gateway_tls_key: of("gateway key"),
                gateway_client_ca: of("ca"),
            };
            args.files().map(|tls| (tls.people.is_some(), tls.gateways.map(|tls| tls.client_ca.is_some())))
        };
        assert_eq!(files(&[]).unwrap(), (false, None));
        assert_eq!(files(&["cert", "key"]).unwrap(), (true, None));
        assert_eq!(files(&["gateway cert", "gateway key", "ca"]).unwrap(), (false, Some(true)));
        for (given, wanted) in [
            (&["cert"][..], "--tls-cert and --tls-key go together"),
            (&["gateway key"], "--gateway-tls-cert and --gateway-tls-key go together"),
            (&["cert", "key", "ca"], "--gateway-client-ca is for TLS"),
        ] {
            let error = files(given).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
