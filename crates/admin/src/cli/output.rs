//! What commands print: tables for people, JSON or YAML for scripts.

use std::fmt::Display;
use std::io::Write;

use comfy_table::{Table, presets};
use serde_json::Value;

/// Format of the output.
#[derive(clap::Args, Clone, Copy, Debug)]
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
    /// Never for what JSON can be.
    pub fn print(self, answer: &Value, people: impl FnOnce() -> String) -> anyhow::Result<()> {
        print_text(&match self.output {
            OutputFormat::Table => people(),
            OutputFormat::Json => format!("{}\n", serde_json::to_string_pretty(answer)?),
            OutputFormat::Yaml => yaml_serde::to_string(answer)?,
        });
        Ok(())
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

/// A value as a cell of a table. Control characters are escaped: a reason may be from anybody who
/// writes the database, and a terminal would do what they say.
pub fn cell(value: &Value) -> String {
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().map(plain).collect(),
        other => other.to_string(),
    }
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

/// Prints `text`. A closed pipe (`| head`) must not end the command, as `print!` would, which
/// panics.
pub fn print_text(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints a line on standard output.
pub fn print_line(line: impl Display) {
    print_text(&format!("{line}\n"));
}

/// Prints a line on standard error.
pub fn print_error_line(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
