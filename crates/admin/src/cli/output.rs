//! What commands print: tables for people, JSON or YAML for scripts.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};

use anyhow::Context;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

/// Format of the output.
#[derive(clap::Args, Clone, Copy, Default, Debug)]
pub struct OutputArgs {
    /// Format of the output; `json` and `yaml` are the API's answers.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: OutputFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
enum OutputFormat {
    /// Text for people; it may change.
    #[default]
    Table,
    Json,
    Yaml,
}

impl OutputArgs {
    /// Whether the output is text for people.
    pub fn is_table(self) -> bool {
        self.output == OutputFormat::Table
    }

    /// Prints `answer`; `people` makes the text for people.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn print(self, answer: &Value, people: impl FnOnce() -> String) -> anyhow::Result<()> {
        print_text(&self.text(answer, people)?)
    }

    /// What [`print`](Self::print) prints.
    ///
    /// # Errors
    /// Never for what JSON can be.
    pub fn text(self, answer: &Value, people: impl FnOnce() -> String) -> anyhow::Result<String> {
        Ok(match self.output {
            OutputFormat::Table => people(),
            OutputFormat::Json => format!("{}\n", plain_json(&serde_json::to_string_pretty(answer)?)),
            OutputFormat::Yaml => yaml_serde::to_string(answer)?,
        })
    }

    /// As [`print`](Self::print), of the answers to several requests: a list, unless it is one.
    ///
    /// # Errors
    /// As [`print`](Self::print).
    pub fn print_each(
        self,
        mut answers: Vec<Value>,
        people: impl Fn(&Value) -> String,
    ) -> anyhow::Result<()> {
        let text: String = answers.iter().map(people).collect();
        let answer = if answers.len() == 1 { answers.remove(0) } else { Value::from(answers) };
        self.print(&answer, || text)
    }
}

/// Format of a report.
#[derive(clap::Args, Clone, Copy, Default, Debug)]
pub struct ReportArgs {
    /// Format of the output; the fields of `json` are an interface, `markdown` is for tickets.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: ReportFormat,
}

/// Format of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum ReportFormat {
    /// Text for people; it may change.
    #[default]
    Table,
    /// For scripts.
    Json,
    /// For tickets.
    Markdown,
}

impl ReportArgs {
    /// The format that was asked for.
    pub fn format(self) -> ReportFormat {
        self.output
    }

    /// Prints a report: as JSON, or as one of both texts.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn print(
        self,
        report: &impl Serialize,
        people: impl FnOnce() -> String,
        markdown: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        print_text(&match self.output {
            ReportFormat::Table => people(),
            ReportFormat::Json => format!("{}\n", plain_json(&serde_json::to_string_pretty(report)?)),
            ReportFormat::Markdown => markdown(),
        })
    }
}

/// A table with headings; `-` where there is nothing.
pub fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings.map(str::to_uppercase));
    table.add_rows(rows);
    // The first column begins at the margin, as in other programs' tables.
    let trimmed =
        table.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end()));
    trimmed.collect()
}

/// A table in Markdown.
pub fn markdown_table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    let cell = |text: String| plain(&text).replace('|', "\\|");
    table.load_style(presets::ASCII_MARKDOWN).set_header(headings);
    table.add_rows(rows.into_iter().map(|row| row.map(cell)));
    format!("{table}\n")
}

/// A value as a cell of a table.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

