//! What a load is sent to, and whether it may be.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hyper::header::{
    CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{Request, Uri};
use reqwest::Url;

use super::connect::ClientTls;
use super::load::Body;
use crate::time;

/// The program, as servers see it, unless a header says otherwise.
const AGENT: &str = concat!("tidegate-bench/", env!("CARGO_PKG_VERSION"));

/// How a URL is asked, and whose it is.
#[derive(clap::Args, Clone, Debug)]
pub struct ReachArgs {
    /// A header of each request; may be repeated. `x-performance: 1` asks a gate for its own times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The host that is asked for, in the place of the URL's: as `Host`, and as the name of the certificate.
    #[arg(long, value_name = "HOST", value_parser = host)]
    pub(super) host: Option<Host>,
    /// Certificates (PEM) of the authorities of which one must have signed the certificate; without it those that
    /// the system trusts.
    #[arg(long = "ca", value_name = "PATH")]
    pub(super) ca_file: Option<PathBuf>,
    /// How long a request may take, with its connection if it needs one.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = timeout)]
    pub(super) timeout: Duration,
    /// Say that another machine than this one may be put under load: that it is yours, or that its owner agrees.
    #[arg(long)]
    pub(super) i_own_this: bool,
}

impl ReachArgs {
    /// Without headers, and with the default time.
    pub fn plain(host: Option<Host>, ca_file: Option<PathBuf>, i_own_this: bool) -> Self {
        Self { headers: Vec::new(), host, ca_file, timeout: Duration::from_secs(10), i_own_this }
    }
}

/// `HOST` or `HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// As it was written.
    written: String,
    /// Without the port.
    name: String,
}

/// Reads a host with or without a port.
pub fn host(text: &str) -> Result<Host, String> {
    let url: Option<Url> = format!("http://{text}/").parse().ok();
    let url = url
        .filter(|url| url.path() == "/" && url.username().is_empty() && !text.contains(['/', '@', '?', '#']));
    let name =
        url.as_ref().and_then(Url::host_str).ok_or("write a host, as shop.example.com or [::1]:8080")?;
    Ok(Host { written: text.to_owned(), name: name.to_owned() })
}

/// Reads a URL of HTTP or HTTPS.
pub fn http_url(text: &str) -> Result<Url, String> {
    let url = text.parse().ok().filter(|url: &Url| {
        url.has_host()
            && matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
    });
    url.ok_or_else(|| {
        "write a URL without a name or password in it, as http://127.0.0.1:10000/hello".to_owned()
    })
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wanted = || "write NAME: VALUE, as `Accept: text/html`".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(wanted)?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| wanted())?;
    let value = HeaderValue::try_from(value.trim()).map_err(|_| wanted())?;
    match name {
        HOST => Err("say the host with --host".to_owned()),
        CONTENT_LENGTH | TRANSFER_ENCODING => Err("these requests have no body".to_owned()),
        name => Ok((name, value)),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(60);
    time::parse_duration(text)
        .filter(|span| range.contains(span))
        .ok_or_else(|| format!("from 1ms to 60s; {}", time::DURATION_FORM))
}

/// A URL that may be put under load, and everything that its requests need.
pub struct UrlUnderLoad {
    /// The URL as it was given.
    pub url: Url,
    /// The host that is asked for, if it is another one than the URL's.
    pub host: Option<String>,
    /// Where its connections go.
    pub address: SocketAddr,
    /// For `https://`.
    pub tls: Option<ClientTls>,
    /// How long a request may take.
    pub timeout: Duration,
    path: Uri,
    headers: HeaderMap,
}

