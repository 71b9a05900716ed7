//! The file of contexts: services that the command line knows by a name.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::access;
use super::output::print_error_line;
use super::toml_file;

/// Environment variable with the file's path.
const FILE: &str = "TIDEGATE_CONFIG";
/// Permissions with which the file is written, and beyond which nobody should have it.
const MODE: u32 = 0o600;

/// A service, and who asks it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Its URL, as of `--server`.
    pub server: String,
    /// A file with the token; a relative path begins where the file of contexts is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The token itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A file with authorities, as of `--ca`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// What the file holds.
#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The context that is used unless another is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By their names.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// Where the file is; `None`: nothing says so, not even where the user's files are.
pub fn path() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var(FILE).or_else(|| {
        let of_user = || Some(var("HOME")?.join(".config"));
        let base = var("XDG_CONFIG_HOME").filter(|path| path.is_absolute()).or_else(of_user)?;
        Some(base.join("tidegate/config.toml"))
    })
}

impl Contexts {
    /// Reads the file; one that does not exist has no contexts. Warns if others may read a token in it.
    ///
    /// # Errors
    /// When it cannot be read, or is no file of contexts. The message names it, and the place.
    pub fn load() -> anyhow::Result<Self> {
        let Some(path) = path() else { return Ok(Self::default()) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut contexts: Self = toml_file::parse(&path, &text)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        for (name, context) in &mut contexts.contexts {
            context.server = access::server(&context.server)
                .map_err(|wanted| anyhow::anyhow!("{}: server of {name}: {wanted}", path.display()))?;
            for file in [&mut context.token_file, &mut context.ca_file].into_iter().flatten() {
                *file = dir.join(&file);
            }
        }
        contexts.warn_of_readers(&path);
        Ok(contexts)
    }

    fn warn_of_readers(&self, path: &Path) {
        let has_token = self.contexts.values().any(|context| context.token.is_some());
        let mode = std::fs::metadata(path).map_or(0, |file| file.permissions().mode() & 0o777);
        if has_token && mode & !MODE != 0 {
            print_error_line(format_args!(
                "warning: {0} has a token, and others may read it ({mode:o}): chmod 600 {0}",
                path.display()
            ));
        }
    }

    /// The context of this name, or the one in use if none is named.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn chosen(&self, name: Option<&str>) -> anyhow::Result<Option<Context>> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        self.get(name).cloned().map(Some)
    }

    /// The context of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> anyhow::Result<&Context> {
        self.contexts.get(name).with_context(|| {
            let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            format!("there is no context `{name}`; there is: {known}")
        })
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> anyhow::Result<()> {
        let Some(path) = path() else { bail!("set {FILE}, or HOME: where the file of contexts is to be") };
        let write = || -> std::io::Result<()> {
            let dir = path.parent().unwrap_or(Path::new(""));
            std::fs::create_dir_all(dir)?;
            let text = toml::to_string(self).map_err(std::io::Error::other)?;
            let new = path.with_extension(format!("new-{}", std::process::id()));
            let replace = || {
                std::fs::write(&new, "")?;
                std::fs::set_permissions(&new, std::fs::Permissions::from_mode(MODE))?;
                std::fs::write(&new, text)?;
                std::fs::rename(&new, &path)
            };
            // Half of it may have a token.
            replace().inspect_err(|_| drop(std::fs::remove_file(&new)))
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}
