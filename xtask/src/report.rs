//! What `up` says when everything is ready.

use std::path::Path;

use tidegate_stack::Ports;

/// The table of addresses, and three commands to try.
pub fn addresses(dir: &Path) {
    let ports = Ports::DEFAULT;
    // Relative where possible: the commands are typed at the root of the repository.
    let root = tidegate_stack::programs::repository();
    let dir = dir.strip_prefix(&root).unwrap_or(dir).display();
    println!();
    for (what, port) in ports.named() {
        println!("  {what:<44} 127.0.0.1:{port}");
    }
    println!("  {:<44} {dir}/tidegate.db", "database");
    println!("  {:<44} {dir}/token", "operator's token");
    println!("  {:<44} {dir}/*.log", "logs");
    println!(
        "
Try:

  curl -s 127.0.0.1:{gate}/hello

  curl -s -H \"Authorization: Bearer $(cat {dir}/token)\" -d '{{\"ip\": \"1.2.3.4\"}}' \\
    '127.0.0.1:{people}/api/admin/optimization/ip/ban?wait_applied=2s'

  curl -s -H 'X-Forwarded-For: 1.2.3.4' 127.0.0.1:{gate}/hello
",
        gate = ports.gate,
        people = ports.people,
    );
}