impl UrlUnderLoad {
    /// Looks the host up, and connects to nothing yet.
    ///
    /// # Errors
    /// When it is another machine and `--i-own-this` was not said, there is no such host, or the file of authorities
    /// is none.
    pub async fn new(url: &Url, reach: &ReachArgs) -> anyhow::Result<Self> {
        let address = resolved(url, reach.i_own_this).await?;
        let name = match &reach.host {
            Some(host) => host.name.as_str(),
            None => url.host_str().unwrap_or_default(),
        };
        let tls = match url.scheme() {
            "https" => Some(ClientTls::new(name, reach.ca_file.as_deref())?),
            _ => None,
        };
        let host = reach.host.as_ref().map(|host| host.written.clone());
        let authority = host.clone().unwrap_or_else(|| authority(url));
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::try_from(authority).context("the host is none")?);
        if !reach.headers.iter().any(|(name, _)| name == USER_AGENT) {
            headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        }
        headers.extend(reach.headers.iter().cloned());
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("{}{query}", url.path());
        let path = path.parse().with_context(|| format!("{path} is no path of a request"))?;
        Ok(Self { url: url.clone(), host, address, tls, timeout: reach.timeout, path, headers })
    }

    /// A request.
    pub fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::new());
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The address that connections go to. Of a name with several, one on this machine counts before the others.
async fn resolved(url: &Url, i_own_this: bool) -> anyhow::Result<SocketAddr> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().context("the URL has no port")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((bare, port)).await;
    let found: Vec<SocketAddr> = found.with_context(|| format!("there is no host {host}"))?.collect();
    let own = found.iter().find(|address| is_own(address));
    let Some(&address) = own.or(found.first()) else { bail!("{host} has no address") };
    ensure!(
        i_own_this || is_own(&address),
        "{host} is not this machine ({}): a load takes the place of its users' requests, may cost whoever pays for it, and \
         against the owner's will it is an attack. If it is yours, or its owner agrees, add --i-own-this",
        address.ip()
    );
    Ok(address)
}

fn is_own(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(url: &str) -> String {
        let url = http_url(url).unwrap();
        let refused = UrlUnderLoad::new(&url, &ReachArgs::plain(None, None, false)).await;
        refused.err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[tokio::test]
    async fn only_this_machine_is_put_under_load_unless_somebody_says_whose_it_is() {
        for own in [
            "http://127.0.0.1:1/",
            "http://127.8.8.8:1/a?b=c",
            "http://[::1]:1/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert_eq!(refused(own).await, "", "{own}");
        }
        // Of networks for documentation, which nobody owns.
        for other in [
            "http://192.0.2.1/",
            "http://[2001:db8::1]:8080/",
            "http://[::ffff:192.0.2.1]/",
            "http://0.0.0.0:1/",
        ] {
            let why = refused(other).await;
            assert!(why.contains("--i-own-this") && why.contains("attack"), "{other}: {why}");
        }
        let url = http_url("http://192.0.2.1/").unwrap();
        let owned = UrlUnderLoad::new(&url, &ReachArgs::plain(None, None, true)).await.unwrap();
        assert_eq!(owned.address, "192.0.2.1:80".parse().unwrap());
    }

    #[tokio::test]
    async fn a_request_is_what_was_asked_for() {
        let reach = ReachArgs {
            headers: vec![header("X-Forwarded-For:1.2.3.4").unwrap(), header("user-agent: me").unwrap()],
            ..ReachArgs::plain(Some(host("shop.example.com:81").unwrap()), None, false)
        };
        let url = http_url("http://127.0.0.1:10000/a/b?c=d#e").unwrap();
        let request = UrlUnderLoad::new(&url, &reach).await.unwrap().request();
        assert_eq!(request.uri(), "/a/b?c=d");
        let headers = request.headers();
        assert_eq!(headers["host"], "shop.example.com:81");
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4");
        assert_eq!(headers.get_all("user-agent").iter().collect::<Vec<_>>(), ["me"]);
    }

    #[test]
    fn what_is_written_wrong_is_refused() {
        for wrong in ["", "127.0.0.1", "ftp://127.0.0.1/", "http://me:secret@127.0.0.1/", "compare"] {
            assert!(http_url(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "a", "a b: c", "Host: a", "content-length: 3", "a: b\nc"] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "a/b", "a b", "me@a", "a:b"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
        assert_eq!(host("[::1]:80").unwrap().name, "[::1]");
        assert!(timeout("0s").is_err() && timeout("61s").is_err() && timeout("60s").is_ok());
    }
}
