//! The files of a release, and the list of their checksums.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The list that `sha256sum -c` reads.
const SUMS: &str = "SHA256SUMS";
/// What is a program, and may be run.
const PROGRAMS: [&str; 1] = ["tidegate"];

/// Files by their path in the release.
#[derive(Default)]
pub struct Release(BTreeMap<String, Vec<u8>>);

impl Release {
    /// Adds a file; its path has `/` between its parts.
    pub fn add(&mut self, path: &str, bytes: Vec<u8>) {
        self.0.insert(path.to_owned(), bytes);
    }

    /// All files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// A line for each file, as `sha256sum` writes it.
    pub fn sums(&self) -> String {
        self.files().map(|(path, bytes)| format!("{}  {path}\n", sha256(bytes))).collect()
    }

    /// Replaces the folder by this release. The checksums come last: a folder that
    /// has them is whole.
    pub fn write(&self, dir: &Path) -> Result<()> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot replace {}", dir.display()))?;
        }
        for (path, bytes) in self.files() {
            let file = dir.join(path);
            let parent = file.parent().context("a file without a folder")?;
            fs::create_dir_all(parent)?;
            fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
            let mode = if PROGRAMS.contains(&path) { 0o755 } else { 0o644 };
            fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        }
        fs::write(dir.join(SUMS), self.sums())?;
        Ok(())
    }
}

/// In lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn sha256sum_finds_all_files_as_they_are_listed_and_a_changed_one() {
        let dir = std::env::temp_dir().join(format!("tidegate-release-{}", std::process::id()));
        let mut release = Release::default();
        release.add("tidegate", b"program".to_vec());
        release.add("oci/image/oci-layout", b"{}".to_vec());
        release.write(&dir).unwrap();
        // Nothing of an earlier release stays.
        fs::write(dir.join("old"), "").unwrap();
        release.write(&dir).unwrap();
        assert!(!dir.join("old").exists());

        let check = || {
            let mut command = Command::new("sha256sum");
            command.args(["--check", "--strict", "--status", SUMS]).current_dir(&dir);
            command.status().unwrap().success()
        };
        assert!(check());
        assert_eq!(fs::metadata(dir.join("tidegate")).unwrap().permissions().mode() & 0o777, 0o755);
        fs::write(dir.join("oci/image/oci-layout"), "[]").unwrap();
        assert!(!check());
        fs::remove_dir_all(&dir).unwrap();
    }
}
