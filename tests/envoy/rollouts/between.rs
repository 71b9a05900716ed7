//! What stands between the gates and the admin service, and is wrong in ways that no status tells: a route
//! is another one than the gates' tables have, or events are acknowledged and never arrive.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode, Uri, Version, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tidegate_backend::Served;
use tidegate_policy::check::Check;
use tidegate_policy::wire::check::{self, Answer, Found, Question};
use tidegate_policy::wire::event::RECEIPT;
use tidegate_policy::wire::sync::TIME_HEADER;
use tidegate_stack::ports::{Ports, local};
use tidegate_stack::render::{at, named};
use tidegate_stack::{Control, Options};

/// Where batches of events are posted.
const EVENTS: &str = "/api/data-plane/v1/events";
/// One post of events in so many is lost.
const LOST_ONE_IN: u64 = 4;

/// The stand-in for the admin service, ended when the last handle is dropped.
#[derive(Clone)]
pub struct Between(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    served: Served,
}

struct Shared {
    /// The real one.
    to: OnceLock<SocketAddr>,
    client: Client<HttpConnector, Body>,
    /// Requests whose path begins so match another rule.
    other_route: Option<&'static str>,
    loses_events: AtomicBool,
    posts: AtomicU64,
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Between").field(&self.0.served.address()).finish()
    }
}

impl Between {
    /// Starts it on a free port; a stack with it among its options tells it where the real service is. Questions about
    /// paths that begin with `other_route` are answered with the next rule of their route.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start(other_route: Option<&'static str>) -> Result<Self> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (to, loses_events, posts) = (OnceLock::new(), AtomicBool::new(false), AtomicU64::new(0));
        let shared = Arc::new(Shared { to, client, other_route, loses_events, posts });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let served = Served::start(local(0), |listener| async move { axum::serve(listener, app).await })?;
        Ok(Self(Arc::new(Inner { shared, served })))
    }

    /// From now on every fourth post of events is acknowledged, and goes no further.
    pub fn lose_events(&self) {
        self.0.shared.loses_events.store(true, Ordering::Relaxed);
    }
}

impl Control for Between {
    /// As the options say, with this between the gates and the service.
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        let _ = self.0.shared.to.set(local(ports.gateways));
        let mut config = options.envoy_config(ports)?;
        let cluster = named(at(&mut config, "/static_resources/clusters")?, "tidegate-admin")?;
        let socket = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value";
        *at(cluster, socket)? = self.0.served.address().port().into();
        Ok(config)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    passed(&shared, request).await.unwrap_or_else(|error| {
        let mut answer = Response::new(Body::from(format!("{error:#}")));
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        answer
    })
}

async fn passed(shared: &Shared, request: Request<Body>) -> Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    let is_batches = head.uri.path() == EVENTS && head.uri.query().is_none();
    let is_about_route = head.uri.path() == check::path(Check::Route);
    let body = body.collect().await?.to_bytes();
    let to = shared.to.get().context("no stack said where the service is")?;
    head.uri = Uri::try_from(format!("http://{to}{}", head.uri.path_and_query().context("no path")?))?;
    head.version = Version::HTTP_11;
    let is_other = is_about_route && shared.is_other(&body);
    let is_lost = is_batches
        && shared.loses_events.load(Ordering::Relaxed)
        && shared.posts.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOST_ONE_IN);
    if is_lost {
        return receipt();
    }
    let answer = shared.client.request(Request::from_parts(head, Body::from(body))).await?;
    let (mut head, body) = answer.into_parts();
    let mut body = body.collect().await?.to_bytes();
    if is_other && head.status == StatusCode::OK {
        body = with_next_rule(&body)?.into();
        head.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

impl Shared {
    fn is_other(&self, question: &[u8]) -> bool {
        let (Some(other), Ok(question)) = (self.other_route, Question::from_bytes(question)) else {
            return false;
        };
        question.path.starts_with(other.as_bytes())
    }
}

/// The answer with another rule of the same route.
fn with_next_rule(answer: &[u8]) -> Result<Vec<u8>> {
    let mut answer = Answer::from_bytes(answer)?;
    if let Found::Route(Ok(Some(found))) = &mut answer.found {
        found.rule += 1;
    }
    Ok(answer.to_bytes()?)
}

/// What the service says of events that it has stored, with the header by which a gate knows the service.
fn receipt() -> Result<Response<Body>> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let answer = Response::builder().header(TIME_HEADER, now_ms.to_string());
    Ok(answer.body(Body::from([RECEIPT, b"1}"].concat()))?)
}
