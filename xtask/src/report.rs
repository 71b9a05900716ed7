//! What `up` and `down` say.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tidegate_stack::Ports;
use tidegate_stack::http::{self, Request};

/// A line on standard output. Whoever read it may have gone (`up | head -3`): what
/// was started is not to end for that, as it would with a `println!` that panics.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The table of addresses, and three commands to try.
pub fn addresses(dir: &Path) {
    let ports = Ports::DEFAULT;
    // Relative where possible: the commands are typed at the root of the repository.
    let root = tidegate_stack::programs::repository();
    let dir = dir.strip_prefix(&root).unwrap_or(dir).display();
    say("");
    for (what, port) in ports.named() {
        say(format_args!("  {what:<44} 127.0.0.1:{port}"));
    }
    say(format_args!("  {:<44} {dir}/tidegate.db", "database"));
    say(format_args!("  {:<44} {dir}/token", "operator's token"));
    say(format_args!("  {:<44} {dir}/*.log", "logs"));
    let link = sign_in_link(&root.join(dir.to_string()), ports.people);
    say("");
    match link {
        Ok(link) => say(format_args!("  The dashboard (this link signs in once):\n\n  {link}")),
        Err(error) => say(format_args!("  The dashboard: http://127.0.0.1:{}/ui/ ({error:#})", ports.people)),
    }
    say(format_args!(
        "
Try:

  curl -s 127.0.0.1:{gate}/hello

  curl -s -H \"Authorization: Bearer $(cat {dir}/token)\" -d '{{\"ip\": \"1.2.3.4\"}}' \\
    '127.0.0.1:{people}/api/admin/optimization/ip/ban?wait_applied=2s'

  curl -s -H 'X-Forwarded-For: 1.2.3.4' 127.0.0.1:{gate}/hello

Until its flags are switched the gate asks the admin service about every request: docs/ROLLOUT.md
",
        gate = ports.gate,
        people = ports.people,
    ));
}

/// A link to the dashboard that signs in once, with the operator's token.
fn sign_in_link(dir: &Path, people: u16) -> Result<String> {
    let token = std::fs::read_to_string(dir.join("token")).context("no token")?;
    let request = Request::new(http::Method::POST, "/api/admin/sign-in-links").bearer(token.trim());
    let answer = http::send(([127, 0, 0, 1], people).into(), &request)?.json()?;
    let path = answer["path"].as_str().context("the service gave no link")?;
    Ok(format!("http://127.0.0.1:{people}{path}"))
}
