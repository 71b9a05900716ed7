//! The file of a watch: a line of JSON that says what is watched, and one for each look. A watch with the same file goes
//! on where the one before was ended.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::look::Look;
use super::schedule::Schedule;
use super::{Targets, moment};
use crate::time;

/// The form of the file.
const FORMAT: &str = "tidegate-watch/1";
/// A file beyond this is none: that of 100,000 looks has some 100 MB.
const MAX_BYTES: u64 = 512 << 20;

/// What is watched, and when: the file's first line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchPlan {
    format: String,
    /// When the first look was due.
    began: String,
    every_ms: i64,
    for_ms: i64,
    /// The service that is asked.
    pub server: String,
    /// The URL of the probe.
    pub probe: Option<String>,
    /// The targets of figures.
    pub targets: Targets,
}

impl WatchPlan {
    /// A watch that begins now; `every` and `for`, milliseconds.
    pub fn new(
        (every_ms, for_ms): (i64, i64),
        server: String,
        probe: Option<String>,
        targets: Targets,
    ) -> Self {
        let began = time::rfc3339(time::to_the_millisecond(time::now()));
        Self { format: FORMAT.to_owned(), began, every_ms, for_ms, server, probe, targets }
    }

    /// When its looks are due.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(moment(&self.began), self.every_ms, self.for_ms)
    }

    /// Whether it can be gone on with as `wanted`, which begins at another time.
    fn ensure_same(&self, wanted: &Self) -> anyhow::Result<()> {
        let span = |ms: i64| format!("{ms} ms");
        let targets = |plan: &Self| serde_json::to_string(&plan.targets).unwrap_or_default();
        let probe = |plan: &Self| plan.probe.clone().unwrap_or_else(|| "none".to_owned());
        let fields = [
            ("--every", span(self.every_ms), span(wanted.every_ms)),
            ("--for", span(self.for_ms), span(wanted.for_ms)),
            ("--server", self.server.clone(), wanted.server.clone()),
            ("--probe", probe(self), probe(wanted)),
            ("the targets", targets(self), targets(wanted)),
        ];
        for (name, of_file, of_command) in fields {
            ensure!(
                of_file == of_command,
                "it is of another watch: {name} was {of_file}, and is {of_command} now. Go on with the same, or name another \
                 file"
            );
        }
        Ok(())
    }
}

/// The file, which nobody else writes meanwhile, and what is in it.
pub struct Journal {
    file: File,
    plan: WatchPlan,
    looks: Vec<Look>,
}

impl Journal {
    /// Opens a file, or begins it with `plan`.
    ///
    /// # Errors
    /// When it cannot be read or written, is of another form or watch, or another process has it. It is left as it is
    /// then.
    pub fn open(path: &Path, plan: WatchPlan) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.with_context(cannot)?;
        file.try_lock().map_err(|_| anyhow!("{} is in use by another watch", path.display()))?;
        ensure!(file.metadata().with_context(cannot)?.len() <= MAX_BYTES, "{} is too long", path.display());
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
        // Of a line that was being written when the process ended nothing counts.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut lines = text[..whole].lines();
        ensure!(whole > 0 || is_beginning(&text), "{} is no file of a watch", path.display());
        if let Some(first) = lines.next() {
            let (begun, looks) =
                read(first, lines).with_context(|| format!("{} is no file of a watch", path.display()))?;
            if !looks.is_empty() {
                begun.ensure_same(&plan).with_context(|| path.display().to_string())?;
                file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).with_context(cannot)?;
                return Ok(Self { file, plan: begun, looks });
            }
        }
        // A watch of which there is no look yet begins anew.
        let mut journal = Self { file, plan, looks: Vec::new() };
        let line = serde_json::to_string(&journal.plan)?;
        journal.write(0, &line).with_context(cannot)?;
        Ok(journal)
    }

    /// What is watched.
    pub fn plan(&self) -> &WatchPlan {
        &self.plan
    }

    /// The looks so far.
    pub fn looks(&self) -> &[Look] {
        &self.looks
    }

    /// Adds a look.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, look: Look) -> anyhow::Result<()> {
        let (end, line) = (self.file.stream_position()?, serde_json::to_string(&look)?);
        self.write(end, &line).context("cannot write the look")?;
        self.looks.push(look);
        Ok(())
    }

    /// Writes a line behind the first `end` bytes, of which those that are there are whole lines.
    fn write(&mut self, end: u64, line: &str) -> std::io::Result<()> {
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end))?;
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_data()
    }
}

/// Whether a text without a line end is the beginning of the first line, as of a process that ended while it wrote it.
fn is_beginning(text: &str) -> bool {
    let begin = format!("{{\"format\":\"{FORMAT}\"");
    begin.starts_with(text) || text.starts_with(&begin)
}

