//! The unit of the admin service.

use std::process::Command;

use tidegate_stack::programs::repository;

use crate::files::on_path;

const UNIT: &str = "deploy/systemd/tidegate.service";

#[test]
fn systemd_takes_the_unit() {
    if !on_path("systemd-analyze") {
        println!("skipped: there is no systemd-analyze");
        return;
    }
    let unit = std::fs::read_to_string(repository().join(UNIT)).unwrap();
    assert!(unit.contains("=/usr/bin/tidegate serve --config /etc/tidegate/tidegate.toml\n"));
    let dir = std::env::temp_dir().join(format!("tidegate-unit-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("tidegate.service");
    // It looks whether the program is there.
    std::fs::write(&path, unit.replace("/usr/bin/tidegate ", "/bin/true ")).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
