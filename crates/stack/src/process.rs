//! Child processes: each in a session of its own with its output in a file,
//! ended when dropped, and recognised later by pid and start time.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A process of this machine, named so that a reused pid is not taken for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// What it is: `envoy`, `admin`, `demo`.
    pub name: String,
    /// Process id, which is also its session and process group.
    pub pid: i32,
    /// Its start, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl Identity {
    fn of(name: &str, pid: i32) -> Result<Self> {
        let Stat { started, .. } = stat(pid).with_context(|| format!("{name} (pid {pid}) ended at once"))?;
        Ok(Self { name: name.to_owned(), pid, started })
    }

    /// Whether this very process is still running (a zombie is not).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // While a process ends, its first thread may be a zombie before the others
        // are gone; until then it holds its ports.
        let runs = |stat: &Stat| stat.state != b'Z' || stat.threads > 1;
        stat(self.pid).is_some_and(|stat| stat.started == self.started && runs(&stat))
    }

    /// Asks it to end, and kills it with its group after five seconds. Nothing
    /// happens if the pid belongs to another process by now.
    ///
    /// # Errors
    /// It is still there two seconds after SIGKILL.
    pub fn end(&self) -> Result<()> {
        self.signal(Signal::TERM);
        if !self.gone_within(GRACE) {
            self.signal(Signal::KILL);
            if !self.gone_within(Duration::from_secs(2)) {
                bail!("{} (pid {}) does not end", self.name, self.pid);
            }
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended since: that is what was wanted.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    fn gone_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

/// Of `/proc/PID/stat`.
struct Stat {
    state: u8,
    threads: u64,
    started: u64,
}

/// `None`: there is no such process.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold anything, parentheses included.
    let after_name = text.rsplit_once(')')?.1;
    // From field 3 on.
    let mut fields = after_name.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let threads = fields.nth(16)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    Some(Stat { state, threads, started })
}

/// How long this process has been there. `cargo run` becomes the program that it has built,
/// so that the build is part of it. `None`: the kernel does not say.
#[must_use]
pub fn age() -> Option<Duration> {
    /// Clock ticks per second, of every architecture that Linux shows `/proc` for.
    const TICKS: f64 = 100.0;
    let started = stat(i32::try_from(std::process::id()).ok()?)?.started;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "ticks since boot")]
    let started = started as f64 / TICKS;
    Duration::try_from_secs_f64(uptime - started).ok()
}

/// A child that is ended and reaped when dropped, unless [`Process::detach`]ed.
#[derive(Debug)]
pub struct Process {
    child: Option<Child>,
    identity: Identity,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a session of its own, both outputs appended to `log`.
    ///
    /// # Errors
    /// The program cannot be started, or the log file not be opened.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}: {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id()).context("a pid beyond i32")?;
        match Identity::of(name, pid) {
            Ok(identity) => Ok(Self { child: Some(child), identity, log: log.to_owned() }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Fails, with the end of its log, if it has ended.
    ///
    /// # Errors
    /// It has ended.
    pub fn check_running(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            bail!(
                "{} ended ({status}); the end of {}:\n{}",
                self.identity.name,
                self.log.display(),
                self.tail(15)
            );
        }
        Ok(())
    }

    /// The last `lines` lines of its log.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.identity.signal(Signal::KILL);
        self.reap();
    }

    /// SIGTERM, then SIGKILL after five seconds; waits until it is gone.
    pub fn terminate(mut self) {
        self.end();
    }

    /// Lets it run on without us.
    #[must_use]
    pub fn detach(mut self) -> Identity {
        self.child = None;
        self.identity.clone()
    }

    fn end(&mut self) {
        if self.child.is_none() {
            return;
        }
        self.identity.signal(Signal::TERM);
        if !self.identity.gone_within(GRACE) {
            self.identity.signal(Signal::KILL);
        }
        self.reap();
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::start("sleeper", command, &dir.join("sleeper.log")).unwrap()
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn dropping_ends_the_process() {
        let dir = scratch("drop");
        let process = sleeper(&dir);
        let identity = process.identity().clone();
        assert!(identity.is_alive());
        drop(process);
        assert!(!identity.is_alive());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_reused_pid_is_not_ours() {
        let dir = scratch("reuse");
        let process = sleeper(&dir);
        let other = Identity { started: process.identity().started + 1, ..process.identity().clone() };
        assert!(!other.is_alive());
        other.end().unwrap();
        assert!(process.identity().is_alive(), "another start time is another process: not ended");
        process.kill();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_process_lives_until_its_last_thread_ends() {
        let dir = scratch("threads");
        let mut command = Command::new("python3");
        // Number 60 is `exit`, which ends the calling thread only.
        command.args([
            "-c",
            "import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall(60, 0)",
        ]);
        let process = Process::start("threads", command, &dir.join("threads.log")).unwrap();
        let identity = process.identity().clone();
        crate::wait::until("its first thread ends", Duration::from_secs(10), || {
            Ok(stat(identity.pid).filter(|stat| stat.state == b'Z'))
        })
        .unwrap();
        assert!(identity.is_alive());
        identity.end().unwrap();
        assert!(!identity.is_alive());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_ended_is_reported_with_its_log() {
        let dir = scratch("ended");
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; sleep 0.2; exit 3"]);
        let mut process = Process::start("sh", command, &dir.join("sh.log")).unwrap();
        let said = crate::wait::until("it ends", Duration::from_secs(10), || {
            Ok(process.check_running().err().map(|error| error.to_string()))
        })
        .unwrap();
        assert!(said.contains("exit status: 3") && said.contains("the reason"), "{said}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
