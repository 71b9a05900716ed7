//! Requests to servers of sources and of webhooks: which of them may be connected to, redirects, and time.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Response, StatusCode, Url};
use tidegate_author::{Source, is_private_address};
use tokio_rustls::rustls::crypto::ring;

use super::FetchError;

/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long there may be nothing of an answer.
pub(super) const PAUSE_TIME: Duration = Duration::from_secs(15);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// Whom a server may be.
#[derive(Clone, Copy)]
pub struct Reach {
    /// One that is reached without TLS.
    pub allow_insecure: bool,
    /// One at an address that is not of the public internet.
    pub allow_private: bool,
}

impl Reach {
    /// Whom the server of a source may be.
    pub fn of(source: &Source) -> Self {
        Self { allow_insecure: source.allow_insecure, allow_private: source.allow_private }
    }

    /// Whether a request may be sent to `url`. Names are looked at once more when they are resolved.
    fn check(self, url: &Url) -> Result<(), FetchError> {
        let address = match url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']')) {
            None => return Err(FetchError::new("the URL has no host")),
            Some(host) => host.parse::<IpAddr>(),
        };
        let is_loopback = match &address {
            Ok(address) => address.is_loopback(),
            Err(_) => url.host_str().is_some_and(|host| host == "localhost" || host.ends_with(".localhost")),
        };
        match url.scheme() {
            "https" => {}
            "http" if is_loopback || self.allow_insecure => {}
            "http" => return Err(FetchError::new("it is at http://, which needs \"allow_insecure\": true")),
            other => return Err(FetchError::new(format!("it is at {other}://, which is not supported"))),
        }
        match address {
            Ok(address) if !self.allow_private && is_private_address(address) => Err(private(address)),
            _ => Ok(()),
        }
    }
}

fn private(address: IpAddr) -> FetchError {
    FetchError::new(format!(
        "{address} is not an address of the public internet, which needs \"allow_private\": true, and cannot be \
         redirected to from another host"
    ))
}

