//! Limits that several gateways share: the additions of `envoy/ratelimit.yaml`, and
//! a service that counts, as `envoy.service.ratelimit.v3.RateLimitService` over gRPC.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{BufMut, BytesMut};
use http_body_util::{BodyExt, Full};
use prost::Message;
use serde_json::{Value, json};

use tidegate_backend::Served;
use tidegate_stack::ports::{Ports, local};
use tidegate_stack::render::{at, merge_plugin, named, push};
use tidegate_stack::{Control, Options};

/// What `envoy.yaml` lacks.
const ADDITIONS: &str = include_str!("../../../envoy/ratelimit.yaml");
/// A busy machine must not turn into a lenient one: Envoy's patience in tests.
const TIMEOUT: &str = "10s";
/// `grpc-status` of a message that is none: `INVALID_ARGUMENT`.
const INVALID: u8 = 3;

/// Adds what the file says, with the service at `address`.
fn add(config: &mut Value, address: SocketAddr) -> Result<()> {
    let mut additions: Value = yaml_serde::from_str(ADDITIONS).context("ratelimit.yaml is not YAML")?;
    *at(&mut additions, "/http_filter/typed_config/timeout")? = json!(TIMEOUT);
    let socket = "/cluster/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
    *at(&mut additions, socket)? =
        json!({ "address": address.ip().to_string(), "port_value": address.port() });
    let mut part = |pointer: &str| at(&mut additions, pointer).map(Value::take);
    merge_plugin(config, &part("/plugin")?)?;
    push(at(config, "/static_resources/clusters")?, part("/cluster")?)?;
    let gate = named(at(config, "/static_resources/listeners")?, "gate")?;
    let manager = at(gate, "/filter_chains/0/filters/0/typed_config")?;
    at(manager, "/route_config/virtual_hosts/0")?["rate_limits"] = part("/rate_limits")?;
    let filters = at(manager, "/http_filters")?.as_array_mut().context("no list of filters")?;
    let gate = filters.iter().position(|filter| filter["name"] == "tidegate");
    filters.insert(gate.context("no filter `tidegate`")? + 1, part("/http_filter")?);
    Ok(())
}

/// Envoy's configuration with the additions, for the service at this address.
#[derive(Debug)]
pub struct Limited(pub SocketAddr);

impl Control for Limited {
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        let mut config = options.envoy_config(ports)?;
        add(&mut config, self.0)?;
        Ok(config)
    }
}

/// A service that lets each descriptor pass so many times and never again: without
/// a clock, so that a count is exact.
#[derive(Debug)]
pub struct Service {
    counts: Arc<Counts>,
    served: Served,
}

#[derive(Debug)]
struct Counts {
    allowed: u32,
    hits: Mutex<HashMap<Descriptor, u32>>,
}

/// What a request was described as: keys with values, in Envoy's order.
pub type Descriptor = Vec<(String, String)>;

impl Service {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// The system has no port left.
    pub fn start(allowed: u32) -> Result<Self> {
        let counts = Arc::new(Counts { allowed, hits: Mutex::default() });
        let path = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
        let app = Router::new().route(path, post(should_rate_limit)).with_state(Arc::clone(&counts));
        let served = Served::start(local(0), |listener| async { axum::serve(listener, app).await })?;
        Ok(Self { counts, served })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.served.address()
    }

    /// How often each descriptor was asked for.
    #[must_use]
    pub fn hits(&self) -> HashMap<Descriptor, u32> {
        self.counts.hits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Counts {
    /// Counts one hit of each descriptor; over the limit as soon as one of them is.
    fn answer(&self, request: RateLimitRequest) -> RateLimitResponse {
        let mut hits = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        let statuses: Vec<_> = request
            .descriptors
            .into_iter()
            .map(|descriptor| {
                let entries = descriptor.entries.into_iter().map(|entry| (entry.key, entry.value));
                let count = hits.entry(entries.collect()).or_default();
                *count = count.saturating_add(1);
                let code = if *count > self.allowed { Code::OverLimit } else { Code::Ok };
                DescriptorStatus { code: code.into() }
            })
            .collect();
        let is_over = statuses.iter().any(|status| status.code() == Code::OverLimit);
        let overall = if is_over { Code::OverLimit } else { Code::Ok };
        RateLimitResponse { overall_code: overall.into(), statuses }
    }
}

async fn should_rate_limit(State(counts): State<Arc<Counts>>, body: Bytes) -> Response {
    match unframe(&body).and_then(|message| Ok(RateLimitRequest::decode(message)?)) {
        Ok(request) => grpc(0, frame(&counts.answer(request))),
        Err(_) => grpc(INVALID, Bytes::new()),
    }
}

/// A gRPC message on the wire: not compressed, its length, itself.
fn frame(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(encoded.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    framed.put_slice(&encoded);
    framed.freeze()
}

fn unframe(body: &[u8]) -> Result<&[u8]> {
    let (head, message) = body.split_first_chunk::<5>().context("shorter than its head")?;
    let [compressed, length @ ..] = *head;
    ensure!(compressed == 0, "compressed");
    ensure!(u32::from_be_bytes(length) as usize == message.len(), "another length");
    Ok(message)
}

/// An answer whose status comes in its trailers, as gRPC has it.
fn grpc(status: u8, message: Bytes) -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    let body = Full::new(message).with_trailers(async { Some(Ok(trailers)) });
    ([("content-type", "application/grpc")], Body::new(body)).into_response()
}

// As in `envoy/service/ratelimit/v3/rls.proto` and
// `envoy/extensions/common/ratelimit/v3/ratelimit.proto`, as far as it counts here.

#[derive(Clone, PartialEq, Message)]
struct RateLimitRequest {
    #[prost(message, repeated, tag = "2")]
    descriptors: Vec<RateLimitDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct RateLimitDescriptor {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct RateLimitResponse {
    #[prost(enumeration = "Code", tag = "1")]
    overall_code: i32,
    #[prost(message, repeated, tag = "2")]
    statuses: Vec<DescriptorStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct DescriptorStatus {
    #[prost(enumeration = "Code", tag = "1")]
    code: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, prost::Enumeration)]
#[repr(i32)]
enum Code {
    Unknown = 0,
    Ok = 1,
    OverLimit = 2,
}
