//! The settings of `tidegate serve`: what the command line says, else the environment, else a file, else the default.
//! What the file says is put in the place of the defaults, so that it is read as an option would be.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::output::print_text;
use super::{Cli, toml_file};

/// The commands that have the settings.
const COMMANDS: [&str; 2] = ["serve", "config"];
/// The option with the file.
const FILE: &str = "serve_config";

/// A file's settings, by the options' ids.
type FileSettings = BTreeMap<String, toml::Value>;

/// A command line, and where the settings in it came from.
pub struct Parsed {
    pub cli: Cli,
    /// Of the command with the settings, if it is one.
    pub settings: Option<Settings>,
}

/// Settings, and where they came from.
pub struct Settings {
    matches: ArgMatches,
    file: Option<(PathBuf, FileSettings)>,
}

/// Reads a command line, and the file that it names.
///
/// # Errors
/// A `clap::Error` where the command line is wrong, or asks for help; others name the file.
pub fn parse(args: &[OsString]) -> anyhow::Result<Parsed> {
    let mut matches = Cli::command().try_get_matches_from(args)?;
    let named = matches.subcommand().filter(|(name, _)| COMMANDS.contains(name));
    let Some((name, of_command)) = named else {
        return Ok(Parsed { cli: Cli::from_arg_matches(&matches)?, settings: None });
    };
    let mut file = None;
    if let Some(path) = of_command.get_one::<PathBuf>(FILE).cloned() {
        let said = read(&path)?;
        let command = Cli::command();
        let defaults = command.find_subcommand(name).map(|command| defaults(command, &said));
        let defaults = defaults.transpose().with_context(|| path.display().to_string())?;
        let set = |command: Command, (id, texts): (String, Vec<String>)| {
            command.mut_arg(id, |option| option.default_values(texts))
        };
        let command =
            command.mut_subcommand(name, |command| defaults.into_iter().flatten().fold(command, set));
        // The command line itself was good.
        let again = command.try_get_matches_from(args);
        matches = again.map_err(|error| anyhow!("{}: {}", path.display(), error.render()))?;
        file = Some((path, said));
    }
    let cli = Cli::from_arg_matches(&matches)?;
    let matches = matches.remove_subcommand().map(|(_, matches)| matches).unwrap_or_default();
    Ok(Parsed { cli, settings: Some(Settings { matches, file }) })
}

fn read(path: &Path) -> anyhow::Result<FileSettings> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--config: cannot read {}", path.display()))?;
    toml_file::parse(path, &text)
}

/// What a file says, as `command` would have it from a command line.
fn defaults(command: &Command, said: &FileSettings) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let each = said.iter().map(|(id, value)| {
        let option = command.get_arguments().find(|option| option.get_id() == id.as_str() && id != FILE);
        let texts = option.map_or_else(|| Err(unknown(command, id)), |option| texts(option, value))?;
        Ok((id.clone(), texts))
    });
    each.collect()
}

fn unknown(command: &Command, id: &str) -> anyhow::Error {
    let known = command.get_arguments().map(|option| option.get_id().as_str()).filter(|id| *id != FILE);
    anyhow!("there is no setting `{id}`; there are {}", known.collect::<Vec<_>>().join(", "))
}

/// A file's value as a command line would have it.
fn texts(option: &Arg, value: &toml::Value) -> anyhow::Result<Vec<String>> {
    let id = option.get_id();
    let one = |value: &toml::Value| match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        other => bail!("`{id}` may not be {}", other.type_str()),
    };
    match (option.get_action(), value) {
        (ArgAction::SetTrue, toml::Value::Boolean(is)) => Ok(vec![is.to_string()]),
        (ArgAction::SetTrue, _) => bail!("`{id}` is true or false"),
        (ArgAction::Append, toml::Value::Array(values)) => values.iter().map(one).collect(),
        (ArgAction::Append, _) => bail!("`{id}` is a list: [\"...\"]"),
        _ => Ok(vec![one(value)?]),
    }
}

