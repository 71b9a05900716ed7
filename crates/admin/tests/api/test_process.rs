//! The program itself, as a process of its own.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::json;

use crate::test_service::{Answered, binary, client, until};

/// The binary itself, on ports that were free a moment ago.
pub struct Process {
    pub child: Child,
    /// URL of the people's listener.
    pub people: String,
    /// URL of the gateways' listener.
    pub gateways: String,
    /// A token for the people's listener.
    pub token: String,
}

/// The program with these arguments, on the database in `dir`.
pub fn tidegate(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).arg("--db").arg(dir.join("tidegate.db")).stdin(Stdio::null());
    command
}

pub fn printed(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

pub fn token(dir: &Path, scope: &str) -> String {
    let args = ["token", "create", "--name", "test", "--scope", scope];
    let made = tidegate(dir, &args).output().unwrap();
    assert!(made.status.success(), "{}", printed(&made));
    printed(&made).trim().to_owned()
}

impl Process {
    pub async fn start(dir: &Path) -> Self {
        Self::start_with(dir, &["--log", "warn"], Stdio::inherit()).await
    }

    /// Starts it with these arguments besides its addresses, and its log there.
    pub async fn start_with(dir: &Path, args: &[&str], log: Stdio) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (people, gateways) = (free(), free());
        let [people, gateways] = [people, gateways].map(|it| it.local_addr().unwrap().to_string());
        let kept = dir.join("operators-token");
        let token = std::fs::read_to_string(&kept).unwrap_or_else(|_| {
            let token = token(dir, "admin");
            std::fs::write(&kept, &token).unwrap();
            token
        });
        let addresses = ["serve", "--listen", &people, "--gateway-listen", &gateways];
        let child = tidegate(dir, &addresses).args(args).stderr(log).spawn().unwrap();
        let process =
            Self { child, people: format!("http://{people}"), gateways: format!("http://{gateways}"), token };
        let health = || client().get(format!("{}/api/health", process.people)).send();
        until("the service answers", async || health().await.ok()).await;
        process
    }

    /// Bans `ip`.
    pub async fn try_ban(&self, ip: &str) -> Answered {
        let request = client().post(format!("{}/api/admin/ip/ban", self.people)).bearer_auth(&self.token);
        Answered::to(request.body(json!({"ip": ip}).to_string())).await
    }

    pub async fn ban(&self, ip: &str) {
        self.try_ban(ip).await.ok();
    }

    /// The body of a GET on the people's listener.
    pub async fn get(&self, path: &str) -> Answered {
        Answered::to(client().get(format!("{}{path}", self.people)).bearer_auth(&self.token)).await
    }

    pub async fn status(&self, ip: &str) -> serde_json::Value {
        self.get(&format!("/api/admin/ip-monitor/{ip}")).await.ok()["status"].clone()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub async fn end(&mut self) -> ExitStatus {
        until("the process ends", async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
