//! `deploy/fail2ban` with Fail2Ban itself: `$FAIL2BAN` is where Debian's package was unpacked, else `cargo xtask test`
//! has put it into `target/tools`. Where there is none the test says so and is skipped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::test_service::{TestService, binary, has, until};

const ROOT: &str = "../..";

/// A running Fail2Ban, ended when dropped.
struct Fail2Ban(Child);

impl Drop for Fail2Ban {
    fn drop(&mut self) {
        // SIGTERM: it takes its bans back.
        let _ = rustix::process::Pid::from_raw(self.0.id() as i32)
            .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        let _ = self.0.wait();
    }
}

/// Where the package is unpacked, if it is.
fn unpacked() -> Option<PathBuf> {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join(ROOT);
    let given = std::env::var_os("FAIL2BAN").filter(|path| !path.is_empty()).map(PathBuf::from);
    let found = given.unwrap_or_else(|| root.join("target/tools/fail2ban"));
    found.join("usr/bin/fail2ban-server").is_file().then_some(found)
}

/// The configuration: one jail over `log`.
fn configure(dir: &Path, package: &Path, log: &Path, options: &str) {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join(ROOT);
    for folder in ["action.d", "filter.d"] {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
    }
    let action = root.join("deploy/fail2ban/action.d/tidegate.conf");
    std::fs::copy(action, dir.join("action.d/tidegate.conf")).unwrap();
    let own = std::fs::read_to_string(package.join("etc/fail2ban/fail2ban.conf")).unwrap();
    std::fs::write(dir.join("fail2ban.conf"), own).unwrap();
    let local = "[Definition]\ndbfile = None\nlogtarget = STDOUT\n";
    std::fs::write(dir.join("fail2ban.local"), local).unwrap();
    std::fs::write(dir.join("filter.d/app.conf"), "[Definition]\nfailregex = login failed from <HOST>$\n")
        .unwrap();
    let jail = format!(
        "[app]\nenabled = true\nbackend = polling\nlogpath = {}\nfilter = app\nmaxretry = 3\nfindtime = 10m\nbantime = 1h\n\
         action = tidegate[tidegate=\"{}\", options=\"{options}\"]\n",
        log.display(),
        Path::new(&binary()).display()
    );
    std::fs::write(dir.join("jail.conf"), jail).unwrap();
}

/// `program` of the package, with its socket and its files in `dir`.
fn command(package: &Path, dir: &Path, program: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg("-W").arg("ignore").arg(package.join("usr/bin").join(program));
    command.env("PYTHONPATH", package.join("usr/lib/python3/dist-packages")).stdin(Stdio::null());
    command.arg("-c").arg(dir).arg("-s").arg(dir.join("socket")).arg("-p").arg(dir.join("pid"));
    command
}

fn start(package: &Path, dir: &Path) -> Fail2Ban {
    let mut server = command(package, dir, "fail2ban-server");
    server.args(["-f", "start"]);
    let log = std::fs::File::create(dir.join("fail2ban.log")).unwrap();
    Fail2Ban(server.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn fail2ban_bans_at_the_gateways_and_takes_it_back() {
    let Some(package) = unpacked() else {
        eprintln!("no Fail2Ban here, so its action is not tried: set FAIL2BAN, or run `cargo xtask test`");
        return;
    };
    let service = TestService::start().await;
    let (dir, status) = (tempfile::tempdir().unwrap(), "/api/admin/ip-monitor/203.0.113.9");
    let (log, token) = (dir.path().join("app.log"), dir.path().join("token"));
    std::fs::write(&log, "").unwrap();
    std::fs::write(&token, &service.admin).unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let options = format!("--server {} --token-file {}", service.people(""), token.display());
    configure(dir.path(), &package, &log, &options);
    let server = start(&package, dir.path());
    let said = || std::fs::read_to_string(dir.path().join("fail2ban.log")).unwrap();
    until("the jail has started", async || said().contains("Jail 'app' started").then_some(())).await;
    let now = jiff::Timestamp::now();
    std::fs::write(&log, format!("{now:.0} login failed from 203.0.113.9\n").repeat(3)).unwrap();
    let seen = until(&format!("the ban, {}", said()), async || {
        let seen = service.get(status).await.ok();
        (seen["status"] == "banned").then_some(seen)
    })
    .await;
    has(&seen, json!({"entry": "203.0.113.9", "reason": "fail2ban app: 3 failures"}));
    let end: jiff::Timestamp = seen["until"].as_str().unwrap().parse().unwrap();
    assert!((3_600..=3_670).contains(&(end.as_second() - now.as_second())), "{seen}");
    let mut unban = command(&package, dir.path(), "fail2ban-client");
    let unbanned = unban.args(["set", "app", "unbanip", "203.0.113.9"]).output().unwrap();
    assert!(unbanned.status.success(), "{}", String::from_utf8_lossy(&unbanned.stderr));
    let gone = async || (service.get(status).await.ok()["status"] == "none").then_some(());
    until("it is taken back", gone).await;
    // With an end that never comes, and taken back when Fail2Ban ends.
    let mut ban = command(&package, dir.path(), "fail2ban-client");
    assert!(ban.args(["set", "app", "bantime", "-1"]).output().unwrap().status.success());
    let mut ban = command(&package, dir.path(), "fail2ban-client");
    assert!(ban.args(["set", "app", "banip", "2001:db8::9"]).output().unwrap().status.success());
    let status = "/api/admin/ip-monitor/2001:db8::9";
    let banned = until("the ban for ever", async || {
        let seen = service.get(status).await.ok();
        (seen["status"] == "banned").then_some(seen)
    });
    has(&banned.await, json!({"until": null}));
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    assert_eq!(service.get(status).await.ok()["status"], "none", "{}", said());
}
