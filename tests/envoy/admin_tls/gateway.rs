//! The gate with what `envoy/admin-tls.yaml` adds.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;
use tidegate_backend::Authority;
use tidegate_stack::ports::Ports;
use tidegate_stack::render::{at, named};
use tidegate_stack::{Control, Options};

const ADDITIONS: &str = include_str!("../../../envoy/admin-tls.yaml");
/// The name that the service's certificate has in the additions.
pub const NAME: &str = "tidegate-admin.tidegate.svc.cluster.local";
/// Where the additions look for files, besides certificates, which are in `tls` there.
const FOLDER: &str = "/etc/envoy";

/// Envoy's configuration with TLS towards the admin service.
#[derive(Debug)]
pub struct Gateway {
    additions: Value,
    /// Where the certificates are.
    tls: PathBuf,
    has_certificate: AtomicBool,
}

impl Gateway {
    /// One that trusts `services` and has a certificate of `own`, in the folder `tls`.
    pub fn new(tls: &Path, services: &Authority, own: &Authority) -> Result<Self> {
        std::fs::create_dir_all(tls)?;
        std::fs::copy(services.file(), tls.join("ca.crt"))?;
        let folder = tls.parent().context("a folder around the certificates'")?;
        let text = ADDITIONS.replace(FOLDER, &folder.display().to_string());
        let additions: Value = yaml_serde::from_str(&text).context("admin-tls.yaml is not YAML")?;
        for (part, file) in [("gateway_file", "tidegate-gateway"), ("authority_file", "tidegate-authority")] {
            let text = yaml_serde::to_string(&additions[part])?;
            std::fs::write(folder.join(file).with_extension("yaml"), text)?;
        }
        let gateway = Self { additions, tls: tls.to_owned(), has_certificate: AtomicBool::new(true) };
        gateway.exchange(own)?;
        Ok(gateway)
    }

    /// Gives it a new certificate, of this authority.
    pub fn exchange(&self, authority: &Authority) -> Result<()> {
        let files = authority.files("gateway")?;
        // The key first: Envoy reads both when the certificate is moved there.
        for (new, name) in [(files.key, "tls.key"), (files.certificate, "tls.crt")] {
            let beside = self.tls.with_extension("new");
            std::fs::copy(new, &beside)?;
            std::fs::rename(beside, self.tls.join(name))?;
        }
        Ok(())
    }

    /// From its next start on it shows no certificate.
    pub fn show_nothing(&self) {
        self.has_certificate.store(false, Ordering::Relaxed);
    }
}

impl Control for Gateway {
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        let mut config = options.envoy_config(ports)?;
        let mut socket = self.additions["transport_socket"].clone();
        if !self.has_certificate.load(Ordering::Relaxed) {
            let context = at(&mut socket, "/typed_config/common_tls_context")?;
            let fields = context.as_object_mut().context("no object")?;
            fields
                .remove("tls_certificate_sds_secret_configs")
                .context("no certificate in admin-tls.yaml")?;
        }
        named(at(&mut config, "/static_resources/clusters")?, "tidegate-admin")?["transport_socket"] = socket;
        Ok(config)
    }
}
