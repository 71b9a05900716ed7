//! Envoy's configuration by file: what Istio's agent or a control plane would send, as
//! a `DiscoveryResponse` that Envoy reads again whenever the file is replaced.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A kind of resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Extensions, by name (ECDS).
    Extension,
    /// Endpoints of clusters (EDS).
    Endpoints,
    /// Listeners (LDS).
    Listener,
}

impl Kind {
    fn type_url(self) -> &'static str {
        match self {
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
        }
    }
}

/// A file of resources of one kind that an Envoy watches.
#[derive(Debug)]
pub struct XdsFile {
    path: PathBuf,
    kind: Kind,
    version: AtomicU64,
}

impl XdsFile {
    /// A file that is not written yet.
    #[must_use]
    pub fn new(path: PathBuf, kind: Kind) -> Self {
        Self { path, kind, version: AtomicU64::new(0) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an Envoy is told to read it: it waits for the first version, however long
    /// that takes.
    ///
    /// # Errors
    /// The path is not UTF-8.
    pub fn config_source(&self) -> Result<Value> {
        let path = self.path.to_str().context("a path that is not UTF-8")?;
        Ok(json!({
            "path_config_source": { "path": path },
            "initial_fetch_timeout": "0s",
            "resource_api_version": "V3",
        }))
    }

    /// Puts these in the place of the resources before. Moved over the file, not
    /// written into it: Envoy looks when a file is moved there, and never sees half.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, resources: &[Value]) -> Result<()> {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let resources: Vec<_> = resources.iter().map(|resource| self.typed(resource)).collect();
        let response = json!({
            "version_info": version.to_string(),
            "type_url": self.kind.type_url(),
            "resources": resources,
        });
        // Envoy knows the language of a file by its name, and watches the one name only.
        let new = self.path.with_extension("new.json");
        std::fs::write(&new, serde_json::to_vec_pretty(&response)?)
            .and_then(|()| std::fs::rename(&new, &self.path))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn typed(&self, resource: &Value) -> Value {
        let mut typed = resource.clone();
        typed["@type"] = json!(self.kind.type_url());
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_replaces_the_one_before() {
        let path = std::env::temp_dir().join(format!("tidegate-xds-{}.json", std::process::id()));
        let file = XdsFile::new(path, Kind::Extension);
        for version in ["1", "2"] {
            file.write(&[json!({ "name": version })]).unwrap();
            let read: Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
            assert_eq!(read["version_info"], version);
            assert_eq!(read["resources"][0]["name"], version);
            assert_eq!(read["resources"][0]["@type"], Kind::Extension.type_url());
        }
        std::fs::remove_file(file.path()).unwrap();
    }
}