/// The plan and the looks. What is wrong is named with its line and field.
fn read<'l>(first: &str, lines: impl Iterator<Item = &'l str>) -> anyhow::Result<(WatchPlan, Vec<Look>)> {
    let value: Value = serde_json::from_str(first).context("line 1 is no JSON")?;
    match value.get("format") {
        Some(found) if found == FORMAT => {}
        Some(found) => bail!("`format` is {found}, and should be \"{FORMAT}\""),
        None => bail!("`format` is missing, and should be \"{FORMAT}\""),
    }
    let plan: WatchPlan = field(1, first)?;
    ensure!(plan.every_ms > 0 && plan.for_ms >= 0, "line 1: `every_ms` and `for_ms` are above 0");
    ensure!(plan.began.parse::<Timestamp>().is_ok(), "line 1: `began` is no time");
    let mut looks: Vec<Look> = Vec::new();
    for (number, line) in (2..).zip(lines) {
        let look: Look = field(number, line)?;
        ensure!(look.at.parse::<Timestamp>().is_ok(), "line {number}: `at` is no time");
        ensure!(
            looks.last().is_none_or(|before| before.number < look.number),
            "line {number}: `number` does not ascend"
        );
        looks.push(look);
    }
    Ok((plan, looks))
}

fn field<T: DeserializeOwned>(number: usize, line: &str) -> anyhow::Result<T> {
    let mut reader = serde_json::Deserializer::from_str(line);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| match error.path().to_string().as_str() {
        "." => anyhow!("line {number}: {}", error.inner()),
        path => anyhow!("line {number}: `{path}`: {}", error.inner()),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::verdict::tests::{guide, look};
    use super::*;

    fn plan() -> WatchPlan {
        WatchPlan::new((3_600_000, 86_400_000), "http://127.0.0.1:1".to_owned(), None, guide())
    }

    fn refused(path: &Path, plan: WatchPlan) -> String {
        Journal::open(path, plan).err().map(|error| format!("{error:#}")).expect("it must be refused")
    }

    /// A file with two looks.
    fn filled(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("watch.jsonl");
        let mut journal = Journal::open(&path, plan()).unwrap();
        journal.add(look(0, 1.0)).unwrap();
        journal.add(look(3, 2.0)).unwrap();
        path
    }

    #[test]
    fn a_watch_goes_on_where_it_was_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(&dir);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        // The process ended in the middle of a line.
        std::fs::write(&path, format!("{text}{{\"number\":4,\"at")).unwrap();
        let mut journal = Journal::open(&path, plan()).unwrap();
        assert_eq!(journal.looks(), [look(0, 1.0), look(3, 2.0)]);
        assert!(refused(&path, plan()).contains("in use by another watch"));
        journal.add(look(5, 3.0)).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path, plan()).unwrap().looks()[2], look(5, 3.0));
        let first = text.lines().next().unwrap();
        std::fs::write(&path, &first[..first.len() / 2]).unwrap();
        assert!(
            Journal::open(&path, plan()).unwrap().looks().is_empty(),
            "nor was a whole first line written"
        );
    }

    #[test]
    fn another_watch_or_form_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(&dir);
        let text = std::fs::read_to_string(&path).unwrap();
        let other = |change: &dyn Fn(&mut WatchPlan)| {
            let mut plan = plan();
            change(&mut plan);
            refused(&path, plan)
        };
        let every = other(&|plan| plan.every_ms = 1_000);
        assert!(every.contains("--every was 3600000 ms, and is 1000 ms now"), "{every}");
        assert!(other(&|plan| plan.probe = Some("http://127.0.0.1/".to_owned())).contains("--probe"));
        assert!(other(&|plan| plan.targets.requests.p95 = 1.0).contains("the targets"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        for (wrong, named) in [
            ("{}\n".to_owned(), "`format` is missing"),
            ("a list\n".to_owned(), "line 1 is no JSON"),
            ("a list".to_owned(), "no file of a watch"),
            (text.replace("tidegate-watch/1", "tidegate-watch/2"), "`format` is \"tidegate-watch/2\""),
            (text.replace("\"every_ms\":3600000", "\"every_ms\":0"), "`every_ms`"),
            (text.replace("\"p95_ms\":2.0", "\"p95_ms\":\"2\""), "line 3: `traffic.p95_ms`"),
            (text.replace("\"number\":3", "\"number\":0"), "line 3: `number`"),
        ] {
            std::fs::write(&path, &wrong).unwrap();
            let error = refused(&path, plan());
            assert!(error.contains(named), "{error}, not {named}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), wrong);
        }
    }
}
