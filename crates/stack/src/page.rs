//! Pages of the documentation, run as they stand: every command that one tells a
//! person to type, in its order, and what it says that they will see.
//!
//! The page's addresses and files are those of `cargo xtask up`; a test has its
//! own in their place.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::programs::repository;
use crate::stack::Stack;

/// What came of a page.
#[derive(Debug, Default)]
pub struct Typed {
    /// What each block of commands printed, in order.
    pub printed: Vec<String>,
    /// Outputs that were compared with what the page says.
    pub compared: usize,
}

/// What ends the output of a block.
const END: &str = "--end-of-block--";

/// A fenced block of the page.
enum Block {
    /// `sh`: commands for the shell.
    Commands(String),
    /// `sh restart`: Envoy is started anew, which a test does in its own way.
    Restart,
    /// `text`: what the commands before it have printed, spaces apart; `...`
    /// stands for anything.
    Output(String),
    /// `console`: something that is only shown.
    Shown,
}

/// Types the commands of a page (a path from the root of the repository) into a shell
/// there, or those of one section of it, by its heading. What each block printed, after
/// it was compared with the `text` block that follows it, if there is one.
///
/// # Errors
/// A command fails, or prints something else than the page says; the page has no
/// such section, or a block of a kind that nobody knows.
pub fn run(stack: &mut Stack, page: &str, heading: Option<&str>) -> Result<Typed> {
    let page = read(page)?;
    let part = heading.map_or(Ok(page.as_str()), |heading| section(&page, heading))?;
    // Where commands have defaults of their own, the environment names the stack.
    let mut shell = Shell::open(&[
        ("TIDEGATE", stack.options().programs.admin.as_os_str().to_owned()),
        ("TIDEGATE_SERVER", format!("http://{}", stack.people()).into()),
    ])?;
    let (mut last, mut typed) = (String::new(), Typed::default());
    for block in blocks(&here(part, stack))? {
        match block {
            Block::Commands(commands) => {
                typed.printed.push(shell.run(&commands)?);
                last = commands;
            }
            Block::Restart => stack.restart_envoy()?,
            Block::Output(expected) => {
                let printed = typed.printed.last().map_or("", String::as_str);
                ensure!(
                    shows(printed, &expected),
                    "{last}\n\nprinted\n{printed}\nand the page says\n{expected}"
                );
                typed.compared += 1;
            }
            Block::Shown => {}
        }
    }
    Ok(typed)
}

/// Types the commands of one section of a page into a shell without a stack, each block as
/// `here` changes it. What each of them printed.
///
/// # Errors
/// As [`run`].
pub fn section_of(page: &str, heading: &str, here: impl Fn(&str) -> String) -> Result<Vec<String>> {
    let page = read(page)?;
    let mut shell = Shell::open(&[])?;
    let mut printed = Vec::new();
    for block in blocks(section(&page, heading)?)? {
        if let Block::Commands(commands) = block {
            printed.push(shell.run(&here(&commands))?);
        }
    }
    Ok(printed)
}

fn read(page: &str) -> Result<String> {
    std::fs::read_to_string(repository().join(page)).with_context(|| format!("cannot read {page}"))
}

/// What stands under `heading` (`## ...`), up to the next of its rank.
fn section<'p>(page: &'p str, heading: &str) -> Result<&'p str> {
    let begin = format!("\n{heading}\n");
    let (_, rest) = page.split_once(&begin).with_context(|| format!("the page has no `{heading}`"))?;
    Ok(rest.split_once("\n## ").map_or(rest, |(section, _)| section))
}

fn blocks(page: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, from)) = rest.split_once("\n```") {
        let (kind, body) = from.split_once('\n').context("a fence at the end of the page")?;
        let (body, after) = body.split_once("\n```").context("a block without an end")?;
        // The fence that closes is not one that opens.
        rest = after;
        blocks.push(match kind.trim() {
            "sh" => Block::Commands(body.to_owned()),
            "sh restart" => Block::Restart,
            "text" => Block::Output(body.to_owned()),
            "console" => Block::Shown,
            other => bail!("a block of kind `{other}`: sh, sh restart, text and console are known"),
        });
    }
    Ok(blocks)
}

/// The page with the addresses and files of `stack`.
fn here(page: &str, stack: &Stack) -> String {
    page.replace("127.0.0.1:10000", &stack.gate().to_string())
        .replace("127.0.0.1:10001", &stack.people().to_string())
        .replace("127.0.0.1:10080", &stack.demo().to_string())
        .replace("127.0.0.1:9070", &stack.admin_api().to_string())
        .replace("127.0.0.1:9901", &stack.envoy_admin().to_string())
        .replace("target/up/", &format!("{}/", stack.options().dir.display()))
}

/// Whether `printed` has every line of `expected`, in that order.
fn shows(printed: &str, expected: &str) -> bool {
    let printed = without_spaces(printed);
    let mut rest = printed.as_str();
    let pieces = expected.lines().flat_map(|line| line.split("...")).map(without_spaces);
    pieces.filter(|piece| !piece.is_empty()).all(|piece| match rest.split_once(&piece) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
}

/// A person's shell, in which one block follows the other.
struct Shell {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn open(environment: &[(&str, OsString)]) -> Result<Self> {
        let mut process = Command::new("bash")
            .current_dir(repository())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("bash cannot be started")?;
        let input = process.stdin.take().context("bash without stdin")?;
        let output = process.stdout.take().context("bash without stdout")?;
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    fn run(&mut self, commands: &str) -> Result<String> {
        // The last command's own input would otherwise be the next block.
        writeln!(self.input, "{{ {commands}\n}} 2>&1 </dev/null; echo \"\n{END}$?\"")?;
        self.input.flush()?;
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "the shell ended in: {commands}\n{printed}");
            if let Some(code) = line.strip_prefix(END) {
                ensure!(code.trim() == "0", "exit code {} of:\n{commands}\n{printed}", code.trim());
                return Ok(printed);
            }
            printed.push_str(&line);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_compared_line_by_line_in_order() {
        let printed = "a {\"x\": 1}\nb 200 OK\n";
        assert!(shows(printed, "a {\"x\":1}\nb ... OK"));
        assert!(!shows(printed, "b\na"));
        assert!(!shows(printed, "a\nc"));
    }

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let page =
            "# P\n\n## One\n\n```sh\na\n```\n\n### In one\n\n```text\nb\n```\n\n## Two\n\n```sh\nc\n```\n";
        assert_eq!(blocks(section(page, "## One").unwrap()).unwrap().len(), 2);
        assert_eq!(blocks(section(page, "## Two").unwrap()).unwrap().len(), 1);
        assert!(section(page, "## Three").is_err());
        assert!(blocks("\n```python\nx\n```\n").is_err());
    }
}
