//! The filter as registries keep it: OCI image layouts, which are folders, in the two
//! forms that Istio's agent and Envoy Gateway read.
//!
//! Both programs have nearly the same reader: Istio's `pkg/wasm/imagefetcher.go`
//! (main, August 2026) and Envoy Gateway's `internal/wasm/imagefetcher.go` (v1.9.0).
//! It tries a manifest as [`Form::Image`] first: the **last** layer must be
//! `application/vnd.oci.image.layer.v1.tar+gzip`, and in it the first file whose base
//! name is `plugin.wasm` is the module. If that fails it tries [`Form::Artifact`]:
//! **exactly two** layers, of which the first of
//! `application/vnd.module.wasm.content.layer.v1+wasm` is the module as it is. Neither
//! reads the manifest's config. What the two layers hold is said by
//! `spec/spec-compat.md` and `spec/spec.md` of solo-io/wasm.
//!
//! What a layout looks like: `image-layout.md` of the OCI image specification, 1.1.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use super::release::sha256;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const WASM_CONFIG: &str = "application/vnd.module.wasm.config.v1+json";
const WASM_LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";

/// The one name that both readers look for.
const MODULE: &str = "plugin.wasm";

/// How the module is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// An image of one layer that holds `plugin.wasm`, which any registry and any
    /// tool for images takes.
    Image,
    /// Two layers: what the module is for, and the module.
    Artifact,
}

/// Files by their path in the layout.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A layout with the module as its only image, tagged with `version`.
pub fn layout(form: Form, wasm: &[u8], version: &str) -> Result<Files> {
    let mut files = Files::new();
    let mut manifest = match form {
        Form::Image => image(&mut files, wasm)?,
        Form::Artifact => artifact(&mut files, wasm)?,
    };
    manifest["schemaVersion"] = json!(2);
    manifest["mediaType"] = json!(MANIFEST);
    manifest["annotations"] = json!({
        "org.opencontainers.image.title": "tidegate-filter",
        "org.opencontainers.image.description": "The proxy-wasm filter of Tidegate, a traffic gate for Envoy",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": version,
    });
    let mut manifest = blob(&mut files, MANIFEST, text(&manifest)?);
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": version });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });
    files.insert("index.json".to_owned(), text(&index)?);
    files.insert("oci-layout".to_owned(), text(&json!({ "imageLayoutVersion": "1.0.0" }))?);
    Ok(files)
}

fn image(files: &mut Files, wasm: &[u8]) -> Result<Value> {
    let tar = tar(wasm)?;
    let config = json!({
        // Go's names, as the specification asks for.
        "architecture": "wasm",
        "os": "wasip1",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&tar))] },
    });
    let config = blob(files, IMAGE_CONFIG, text(&config)?);
    let layer = blob(files, TAR_LAYER, gzip(&tar)?);
    Ok(json!({ "config": config, "layers": [layer] }))
}

fn artifact(files: &mut Files, wasm: &[u8]) -> Result<Value> {
    let runtime = json!({
        "type": "envoy_proxy",
        "abiVersions": ["0.2.1"],
        "config": { "root_ids": ["tidegate", "tidegate_recorder"] },
    });
    let mut config = blob(files, WASM_CONFIG, text(&runtime)?);
    config["annotations"] = json!({ "org.opencontainers.image.title": "runtime-config.json" });
    let mut module = blob(files, WASM_LAYER, wasm.to_vec());
    module["annotations"] = json!({ "org.opencontainers.image.title": MODULE });
    let nothing = blob(files, EMPTY, b"{}".to_vec());
    Ok(json!({ "artifactType": WASM_CONFIG, "config": nothing, "layers": [config, module] }))
}

/// Adds a blob and says how it is referred to.
fn blob(files: &mut Files, media_type: &str, bytes: Vec<u8>) -> Value {
    let digest = sha256(&bytes);
    let descriptor =
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() });
    files.insert(format!("blobs/sha256/{digest}"), bytes);
    descriptor
}

