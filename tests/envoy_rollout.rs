//! `docs/ROLLOUT.md`, run as it stands: every command that it tells a person to
//! type, in its order, and what it says that they will see.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use tidegate_stack::{FlagsAtStart, Options, Stack};

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
            other => anyhow::bail!("a block of kind `{other}`: sh, sh restart and text are run"),
        });
    }
    Ok(blocks)
}

/// A person's shell, in which one block follows the other.
struct Shell {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn open(directory: &Path) -> Result<Self> {
        let mut process = Command::new("bash")
            .current_dir(directory)
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

fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
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

/// The page's addresses and files are those of `cargo xtask up`; here they are
/// the test's own.
fn here(page: &str, stack: &Stack) -> String {
    page.replace("127.0.0.1:10000", &stack.gate().to_string())
        .replace("127.0.0.1:10001", &stack.people().to_string())
        .replace("127.0.0.1:9070", &stack.admin_api().to_string())
        .replace("127.0.0.1:9901", &stack.envoy_admin().to_string())
        .replace("target/up/tidegate.db", &stack.db().display().to_string())
        .replace("$(cat target/up/token)", stack.token())
}

#[test]
fn the_page_is_true() {
    let mut options = Options::for_test("rollout").unwrap();
    options.flags = FlagsAtStart::Off;
    let mut stack = Stack::start(options).unwrap();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ROLLOUT.md")).unwrap();
    let page = here(&page, &stack);
    let mut shell = Shell::open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (mut last, mut printed, mut compared) = (String::new(), String::new(), 0);
    for block in blocks(&page).unwrap() {
        match block {
            Block::Commands(commands) => {
                printed = shell.run(&commands).unwrap();
                last = commands;
            }
            Block::Restart => stack.restart_envoy().unwrap(),
            Block::Output(expected) => {
                assert!(
                    shows(&printed, &expected),
                    "{last}\n\nprinted\n{printed}\nand the page says\n{expected}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared >= 20, "only {compared} outputs were compared");
}
