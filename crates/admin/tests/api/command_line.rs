//! The program on a command line, beside a running service.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::test_service::{TestService, binary};

/// The output and exit status of the program.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The output of a success.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// The error output of a failure: 2 is that of `routes`, 1 that of all other commands.
    #[track_caller]
    pub fn failed(self) -> String {
        assert!(matches!(self.code, Some(1 | 2)), "{self:?}");
        self.err
    }
}

/// Files, and the program as on a command line, with the token in a file.
pub struct Desk<'r> {
    pub service: &'r TestService,
    pub dir: tempfile::TempDir,
}

impl<'r> Desk<'r> {
    pub fn new(service: &'r TestService) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), format!("{}\n", service.admin)).unwrap();
        Self { service, dir }
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `tidegate <noun>`, in the directory of the files.
    pub fn command(&self, noun: &str, args: &[&str]) -> Command {
        let mut command = program(self.dir.path());
        command.arg(noun).args(args);
        command.args(["--server", &self.service.people(""), "--token-file", "token"]);
        command
    }

    /// Runs `tidegate`, and sees that it does not print the token.
    pub async fn tidegate(&self, noun: &str, args: &[&str]) -> Said {
        self.fed(noun, args, "").await
    }

    pub async fn fed(&self, noun: &str, args: &[&str], input: &str) -> Said {
        let said = run(self.command(noun, args), input).await;
        for text in [&said.out, &said.err] {
            assert!(!text.contains(&self.service.admin), "the token was printed: {text}");
        }
        said
    }

    pub async fn routes(&self, args: &[&str]) -> Said {
        self.routes_fed(args, "").await
    }

    pub async fn routes_fed(&self, args: &[&str], input: &str) -> Said {
        self.fed("routes", args, input).await
    }
}

pub fn program(dir: &Path) -> Command {
    let mut command = Command::new(binary());
    let vars = ["SERVER", "TOKEN", "TOKEN_FILE", "CA_FILE", "CONTEXT"];
    for name in vars {
        command.env_remove(format!("TIDEGATE_{name}"));
    }
    // No contexts of whoever runs the tests.
    command.env("TIDEGATE_CONFIG", dir.join("no-contexts.toml"));
    command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub async fn run(mut command: Command, input: &str) -> Said {
    let mut process = command.spawn().unwrap();
    // A program that does not read its input may have ended before.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let output = process.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
