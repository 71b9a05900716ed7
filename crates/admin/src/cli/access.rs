//! Options that say where a service is, whom to trust for it, and who asks: by options, then the environment, then a
//! context.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use reqwest::Url;

use super::contexts::{Context, Contexts};

/// Environment variable with the token. It is not an option, because other users of the machine
/// can see command lines.
const TOKEN: &str = "TIDEGATE_TOKEN";
/// Where `tidegate serve` listens for people unless it is told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:9070";

/// Where a service is, and whom to trust for it.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct ServiceArgs {
    /// Where the service listens for people (`tidegate serve --listen`), `http://` or `https://`; the
    /// context's unless given, and without one <http://127.0.0.1:9070>.
    #[arg(long, env = "TIDEGATE_SERVER", value_name = "URL", value_parser = server)]
    server: Option<String>,
    /// Certificates (PEM) of the authorities of which one must have signed the service's; the context's
    /// unless given, and without one those that the system trusts.
    #[arg(long = "ca", env = "TIDEGATE_CA_FILE", value_name = "PATH")]
    ca_file: Option<PathBuf>,
    /// The context (`tidegate context`) that says what is not given here; the one in use unless given.
    #[arg(long, env = "TIDEGATE_CONTEXT", value_name = "NAME")]
    context: Option<String>,
}

/// Where a service is, and the token.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct AccessArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// A file with a token; without it the token is taken from the environment variable
    /// TIDEGATE_TOKEN, and then from the context.
    #[arg(long, env = "TIDEGATE_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<PathBuf>,
}

/// Where a service is, and whom to trust for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Its URL, without a slash at the end.
    pub url: String,
    /// A file with the only authorities that count; `None`: the system's.
    pub ca_file: Option<PathBuf>,
}

/// A URL without a trailing slash.
pub fn server(text: &str) -> Result<String, String> {
    let wanted = "write http://HOST:PORT or https://HOST:PORT, like http://127.0.0.1:9070";
    let url: Url = text.parse().map_err(|_| wanted.to_owned())?;
    let is_http = matches!(url.scheme(), "http" | "https");
    if !is_http || !url.username().is_empty() || url.query().or(url.fragment()).is_some() {
        return Err(wanted.to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

impl ServiceArgs {
    /// As with `--server`.
    #[cfg(test)]
    pub fn of(server: String) -> Self {
        Self { server: Some(server), ..Self::default() }
    }

    /// The service.
    ///
    /// # Errors
    /// When there is no context of the name, or the file of contexts cannot be read.
    pub fn server(&self) -> anyhow::Result<Server> {
        Ok(self.server_in(self.context()?.as_ref()))
    }

    fn server_in(&self, context: Option<&Context>) -> Server {
        let url = self.server.clone().or_else(|| Some(context?.server.clone()));
        let ca_file = self.ca_file.clone().or_else(|| context?.ca_file.clone());
        Server { url: url.unwrap_or_else(|| DEFAULT_SERVER.to_owned()), ca_file }
    }

    /// The context that counts. Of one of another server nothing does: its token must not get there.
    fn context(&self) -> anyhow::Result<Option<Context>> {
        let context = Contexts::load()?.chosen(self.context.as_deref())?;
        let is_of = |context: &Context| self.server.as_ref().is_none_or(|server| *server == context.server);
        if self.context.is_some()
            && let Some(other) = context.as_ref().filter(|context| !is_of(context))
        {
            anyhow::bail!(
                "the context that is named is of another server, {}: leave --server out",
                other.server
            );
        }
        Ok(context.filter(is_of))
    }
}

impl AccessArgs {
    /// The service, and the token for it.
    ///
    /// # Errors
    /// When there is no token, or the file of contexts cannot be read.
    pub fn resolve(&self) -> anyhow::Result<(Server, String)> {
        let context = self.service.context()?;
        Ok((self.service.server_in(context.as_ref()), self.token(context)?))
    }

    /// The same if a service is named: by an option, the environment, or a context that is in use.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_if_given(&self) -> anyhow::Result<Option<(Server, String)>> {
        let context = self.service.context()?;
        if self.service.server.is_none() && context.is_none() {
            return Ok(None);
        }
        Ok(Some((self.service.server_in(context.as_ref()), self.token(context)?)))
    }

    /// Whether a token is given.
    pub fn has_token(&self) -> bool {
        self.token_file.is_some() || std::env::var_os(TOKEN).is_some()
    }

    fn token(&self, context: Option<Context>) -> anyhow::Result<String> {
        if let Some(path) = &self.token_file {
            return read_token(path);
        }
        if let Ok(token) = std::env::var(TOKEN) {
            return Ok(token.trim().to_owned());
        }
        match context {
            Some(Context { token_file: Some(path), .. }) => read_token(&path),
            Some(Context { token: Some(token), .. }) => Ok(token),
            _ => anyhow::bail!(
                "no token: name a file with --token-file (of the local stack: target/up/token), set TIDEGATE_TOKEN, or \
                 use a context of this server (`tidegate context set`); `tidegate token create --role admin` makes one"
            ),
        }
    }
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the token in {}", path.display()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_or_https_and_nothing_else() {
        for (text, taken) in [
            ("http://127.0.0.1:9070", "http://127.0.0.1:9070"),
            ("https://[::1]:9070/", "https://[::1]:9070"),
            ("http://proxy/tidegate/", "http://proxy/tidegate"),
            (r"http://h:1\", "http://h:1"),
        ] {
            assert_eq!(server(text).as_deref(), Ok(taken));
        }
        for wrong in [
            "",
            "127.0.0.1:9070",
            "http://",
            "ftp://h:1",
            "http://me:secret@h:1",
            "http://h:1/?a=b",
            "http://h:1/#a",
        ] {
            assert!(server(wrong).unwrap_err().contains("https://HOST:PORT"), "{wrong}");
        }
    }
}
