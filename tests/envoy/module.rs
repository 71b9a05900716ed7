//! Modules for Envoy to load: other filters, and the filter in other bytes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use tidegate_stack::programs::repository;

/// Lower-case SHA-256, as images and downloads are checked by.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts the module into `dir` under the name that Istio's agent gives it, its hash, with
/// a custom section that says `stamp`. Such a section does nothing; to Envoy it is other
/// code, as every release is.
///
/// # Errors
/// `stamp` is longer than 100 bytes, or a file cannot be read or written.
pub fn stamped(wasm: &Path, dir: &Path, stamp: &str) -> Result<PathBuf> {
    ensure!(stamp.len() <= 100, "a stamp of {} bytes", stamp.len());
    let mut bytes = std::fs::read(wasm).with_context(|| format!("cannot read {}", wasm.display()))?;
    // Section 0, its length, and a name with its length: each fits into one byte.
    let len = u8::try_from(stamp.len()).unwrap_or(u8::MAX);
    bytes.extend([0, len + 1, len]);
    bytes.extend(stamp.as_bytes());
    std::fs::create_dir_all(dir)?;
    let path = dir.join(format!("{}.wasm", sha256(&bytes)));
    std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A filter that is not ours, `chatty` or `noop`: from `TIDEGATE_OTHER_FILTERS`, a folder
/// that `cargo xtask test` names, else where cargo puts it.
///
/// # Errors
/// It was not built: the message has the command that does it.
pub fn other(name: &str) -> Result<PathBuf> {
    let named = std::env::var_os("TIDEGATE_OTHER_FILTERS").filter(|value| !value.is_empty());
    let dir = named.map_or_else(|| repository().join("target/wasm32-wasip1/filter"), PathBuf::from);
    let path = dir.join(format!("tidegate_{name}_filter.wasm"));
    ensure!(
        path.is_file(),
        "the filter {name} is missing: no file {}; run `cargo build -p tidegate-{name}-filter --lib \
         --target wasm32-wasip1 --profile filter`",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_makes_other_bytes_of_the_same_code() {
        let dir = std::env::temp_dir().join(format!("tidegate-stamped-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let plain = dir.join("plain.wasm");
        std::fs::write(&plain, b"\0asm\x01\0\0\0").unwrap();
        let path = stamped(&plain, &dir, "two").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes, b"\0asm\x01\0\0\0\0\x04\x03two");
        assert!(path.ends_with(format!("{}.wasm", sha256(&bytes))));
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
