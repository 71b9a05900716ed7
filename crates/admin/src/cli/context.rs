//! `tidegate context`: services that the command line knows by a name.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::access::server;
use super::contexts::{Context, Contexts};
use super::output::{print_line, print_text, table};

/// Commands for contexts.
#[derive(clap::Subcommand, Debug)]
pub enum ContextCommand {
    /// List the contexts; the one in use has a `*`.
    List,
    /// Use this context from now on, unless another is named.
    Use {
        /// Its name.
        name: String,
    },
    /// Make a context, or change what is given of it. The first one is used from then on.
    Set(SetArgs),
    /// Remove a context; files that it names stay.
    Delete {
        /// Its name.
        name: String,
    },
}

/// A context.
#[derive(clap::Args, Debug)]
pub struct SetArgs {
    /// Its name.
    name: String,
    /// Where the service listens for people.
    #[arg(long, value_name = "URL", value_parser = server)]
    server: Option<String>,
    /// A file with the token.
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities of which one must have signed the service's.
    #[arg(long, value_name = "PATH")]
    ca: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When there is no context of the name, or the file of contexts cannot be read or written.
pub fn run(command: &ContextCommand) -> anyhow::Result<()> {
    let mut contexts = Contexts::load()?;
    match command {
        ContextCommand::List => {
            return print_text(&list(&contexts));
        }
        ContextCommand::Use { name } => {
            contexts.get(name)?;
            contexts.current = Some(name.clone());
        }
        ContextCommand::Set(args) => set(&mut contexts, args)?,
        ContextCommand::Delete { name } => {
            contexts.get(name)?;
            contexts.contexts.remove(name);
            contexts.current.take_if(|current| current == name);
        }
    }
    contexts.save()?;
    print_line(contexts.current.map_or("no context is in use".to_owned(), |name| format!("{name} is in use")))
}

fn set(contexts: &mut Contexts, args: &SetArgs) -> anyhow::Result<()> {
    let SetArgs { name, server, token_file, ca } = args;
    let absolute = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
    let (token_file, ca_file) = (absolute(token_file)?, absolute(ca)?);
    let known = contexts.contexts.get(name);
    let Some(server) = server.clone().or_else(|| Some(known?.server.clone())) else {
        bail!("a new context needs --server");
    };
    // A token in the file itself counts until there is one in a file.
    let token = known.and_then(|known| known.token.clone()).filter(|_| token_file.is_none());
    let context = Context {
        server,
        token_file: token_file.or_else(|| known?.token_file.clone()),
        token,
        ca_file: ca_file.or_else(|| known?.ca_file.clone()),
    };
    contexts.contexts.insert(name.clone(), context);
    contexts.current.get_or_insert_with(|| name.clone());
    Ok(())
}

fn list(contexts: &Contexts) -> String {
    let shown = |path: Option<&Path>| path.map_or("-".to_owned(), |path| path.display().to_string());
    let rows = contexts.contexts.iter().map(|(name, context)| {
        let in_use = if contexts.current.as_ref() == Some(name) { "*" } else { "" };
        let token = match (&context.token_file, &context.token) {
            (None, Some(_)) => "(in the file)".to_owned(),
            (path, _) => shown(path.as_deref()),
        };
        [in_use.to_owned(), name.clone(), context.server.clone(), token, shown(context.ca_file.as_deref())]
    });
    table(["", "name", "server", "token", "ca"], rows)
}