/// Resolves names, but not to addresses that may not be connected to. The client connects to what this
/// answers and to nothing else, so that a name cannot mean another address a moment later.
struct GuardedResolver(Reach);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let refused = found.iter().find(|at| !reach.allow_private && is_private_address(at.ip()));
            match refused {
                Some(at) => Err(private(at.ip()).into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

/// A request for what a source has.
pub(super) struct SourceRequest {
    pub url: String,
    pub reach: Reach,
    /// A header that only the URL's own server gets.
    pub credentials: Option<(HeaderName, HeaderValue)>,
    /// Who signs the certificate of the URL's host; `None`: the authorities of the system.
    pub authorities: Option<Vec<Certificate>>,
    /// Further headers.
    pub headers: Vec<(HeaderName, String)>,
}

impl SourceRequest {
    /// Sends it, and follows redirects. Whatever status the answer has: it has come this far.
    pub async fn send(&self) -> Result<Response, FetchError> {
        let mut url =
            Url::parse(&self.url).map_err(|error| FetchError::new(format!("the URL is none: {error}")))?;
        let (origin, host) = (url.origin(), url.host_str().map(str::to_owned));
        let mut reach = self.reach;
        let mut client = client(reach, self.authorities.as_deref(), &self.url)?;
        let mut is_own = true;
        for _ in 0..=MAX_REDIRECTS {
            if is_own && url.host_str() != host.as_deref() {
                // Its server may not send us into our own network, nor to a metadata service.
                (is_own, reach.allow_private) = (false, false);
                client = client_of_others(reach)?;
            }
            reach.check(&url)?;
            let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "gzip");
            for (name, value) in &self.headers {
                request = request.header(name, value);
            }
            if let Some((name, value)) = self.credentials.as_ref().filter(|_| url.origin() == origin) {
                request = request.header(name, value);
            }
            let answer = tokio::time::timeout(PAUSE_TIME, request.send()).await;
            let answer = answer.map_err(|_| silent())?.map_err(|error| explained(&error))?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let Some(location) = answer.headers().get(LOCATION) else { return Ok(answer) };
            let location = location.to_str().ok().and_then(|location| url.join(location).ok());
            url = location.ok_or_else(|| FetchError::new("it redirects to what is no URL"))?;
        }
        Err(FetchError::new(format!("it redirects more than {MAX_REDIRECTS} times")))
    }
}

/// Posts JSON, and answers the status. Redirects are not followed. The answer's body is not read.
///
/// # Errors
/// When nothing may be sent to the URL, or there is no answer.
pub async fn post(
    url: &str,
    reach: Reach,
    headers: &[(&'static str, String)],
    body: String,
) -> Result<StatusCode, FetchError> {
    let url = Url::parse(url).map_err(|error| FetchError::new(format!("the URL is none: {error}")))?;
    reach.check(&url)?;
    let mut request = client(reach, None, url.as_str())?.post(url).header(CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let answer = tokio::time::timeout(PAUSE_TIME, request.body(body).send()).await;
    Ok(answer.map_err(|_| silent())?.map_err(|error| explained(&error))?.status())
}

/// A client for the host of `url`.
fn client(reach: Reach, authorities: Option<&[Certificate]>, url: &str) -> Result<Client, FetchError> {
    let builder = builder(reach);
    let builder = match authorities {
        Some(authorities) => builder.tls_certs_only(authorities.iter().cloned()),
        // Reading the system's authorities takes longer than a local fetch.
        None if url.starts_with("http:") => builder.tls_certs_only([]),
        None => builder,
    };
    built(builder)
}

/// A client for hosts that the first one redirects to.
fn client_of_others(reach: Reach) -> Result<Client, FetchError> {
    built(builder(reach))
}

fn builder(reach: Reach) -> ClientBuilder {
    // An error means that there is one already.
    let _ = ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIME)
        .redirect(Policy::none())
        // A proxy would connect in our place, to whom it likes.
        .no_proxy()
        .dns_resolver(Arc::new(GuardedResolver(reach)))
}

fn built(builder: ClientBuilder) -> Result<Client, FetchError> {
    builder.build().map_err(|error| FetchError::new(format!("the client cannot be set up: {error}")))
}

/// The next bytes of an answer; `None`: it has ended.
pub(super) async fn chunk(answer: &mut Response) -> Result<Option<bytes::Bytes>, FetchError> {
    let chunk = tokio::time::timeout(PAUSE_TIME, answer.chunk()).await.map_err(|_| silent())?;
    chunk.map_err(|error| FetchError::new(format!("it broke off: {}", causes(&error.without_url()))))
}

fn silent() -> FetchError {
    FetchError::new(format!("its server sent nothing for {} s", PAUSE_TIME.as_secs()))
}

fn explained(error: &reqwest::Error) -> FetchError {
    match refusal(error) {
        Some(refused) => refused,
        None if error.is_timeout() => silent(),
        None if error.is_connect() => {
            let why = innermost(error);
            let hint = match ["UnknownIssuer", "BadSignature"].iter().any(|wrong| why.contains(wrong)) {
                true => {
                    ": it is signed by nobody who is trusted; `ca_file` names a file of --source-files with others"
                }
                false => "",
            };
            FetchError::new(format!("its server cannot be connected to: {why}{hint}"))
        }
        None => FetchError::new(format!("its server gave no answer: {}", innermost(error))),
    }
}

/// What our own resolver said.
fn refusal(error: &(dyn Error + 'static)) -> Option<FetchError> {
    if let Some(refused) = error.downcast_ref::<FetchError>() {
        return Some(refused.clone());
    }
    error.source().and_then(refusal)
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

fn causes(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => innermost(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(allow_insecure: bool, allow_private: bool) -> Reach {
        Reach { allow_insecure, allow_private }
    }

    #[test]
    fn who_may_be_asked_is_looked_at_before_each_request() {
        for (url, allowed, why) in [
            ("https://lists.example.com/", reach(false, false), None),
            ("http://lists.example.com/", reach(false, true), Some("allow_insecure")),
            ("http://lists.example.com/", reach(true, false), None),
            ("http://127.0.0.1/", reach(false, true), None),
            ("http://127.0.0.1/", reach(true, false), Some("allow_private")),
            ("http://127.1/", reach(false, false), Some("allow_private")),
            ("https://0xa9fea9fe/latest", reach(true, false), Some("169.254.169.254")),
            ("https://[::ffff:169.254.169.254]/", reach(true, false), Some("allow_private")),
            ("https://[fd00:ec2::254]/", reach(true, false), Some("allow_private")),
            ("ftp://lists.example.com/", reach(true, true), Some("ftp://")),
            ("file:///etc/passwd", reach(true, true), Some("no host")),
        ] {
            let refused = allowed.check(&Url::parse(url).unwrap()).err().map(|error| error.to_string());
            match why {
                None => assert_eq!(refused, None, "{url}"),
                Some(why) => {
                    assert!(refused.as_ref().is_some_and(|said| said.contains(why)), "{url}: {refused:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_name_of_a_private_address_is_not_resolved() {
        let request = |reach| SourceRequest {
            url: "https://localhost:1/".to_owned(),
            reach,
            credentials: None,
            authorities: None,
            headers: Vec::new(),
        };
        let refused = request(reach(true, false)).send().await.unwrap_err().to_string();
        assert!(refused.contains("allow_private"), "{refused}");
        let refused = request(reach(true, true)).send().await.unwrap_err().to_string();
        assert!(refused.contains("cannot be connected"), "{refused}");
    }
}
