//! A source that is the real CrowdSec: Debian's package, which `cargo xtask test` unpacks, or what `$CROWDSEC`
//! names. Skipped, with a message, where there is none.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::test_service::{TestService, binary, client, has, until};

const SOURCE: &str = "/api/admin/sources/crowdsec";

/// A running CrowdSec without its central API, ended when dropped.
struct CrowdSec {
    programs: PathBuf,
    dir: PathBuf,
    url: String,
    child: Option<Child>,
}

/// Where `crowdsec` and `cscli` are: the directory of `$CROWDSEC`, or where `xtask` puts them.
fn programs() -> Option<PathBuf> {
    let given = std::env::var_os("CROWDSEC").map(PathBuf::from);
    let given = given.and_then(|program| program.parent().map(Path::to_owned));
    let target = PathBuf::from(binary());
    let installed = target.ancestors().nth(2).map(|target| target.join("tools/crowdsec"));
    let found = given.or(installed)?;
    ["crowdsec", "cscli"].iter().all(|name| found.join(name).is_file()).then_some(found)
}

impl CrowdSec {
    /// Prepares it in `dir`, with credentials for `cscli`.
    fn new(programs: PathBuf, dir: &Path) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = dir.to_owned();
        std::fs::create_dir_all(dir.join("hub")).unwrap();
        let at = dir.display();
        let config = format!(
            "common: {{daemonize: false, log_media: stdout, log_level: error, working_dir: {at}}}
config_paths:
  {{config_dir: {at}, data_dir: {at}, simulation_path: {at}/simulation.yaml, hub_dir: {at}/hub, index_path: {at}/hub/.index.json}}
db_config: {{log_level: error, type: sqlite, db_path: {at}/crowdsec.db, flush: {{max_items: 5000, max_age: 7d}}}}
api:
  client: {{credentials_path: {at}/lapi.yaml}}
  server: {{log_level: error, listen_uri: {address}, profiles_path: {at}/profiles.yaml}}
cscli: {{output: human}}
crowdsec_service: {{enable: false}}
prometheus: {{enabled: false}}
"
        );
        let profiles =
            "name: ban\nfilters: [\"Alert.Remediation == true\"]\ndecisions: [{type: ban, duration: 4h}]\n";
        for (name, text) in [
            ("config.yaml", config.as_str()),
            ("simulation.yaml", "simulation: false\n"),
            ("profiles.yaml", profiles),
            ("lapi.yaml", ""),
            ("hub/.index.json", "{}"),
        ] {
            std::fs::write(dir.join(name), text).unwrap();
        }
        let crowdsec = Self { programs, dir, url: format!("http://{address}"), child: None };
        let file = crowdsec.dir.join("lapi.yaml").display().to_string();
        let url = crowdsec.url.clone();
        crowdsec.cscli(&[
            "machines",
            "add",
            "test",
            "--password",
            "test",
            "-f",
            &file,
            "-u",
            &url,
            "--force",
        ]);
        crowdsec
    }

    /// Runs `cscli`; what it prints on standard output.
    fn cscli(&self, args: &[&str]) -> String {
        let mut command = Command::new(self.programs.join("cscli"));
        let output = command.arg("-c").arg(self.dir.join("config.yaml")).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{args:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    async fn start(&mut self) {
        let mut command = Command::new(self.programs.join("crowdsec"));
        command.arg("-c").arg(self.dir.join("config.yaml")).arg("-no-cs");
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        until("CrowdSec answers", async || client().get(&self.url).send().await.ok()).await;
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for CrowdSec {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn refresh(service: &TestService) -> Value {
    service.post(&format!("{SOURCE}/refresh"), "").await.ok()
}

async fn banned(service: &TestService, ip: &str) -> bool {
    service.get(&format!("/api/admin/ip-monitor/{ip}")).await.ok()["status"] == "banned"
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_of_the_real_crowdsec_are_bans_until_they_are_deleted() {
    let Some(programs) = programs() else {
        println!("skipped: there is no CrowdSec; `cargo xtask test` unpacks Debian's, or CROWDSEC names it");
        return;
    };
    let (files, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut crowdsec = CrowdSec::new(programs, dir.path());
    let key = files.path().join("crowdsec.key");
    std::fs::write(&key, crowdsec.cscli(&["bouncers", "add", "tidegate", "-o", "raw"])).unwrap();
    crowdsec.start().await;
    let add = |args: &[&str]| crowdsec.cscli(&[&["decisions", "add"], args].concat());
    add(&["--ip", "11.0.0.1", "--duration", "4h"]);
    let service = TestService::start_with_files(files.path()).await;
    let document = json!({"type": "crowdsec", "url": crowdsec.url, "allow_private": true, "interval": "30d",
        "credentials": {"file": "crowdsec.key"}});
    service.put_json(SOURCE, &document).await.ok();
    until("the first decisions are there", async || banned(&service, "11.0.0.1").await.then_some(())).await;
    let seen = service.get("/api/admin/ip-monitor/11.0.0.1").await.ok();
    assert!(seen["source"] == "crowdsec" && seen["until"].is_string(), "{seen}");

    // What was added since, and nothing else of it.
    add(&["--range", "11.1.0.0/16", "--duration", "1h"]);
    add(&["--ip", "11.0.0.2", "--type", "captcha"]);
    add(&["--scope", "country", "--value", "FR"]);
    add(&["--ip", "10.0.0.1"]);
    let done = until("the range is there", async || {
        let done = refresh(&service).await;
        banned(&service, "11.1.2.3").await.then_some(done)
    })
    .await;
    has(
        &done,
        json!({"entries": 2, "counts": {"skipped": {"not_a_ban": 1}, "refused": {"protected_network": 1}}}),
    );
    assert!(!banned(&service, "11.0.0.2").await && banned(&service, "11.0.0.1").await);
    // The ends stay as they are: nothing is written that gateways would follow.
    let before = service.tables().await;
    has(&refresh(&service).await, json!({"outcome": "unchanged"}));
    assert_eq!(service.tables().await, before);

    crowdsec.cscli(&["decisions", "delete", "--ip", "11.0.0.1"]);
    until("the deleted one has ended", async || {
        refresh(&service).await;
        (!banned(&service, "11.0.0.1").await).then_some(())
    })
    .await;
    assert!(banned(&service, "11.1.2.3").await);

    // What is simulated is in shadow, once all is read.
    let simulate = |ip: &str| {
        let decisions = rusqlite::Connection::open(dir.path().join("crowdsec.db")).unwrap();
        decisions.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        decisions.execute("UPDATE decisions SET simulated = 1 WHERE value = ?1", [ip]).unwrap()
    };
    add(&["--ip", "11.0.0.3", "--duration", "4h"]);
    assert_eq!(simulate("11.0.0.3"), 1);
    let done = service.post(&format!("{SOURCE}/refresh?force=true"), "").await.ok();
    has(&done, json!({"entries": 1, "counts": {"simulated": 1}}));
    let seen = service.get("/api/admin/ip-monitor/11.0.0.3").await.ok();
    has(&seen, json!({"status": "watched", "source": "crowdsec"}));
    has(&refresh(&service).await, json!({"outcome": "unchanged", "counts": {"simulated": 1}}));

    // A key that CrowdSec does not know, and CrowdSec away: the bans stay, and why it fails is said.
    let known = std::fs::read(&key).unwrap();
    std::fs::write(&key, "wrong").unwrap();
    let refused = service.post(&format!("{SOURCE}/refresh"), "").await.problem(502, "source_failed");
    assert!(refused["detail"].as_str().unwrap().contains("cscli bouncers"), "{refused}");
    std::fs::write(&key, known).unwrap();
    crowdsec.stop();
    let away = service.post(&format!("{SOURCE}/refresh"), "").await.problem(502, "source_failed");
    assert!(away["detail"].as_str().unwrap().contains("cannot be connected"), "{away}");
    assert!(banned(&service, "11.1.2.3").await);
    let shown = service.get(SOURCE).await.ok();
    has(&shown["status"], json!({"state": "failing", "failures": 2, "entries": 1}));
    crowdsec.start().await;
    has(&refresh(&service).await, json!({"entries": 1}));

    // It may have no decision at all.
    crowdsec.cscli(&["decisions", "delete", "--all"]);
    until("all have ended", async || {
        let done = refresh(&service).await;
        (done["entries"] == 0).then_some(())
    })
    .await;
}
