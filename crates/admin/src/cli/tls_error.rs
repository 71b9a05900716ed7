//! What went wrong with TLS, in words that say what to do.

use std::error::Error;

use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

/// What is wrong, if it is TLS.
pub fn explained(error: &(dyn Error + 'static)) -> Option<String> {
    let tls = cause(error)?;
    Some(match tls {
        rustls::Error::InvalidCertificate(why) => certificate(why),
        rustls::Error::InvalidMessage(_) => {
            format!("it does not speak TLS ({tls}): without TLS it is http:// in the place of https://")
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it asks for a client's certificate, as listeners for gateways may: is it the listener for people?"
                .to_owned()
        }
        other => format!("TLS failed: {other}"),
    })
}

/// The error of TLS that is behind another one.
fn cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    // An I/O error is not the source of its source, but in its place.
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => cause(inner),
        None => cause(error.source()?),
    }
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "its certificate is signed by nobody who is trusted: name the file with the right authority with --ca \
             (TIDEGATE_CA_FILE, or `tidegate context set NAME --ca PATH`)"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has ended, or this machine's clock is wrong ({why})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for another name: write that one in --server ({why})")
        }
        other => format!("its certificate is not taken: {other}"),
    }
}
