//! Between the gates and the admin service: passes on what they send each other, as it
//! came, and changes it as a test says. So a gate meets a service of another
//! version, and the service such a gate, though both are as they were built.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tidegate_backend::Served;
use tidegate_stack::ports::{Ports, local};
use tidegate_stack::render::Cluster;
use tidegate_stack::{Control, Options};
use tokio::net::TcpStream;

/// The name of its cluster, for the plugin's `/admin/cluster`.
const CLUSTER: &str = "tidegate-admin-doctored";
/// Over what the service takes and gives.
const MAX_BODY: usize = 8 << 20;

/// Changes a message that passes.
type Change = Box<dyn Fn(&mut Message<'_>, Vec<u8>) -> Vec<u8> + Send + Sync>;

/// A message but for its body.
#[derive(Debug)]
pub struct Message<'m> {
    /// The path of the call, without its query.
    pub path: &'m str,
    /// An answer's status; `None`: a request.
    pub status: Option<u16>,
    /// Its headers, to read or to change.
    pub headers: &'m mut HeaderMap,
}

/// The one in between, ended when the last handle is dropped.
#[derive(Clone)]
pub struct Doctor(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    served: Served,
}

#[derive(Default)]
struct Shared {
    to: Mutex<Option<SocketAddr>>,
    change: Mutex<Option<Change>>,
}

impl fmt::Debug for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Doctor").field(&self.0.served.address()).finish()
    }
}

impl Doctor {
    /// Starts one on a free port; a stack with it among its options tells it where to
    /// pass on to.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let app = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let served = Served::start(local(0), |listener| async { axum::serve(listener, app).await })?;
        Ok(Self(Arc::new(Inner { shared, served })))
    }

    /// From now on requests and answers pass through `change`, which answers with the
    /// body that goes on.
    pub fn change(&self, change: impl Fn(&mut Message<'_>, Vec<u8>) -> Vec<u8> + Send + Sync + 'static) {
        *self.0.shared.change.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(change));
    }

    /// From now on nothing is changed.
    pub fn rest(&self) {
        *self.0.shared.change.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn pass_on_to(&self, service: SocketAddr) {
        *self.0.shared.to.lock().unwrap_or_else(PoisonError::into_inner) = Some(service);
    }
}

impl Control for Doctor {
    /// As the options say, with this between the gate and the service.
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        self.pass_on_to(local(ports.gateways));
        let mut options = options.clone();
        options.backends.push(Cluster::at(CLUSTER, self.0.served.address()));
        options.plugin["admin"]["cluster"] = Value::from(CLUSTER);
        options.envoy_config(ports)
    }
}

impl Shared {
    fn changed(&self, message: &mut Message<'_>, bytes: Bytes) -> Vec<u8> {
        let change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        match &*change {
            Some(change) => change(message, bytes.into()),
            None => bytes.into(),
        }
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match passed(&shared, request).await {
        Ok(answer) => answer,
        // As while the service is away.
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
    }
}

async fn passed(shared: &Shared, request: Request) -> Result<Response> {
    let to = *shared.to.lock().unwrap_or_else(PoisonError::into_inner);
    let to = to.context("no stack said where the service is")?;
    let (Parts { method, uri, mut headers, .. }, body) = request.into_parts();
    let mut message = Message { path: uri.path(), status: None, headers: &mut headers };
    let body = shared.changed(&mut message, to_bytes(body, MAX_BODY).await?);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
    let mut onward =
        hyper::Request::builder().method(method).uri(uri.clone()).body(Full::new(Bytes::from(body)))?;
    *onward.headers_mut() = headers;

    // One connection for each, which ends with the call: a poll that the gate gives up
    // is given up here, too.
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(onward).await?;
    let (mut parts, body) = answer.into_parts();
    let status = Some(parts.status.as_u16());
    let mut message = Message { path: uri.path(), status, headers: &mut parts.headers };
    let body = shared.changed(&mut message, body.collect().await?.to_bytes());
    connection.abort();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::TRANSFER_ENCODING);
    Ok(Response::from_parts(parts, Body::from(body)))
}

#[cfg(test)]
mod tests {
    use axum::routing::post;

    use tidegate_stack::http::{self, Method, Request};

    use super::*;

    #[test]
    fn what_passes_is_changed_as_was_said_and_else_as_it_was() {
        let service = Router::new().route("/a", post(|body: String| async move { format!("{body} heard") }));
        let service =
            Served::start(local(0), |listener| async { axum::serve(listener, service).await }).unwrap();
        let doctor = Doctor::start().unwrap();
        let ask = || {
            let request = Request::new(Method::POST, "/a?b").body("text/plain", "one");
            let answer = http::send(doctor.0.served.address(), &request).unwrap();
            (answer.status, answer.text())
        };
        assert_eq!(ask().0, 503, "it knows no service");
        doctor.pass_on_to(service.address());
        assert_eq!(ask(), (200, "one heard".to_owned()));
        doctor.change(|message, mut bytes| {
            assert_eq!(message.path, "/a");
            bytes.push(if message.status == Some(200) { b'!' } else { b'?' });
            bytes
        });
        assert_eq!(ask(), (200, "one? heard!".to_owned()));
        doctor.rest();
        assert_eq!(ask(), (200, "one heard".to_owned()));
    }
}