impl Settings {
    /// Prints the settings as the file that would say the same, with where each came from.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn print(&self) -> anyhow::Result<()> {
        print_text(&self.lines().concat())
    }

    fn lines(&self) -> Vec<String> {
        let command = Cli::command();
        let of_command = command.get_subcommands().find(|command| command.get_name() == COMMANDS[0]);
        let options = of_command.into_iter().flat_map(Command::get_arguments);
        options.filter(|option| option.get_id() != FILE).filter_map(|option| self.line(option)).collect()
    }

    fn line(&self, option: &Arg) -> Option<String> {
        let id = option.get_id().as_str();
        let source = self.matches.try_get_raw(id).ok()?;
        let values: Vec<String> =
            source.into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
        let Some(source) = self.matches.value_source(id) else {
            return Some(format!("# {id} is not set\n"));
        };
        let from = match source {
            ValueSource::CommandLine => format!("--{}", option.get_long().unwrap_or(id)),
            ValueSource::EnvVariable => option.get_env().unwrap_or_default().to_string_lossy().into_owned(),
            _ => match self.file.as_ref().filter(|(_, said)| said.contains_key(id)) {
                Some((path, _)) => path.display().to_string(),
                None => "default".to_owned(),
            },
        };
        Some(format!("{id} = {}  # {from}\n", value_of(option, &values)))
    }
}

/// Values as TOML.
fn value_of(option: &Arg, values: &[String]) -> toml::Value {
    let one = || values.first().cloned().unwrap_or_default();
    match option.get_action() {
        ArgAction::SetTrue => toml::Value::Boolean(is_true(&one())),
        ArgAction::Append => values.iter().flat_map(|value| value.split(',')).collect::<Vec<_>>().into(),
        _ => one().parse::<i64>().map_or_else(|_| one().into(), toml::Value::Integer),
    }
}

fn is_true(text: &str) -> bool {
    !matches!(text.to_lowercase().as_str(), "" | "0" | "f" | "false" | "n" | "no" | "off")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> anyhow::Result<Parsed> {
        parse(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn lines(args: &[&str]) -> Vec<String> {
        parsed(args).unwrap().settings.unwrap().lines()
    }

    #[test]
    fn an_option_counts_before_the_file_and_that_before_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        std::fs::write(
            &path,
            "listen = '127.0.0.1:1'\nlog = 'warn'\nclusters = ['a', 'b']\ninsecure_listen = true\nevents_max_bytes = 5\n",
        )
        .unwrap();
        let path = path.to_str().unwrap();
        let lines = lines(&["tidegate", "config", "--config", path, "--log", "debug"]);
        for wanted in [
            format!("listen = \"127.0.0.1:1\"  # {path}\n"),
            "log = \"debug\"  # --log\n".to_owned(),
            "gateway_listen = \"127.0.0.1:9071\"  # default\n".to_owned(),
            format!("clusters = [\"a\", \"b\"]  # {path}\n"),
            format!("insecure_listen = true  # {path}\n"),
            format!("events_max_bytes = 5  # {path}\n"),
            "# tls_cert is not set\n".to_owned(),
        ] {
            assert!(lines.contains(&wanted), "{wanted}{lines:#?}");
        }
        // What is printed is a file that says the same.
        let again = dir.path().join("again.toml");
        std::fs::write(&again, lines.concat()).unwrap();
        let values = |lines: &[String]| -> Vec<String> {
            lines.iter().map(|line| line.split("  # ").next().unwrap().to_owned()).collect()
        };
        let second = super::tests::lines(&["tidegate", "config", "--config", again.to_str().unwrap()]);
        assert_eq!(values(&second), values(&lines));
    }

    #[test]
    fn the_example_says_what_there_is() {
        let example = include_str!("../../../../deploy/systemd/tidegate.toml");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        for text in [example.to_owned(), example.replace("\n# ", "\n")] {
            // What is no setting even then is a comment.
            let is_setting = |line: &&str| line.contains(" = ") || line.starts_with('#') || line.is_empty();
            std::fs::write(&path, text.lines().filter(is_setting).collect::<Vec<_>>().join("\n")).unwrap();
            parsed(&["tidegate", "config", "--config", path.to_str().unwrap()]).unwrap();
        }
    }

    #[test]
    fn what_a_file_may_not_say_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        for (text, wanted) in [
            ("listn = '1'", "there is no setting `listn`; there are db, listen, "),
            ("serve_config = '1'", "there is no setting `serve_config`"),
            ("\nlisten = ", "t.toml:2: "),
            ("listen = 'here'", "invalid value 'here' for '--listen <ADDRESS>'"),
            ("listen = [1]", "`listen` may not be array"),
            ("clusters = 'a'", "`clusters` is a list"),
            ("insecure_listen = 'yes'", "`insecure_listen` is true or false"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = parsed(&["tidegate", "serve", "--config", path.to_str().unwrap()]).err().unwrap();
            let said = format!("{error:#}");
            assert!(said.contains(wanted) && said.contains("t.toml"), "{said}");
        }
    }
}
