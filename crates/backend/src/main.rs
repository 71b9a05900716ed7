//! `tidegate-demo-backend NAME ADDRESS`: the demo backend as a process.

use anyhow::{Context, Result, bail};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, address] = &arguments[..] else { bail!("usage: tidegate-demo-backend NAME HOST:PORT") };
    let address = address.parse().with_context(|| format!("not an address and port: {address}"))?;
    tidegate_backend::serve(name, address).await
}
