//! The gate with the listener of `envoy/http3.yaml`.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_backend::CertificateFiles;
use tidegate_stack::ports::Ports;
use tidegate_stack::render::{at, merge, named, push};
use tidegate_stack::{Control, Options};

/// What `envoy.yaml` lacks.
pub const LISTENER: &str = include_str!("../../../envoy/http3.yaml");
const MANAGER: &str = "/filter_chains/0/filters/0/typed_config";
const CERTIFICATE: &str = "/filter_chains/0/transport_socket/typed_config/downstream_tls_context/\
                           common_tls_context/tls_certificates/0";

/// Envoy's configuration with the listener, which shows this certificate.
#[derive(Debug)]
pub struct Http3(pub CertificateFiles);

impl Control for Http3 {
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        let mut config = options.envoy_config(ports)?;
        let mut listener: Value = yaml_serde::from_str(LISTENER).context("http3.yaml is not YAML")?;
        *at(&mut listener, "/address/socket_address/port_value")? = json!(ports.gate);
        let shown = at(&mut listener, CERTIFICATE)?;
        *at(shown, "/certificate_chain/filename")? = json!(self.0.certificate);
        *at(shown, "/private_key/filename")? = json!(self.0.key);
        let listeners = at(&mut config, "/static_resources/listeners")?;
        let mut manager = at(named(listeners, "gate")?, MANAGER)?.clone();
        let differs = at(&mut listener, MANAGER)?;
        merge(&mut manager, differs);
        *differs = manager;
        push(listeners, listener)?;
        Ok(config)
    }
}
