//! One plugin configuration in one VM: Envoy's root context.

use std::rc::Rc;
use std::time::Duration;

use crate::config::{Config, ConfigError};
use crate::filter::Filter;
use crate::host::{CallToken, Host, HostError, QueueId};
use crate::http_context::RequestContext;
use crate::sync::Role;
use crate::worker::Worker;

/// `root_id` of the bootstrap singleton that pulls tables and posts events.
pub const RECORDER_ROOT_ID: &str = "tidegate_recorder";
/// Claims, queues and calls begin at a first tick right after the configuration,
/// never in it: Envoy configures a throw-away VM first, which never ticks.
const FIRST_TICK: Duration = Duration::from_millis(1);

/// A root context.
pub struct Root<H: Host> {
    home: Rc<Worker<H>>,
    id: u32,
    gate: Option<Rc<Filter<H>>>,
}

impl<H: Host> Root<H> {
    /// A root that is not configured yet.
    pub fn new(home: Rc<Worker<H>>, context_id: u32) -> Self {
        Self { home, id: context_id, gate: None }
    }

    /// Reads the configuration and, if shared data has tables, is warm when it
    /// returns. False refuses the configuration; the log says why.
    pub fn on_configure(&mut self) -> bool {
        let host = self.home.host();
        let config = match read(host) {
            Ok(config) => config,
            Err(error) => {
                host.log(log::Level::Error, &error.to_string());
                return false;
            }
        };
        let root_id = host.property(&["plugin_root_id"]).ok().flatten().unwrap_or_default();
        let role = if root_id == RECORDER_ROOT_ID.as_bytes() { Role::Recorder } else { Role::Gate };
        let vm = self.home.join(&config, role);
        vm.sync.borrow_mut().load_now();
        let before = self.gate.replace(Rc::new(Filter::new(vm, config, FIRST_TICK)));
        if let Some(before) = before {
            before.vm.leave(self.id);
        }
        // Without a tick nothing would ever come.
        host.set_tick(FIRST_TICK).is_ok()
    }

    /// The timer.
    pub fn on_tick(&mut self) {
        if let Some(gate) = &self.gate {
            let next = gate.vm.on_tick(self.id);
            gate.set_tick(next);
        }
    }

    /// A message arrived in a queue that this root registered.
    pub fn on_queue_ready(&mut self, queue: QueueId) {
        if let Some(gate) = &self.gate {
            gate.vm.on_queue_ready(self.id, queue);
        }
    }

    /// A call that this root made was answered, or failed (`num_headers` is zero).
    pub fn on_call_response(&mut self, token: CallToken, num_headers: usize) {
        if let Some(gate) = &self.gate {
            gate.vm.on_call_response(self.id, token, num_headers);
        }
    }

    /// The configuration is gone, and nothing uses it any more.
    pub fn on_done(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.vm.leave(self.id);
        }
    }

    /// A request begins, or Envoy refused one that has no more than a log.
    pub fn stream(&self) -> RequestContext<H> {
        RequestContext::new(self.home.host().clone(), self.gate.clone())
    }
}

fn read<H: Host>(host: &H) -> Result<Config, ConfigError> {
    let bytes = host.plugin_configuration().map_err(|error: HostError| ConfigError {
        pointer: String::new(),
        message: format!("cannot be read: {error:?}"),
    })?;
    Config::parse(&bytes, |name| host.environment(name))
}