/// `text` without what a terminal would obey, or what makes it look like another one: control
/// characters, and those that hide or reorder others, are escaped. A reason may be from anybody who
/// writes the database, and an answer from anything that answers.
pub fn plain(text: &str) -> String {
    let shown = |c: char| if is_unseen(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

fn plain_lines(text: &str) -> String {
    let part = |c: char| matches!(c, '\n' | '\t');
    text.split_inclusive(part)
        .map(|line| match line.strip_suffix(part) {
            Some(start) => format!("{}{}", plain(start), &line[start.len()..]),
            None => plain(line),
        })
        .collect()
}

/// JSON text that says the same with the characters that [`plain`] escapes as JSON escapes them. Outside of
/// strings there are none but line ends.
pub fn plain_json(json: &str) -> String {
    let shown = |c: char| match c {
        '\n' => c.to_string(),
        _ if is_unseen(c) => format!("\\u{:04x}", u32::from(c)),
        _ => c.to_string(),
    };
    json.chars().map(shown).collect()
}

/// Control characters, soft hyphen, blanks without width, marks of direction and line ends of Unicode.
fn is_unseen(c: char) -> bool {
    let hidden = matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    c.is_control() || hidden
}

/// The items of a list that the API answers.
pub fn items(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["items"].as_array().into_iter().flatten()
}

/// How many gateways enforce a change, in words.
pub fn applied(answer: &Value) -> String {
    let count = |name: &str| answer["applied"][name].as_u64().unwrap_or_default();
    match count("of") {
        0 => "no gateway is connected".to_owned(),
        of => format!("enforced by {} of {of} gateways", count("gateways")),
    }
}

/// The pipe that the output goes to was closed (`| head`): a reason to end, and no failure.
#[derive(thiserror::Error, Debug)]
#[error("nobody reads the output any more")]
pub struct NoReader;

/// Prints `text`, part of an output that has no other purpose than to be read. On a terminal all lines are
/// [`plain`].
///
/// # Errors
/// When it cannot be written; [`NoReader`] where the pipe was closed.
pub fn stream_text(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().is_terminal() {
        true => write_bytes(plain_lines(text).as_bytes()),
        false => write_bytes(text.as_bytes()),
    }
}

/// Prints lines that come in chunks, as [`stream_text`] does.
pub fn line_stream() -> impl FnMut(&[u8]) -> anyhow::Result<()> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut rest = Vec::new();
    move |chunk| {
        if !is_terminal {
            return write_bytes(chunk);
        }
        rest.extend_from_slice(chunk);
        let whole = rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = rest.drain(..whole).collect();
        stream_text(&String::from_utf8_lossy(&lines))
    }
}

fn write_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(NoReader.into()),
        written => written.context("cannot write the output"),
    }
}

/// Prints `text`. That nobody reads it any more changes nothing: the command does what it was to do, and
/// its exit status says how that went.
///
/// # Errors
/// When it cannot be written.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    stream_text(text).or_else(|error| if error.is::<NoReader>() { Ok(()) } else { Err(error) })
}

/// Prints a line on standard output.
///
/// # Errors
/// As [`print_text`].
pub fn print_line(line: impl Display) -> anyhow::Result<()> {
    print_text(&format!("{line}\n"))
}

/// Prints lines on standard error.
pub fn print_error_line(lines: impl Display) {
    let _ = writeln!(std::io::stderr(), "{}", plain_lines(&lines.to_string()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (text, shown) in [
            ("a b \u{e4}", "a b \u{e4}"),
            ("\u{1b}[31m", r"\u{1b}[31m"),
            ("\u{9b}31m\r\n", r"\u{9b}31m\r\n"),
            ("\u{202e}x\u{200b}", r"\u{202e}x\u{200b}"),
        ] {
            assert_eq!(plain(text), shown);
        }
        assert_eq!(cell(&json!(["\u{9b}"])), r#"["\u{9b}"]"#);
        assert_eq!(plain_lines("\u{1b}[2J\ta\r\n\nb"), "\\u{1b}[2J\ta\\r\n\nb");
    }

    #[test]
    fn json_says_the_same_without_what_a_terminal_would_obey() {
        let value = json!({ "a\u{202e}": ["\u{9b}31m\n\u{7f}", "\u{e4}\u{1f600}"] });
        let shown = plain_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(shown.chars().all(|c| c == '\n' || !is_unseen(c)) && shown.contains('\u{e4}'), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
