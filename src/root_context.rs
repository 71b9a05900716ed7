//! The root context: one plugin configuration in one VM.

use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::admin_client::CallMaker;
use crate::config::{Config, ConfigError};
use crate::filter::Filter;
use crate::host::live::{ContextKind, LiveContext};
use crate::host::{CallToken, Host, HostError, QueueId};
use crate::http_context::RequestContext;
use crate::metrics::Count;
use crate::request::bodies::Bodies;
use crate::request::event;
use crate::request::facts::Declared;
use crate::sync::Role;
use crate::worker::Worker;

/// `root_id` of the bootstrap singleton that pulls tables and posts events.
pub const RECORDER_ROOT_ID: &str = "tidegate_recorder";
/// Period of the first tick. Slot, lease, queues and calls begin there and not in
/// `on_configure`: Envoy configures a throw-away VM first (the canary), which never ticks.
const FIRST_TICK: Duration = Duration::from_millis(1);

/// One plugin configuration in one VM, for every `root_id`. With [`RECORDER_ROOT_ID`] its
/// role is [`Role::Recorder`], which takes the lease from a worker.
pub struct PluginRoot<H: Host> {
    worker: Rc<Worker<H>>,
    /// The context's number.
    id: u32,
    _live: LiveContext,
    filter: Option<Rc<Filter<H>>>,
}

impl<H: Host> PluginRoot<H> {
    /// A root that is not configured yet; `context` is its number.
    pub fn new(worker: Rc<Worker<H>>, context: u32) -> Self {
        Self { worker, id: context, _live: LiveContext::new(context, ContextKind::Root), filter: None }
    }
}

impl<H: Host> RootContext for PluginRoot<H> {
    /// Reads the configuration, and loads the tables if shared data has any. False
    /// refuses the configuration; the reason is logged.
    fn on_configure(&mut self, _len: usize) -> bool {
        let host = self.worker.host();
        let config = match read(host) {
            Ok(config) => config,
            Err(error) => {
                host.log(log::Level::Error, &error.to_string());
                return false;
            }
        };
        let root_id = host.property("plugin_root_id").ok().flatten().unwrap_or_default();
        let role = if root_id == RECORDER_ROOT_ID.as_bytes() { Role::Recorder } else { Role::Gate };
        let instance = self.worker.join(&config, role);
        instance.sync.borrow_mut().load_now();
        let before = self.filter.replace(Rc::new(Filter::new(instance, config, FIRST_TICK)));
        if let Some(before) = before {
            before.instance.leave(self.id);
        }
        // Everything else begins at a tick.
        host.set_tick(FIRST_TICK).is_ok()
    }

    fn on_tick(&mut self) {
        if let Some(filter) = &self.filter {
            let next = filter.instance.on_tick(self.id);
            filter.set_tick(next);
            filter.tell_of_failure(self.id);
        }
    }

    /// A message arrived in a queue that this root registered.
    fn on_queue_ready(&mut self, queue: QueueId) {
        if let Some(filter) = &self.filter {
            filter.on_queue_ready(self.id, queue);
            filter.tell_of_failure(self.id);
        }
    }

    /// Envoy's access log tells of a request that ended (`envoy.access_loggers.wasm`). The others have an
    /// HTTP context that records them.
    fn on_log(&mut self) {
        let host = self.worker.host();
        if let Some(filter) = &self.filter
            && event::reached_no_filter(host)
        {
            filter.instance.metrics.count(Count::Unseen);
            let mut event = event::of_unseen(host);
            event::complete(host, &mut event, &Bodies::default(), Declared::Unreadable);
            filter.record(event);
        }
    }

    /// A request begins, or Envoy refused one: then only its end follows.
    fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(RequestContext::new(self.worker.host().clone(), self.filter.clone(), context)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl<H: Host> Context for PluginRoot<H> {
    /// A call that this root made was answered, or failed.
    fn on_http_call_response(
        &mut self,
        token: CallToken,
        _num_headers: usize,
        _body: usize,
        _trailers: usize,
    ) {
        if let Some(filter) = &self.filter
            && let Some(status) = filter.answered(token, CallMaker::Root)
        {
            filter.on_call_response(self.id, token, Some(status));
        }
    }

    /// The configuration is gone, and nothing uses it any more. True: it can be deleted.
    fn on_done(&mut self) -> bool {
        if let Some(filter) = self.filter.take() {
            filter.instance.leave(self.id);
        }
        true
    }
}

/// This filter in a VM of `host`: makes its root contexts by their numbers. In Envoy
/// `proxy_wasm::main!` does the same.
pub fn module<H: Host>(host: H) -> Box<dyn Fn(u32) -> Box<dyn RootContext>> {
    let worker = Worker::new(host);
    Box::new(move |context| Box::new(PluginRoot::new(worker.clone(), context)))
}

fn read<H: Host>(host: &H) -> Result<Config, ConfigError> {
    let bytes = host.plugin_configuration().map_err(|error: HostError| ConfigError {
        pointer: String::new(),
        message: format!("cannot be read: {error:?}"),
    })?;
    Config::parse(&bytes, |name| host.environment(name))
}
