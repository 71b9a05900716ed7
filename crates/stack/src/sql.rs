//! A person with a database shell: SQL from a process of its own, while the
//! service runs.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail};

/// What ends an answer.
const END: &str = "--end--";

/// How the shells begin a complaint.
const ERRORS: [&str; 3] = ["Error:", "Parse error", "Runtime error"];

/// The shell where there is no `sqlite3`: statements from lines, autocommit.
const PYTHON: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
for line in sys.stdin:
    try:
        for row in db.execute(line):
            print('|'.join('' if v is None else str(v) for v in row))
    except sqlite3.Error as e:
        print('Error:', e)
    sys.stdout.flush()
";

/// A running `sqlite3` (or Python's, where there is none) on a database.
#[derive(Debug)]
pub struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<PipeReader>,
}

impl Shell {
    /// Opens a shell on `database`, with a busy timeout of five seconds.
    ///
    /// # Errors
    /// There is neither `sqlite3` nor `python3`.
    pub fn open(database: &Path) -> Result<Self> {
        spawn("sqlite3", &["-batch", "-cmd", ".timeout 5000"], database)
            .or_else(|_| spawn("python3", &["-c", PYTHON], database))
            .context("neither sqlite3 nor python3 can be started: install one")
    }

    /// Runs one statement, committed when this returns; rows as `a|b|c`.
    ///
    /// # Errors
    /// The shell says so, in its words.
    pub fn run(&mut self, statement: &str) -> Result<Vec<String>> {
        let statement = statement.replace('\n', " ");
        let statement = statement.trim().trim_end_matches(';');
        writeln!(self.input, "{statement};\nSELECT '{END}';")?;
        self.input.flush()?;
        let mut rows = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                bail!("the database shell ended after: {statement}");
            }
            let line = line.trim_end_matches('\n');
            if line == END {
                break;
            }
            rows.push(line.to_owned());
        }
        let says_error = |row: &&String| ERRORS.iter().any(|start| row.starts_with(start));
        if let Some(error) = rows.iter().find(says_error) {
            bail!("{error} (after: {statement})");
        }
        Ok(rows)
    }

    /// A statement that answers one number.
    ///
    /// # Errors
    /// As [`Shell::run`], or it answers something else.
    pub fn number(&mut self, statement: &str) -> Result<u64> {
        let rows = self.run(statement)?;
        match &rows[..] {
            [one] => one.parse().with_context(|| format!("not a number: {one}")),
            _ => bail!("{} rows from: {statement}", rows.len()),
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &str, arguments: &[&str], database: &Path) -> Result<Shell> {
    // One pipe for rows and complaints, so that they come in order.
    let (output, both) = std::io::pipe()?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(both.try_clone()?)
        .stderr(both)
        .spawn()?;
    let input = child.stdin.take().context("a shell without input")?;
    Ok(Shell { child, input, output: BufReader::new(output) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_committed_and_answered() {
        let path = std::env::temp_dir().join(format!("tidegate-shell-{}.db", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut writer = Shell::open(&path).unwrap();
        let mut reader = Shell::open(&path).unwrap();
        writer.run("CREATE TABLE t (a, b)").unwrap();
        writer.run("INSERT INTO t VALUES ('x', 1), ('y', NULL)").unwrap();
        assert_eq!(reader.run("SELECT * FROM t ORDER BY a;").unwrap(), ["x|1", "y|"]);
        assert_eq!(reader.number("SELECT count(*) FROM t").unwrap(), 2);
        assert!(writer.run("INSERT INTO nowhere VALUES (1)").is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