/// With its keys in order, whatever crate asks `serde_json` for another.
fn text(value: &Value) -> Result<Vec<u8>> {
    let mut value = value.clone();
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

/// The module alone, of nobody and of no time.
fn tar(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(wasm.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, MODULE, wasm)?;
    Ok(archive.into_inner()?)
}

/// Without a time, a name or the system that packed it.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packer = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    packer.write_all(bytes)?;
    Ok(packer.finish()?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Not text, and of more than one block of a tar archive.
    fn module() -> Vec<u8> {
        b"\0asm\x01\0\0\0".iter().copied().chain((0..9_001_u32).map(|n| (n % 251) as u8)).collect()
    }

    /// A blob as a registry's client takes it: only with the size and the digest
    /// that its descriptor says.
    fn fetch<'f>(files: &'f Files, descriptor: &Value) -> &'f [u8] {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = &files[&format!("blobs/sha256/{digest}")];
        assert_eq!(Some(bytes.len() as u64), descriptor["size"].as_u64(), "{descriptor}");
        assert_eq!(sha256(bytes), digest);
        bytes
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// The manifest that the layout's tag names, and how many blobs were asked for.
    fn manifest(files: &Files, tag: &str) -> Value {
        assert_eq!(parsed(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
        let index = parsed(&files["index.json"]);
        let found = index["manifests"].as_array().unwrap();
        let found = found
            .iter()
            .find(|manifest| manifest["annotations"]["org.opencontainers.image.ref.name"] == tag)
            .unwrap();
        assert_eq!(found["mediaType"], MANIFEST);
        parsed(fetch(files, found))
    }

    /// Reads as the readers of the two control planes do: the form of an image first.
    fn unpack(files: &Files, tag: &str) -> Result<Vec<u8>, String> {
        let manifest = manifest(files, tag);
        fetch(files, &manifest["config"]);
        let layers = manifest["layers"].as_array().unwrap();
        let last = layers.last().unwrap();
        if last["mediaType"] == TAR_LAYER {
            return unpack_image(files, &manifest, last);
        }
        if layers.len() != 2 {
            return Err(format!("{} layers", layers.len()));
        }
        let layer = layers.iter().find(|layer| layer["mediaType"] == WASM_LAYER).unwrap();
        Ok(fetch(files, layer).to_vec())
    }

    fn unpack_image(files: &Files, manifest: &Value, layer: &Value) -> Result<Vec<u8>, String> {
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(fetch(files, layer)).read_to_end(&mut tar).unwrap();
        let config = parsed(fetch(files, &manifest["config"]));
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(&tar))]));
        for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap().file_name().is_some_and(|name| name == MODULE) {
                let mut module = Vec::new();
                entry.read_to_end(&mut module).unwrap();
                return Ok(module);
            }
        }
        Err("no plugin.wasm".to_owned())
    }

    #[test]
    fn both_forms_unpack_to_the_module() {
        for form in [Form::Image, Form::Artifact] {
            let files = layout(form, &module(), "1.2.3").unwrap();
            assert!(unpack(&files, "1.2.3").unwrap() == module(), "{form:?}");
        }
    }

    #[test]
    fn every_blob_is_named_by_a_descriptor() {
        for (form, blobs) in [(Form::Image, 3), (Form::Artifact, 4)] {
            let files = layout(form, &module(), "1.2.3").unwrap();
            assert_eq!(files.keys().filter(|path| path.starts_with("blobs/")).count(), blobs, "{form:?}");
            assert_eq!(files.len(), blobs + 2, "{form:?}: an index and the layout's version besides");
        }
    }

    #[test]
    fn the_same_module_gives_the_same_bytes() {
        for form in [Form::Image, Form::Artifact] {
            let once = layout(form, &module(), "1.2.3").unwrap();
            assert!(once == layout(form, &module(), "1.2.3").unwrap(), "{form:?}");
            assert!(once != layout(form, &module()[1..], "1.2.3").unwrap(), "{form:?}");
        }
    }

    #[test]
    fn nothing_says_when_and_by_whom_it_was_packed() {
        let files = layout(Form::Image, &module(), "1.2.3").unwrap();
        let manifest = manifest(&files, "1.2.3");
        let layer = fetch(&files, &manifest["layers"][0]);
        // RFC 1952: flags, time and system.
        assert_eq!((layer[3], &layer[4..8], layer[9]), (0, &[0; 4][..], 255));
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(layer).read_to_end(&mut tar).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        let header = entry.header();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
        assert_eq!((header.username(), header.groupname()), (Ok(Some("")), Ok(Some(""))));
    }
}
