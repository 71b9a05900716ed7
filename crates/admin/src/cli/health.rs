//! `tidegate health`.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use reqwest::StatusCode;

use super::access::ServiceArgs;
use super::api_client;

/// How long the command may take: health checks come every few seconds.
const ANSWER_TIME: Duration = Duration::from_secs(4);

/// Options of `tidegate health`.
#[derive(clap::Args, Debug)]
pub struct HealthArgs {
    #[command(flatten)]
    service: ServiceArgs,
}

/// Sends one request.
///
/// # Errors
/// When there is no answer within 4 s, or another status than 200.
pub fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = args.service.server()?;
    let uri = format!("{}/api/health", server.url);
    runtime.block_on(async {
        let answer = api_client::http_client(&server, ANSWER_TIME)?.get(&uri).send().await;
        let answer = answer.map_err(|error| anyhow!(api_client::unreachable(&uri, &error)))?;
        ensure!(answer.status() == StatusCode::OK, "{uri} answered {}", answer.status());
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    /// A server that answers once, with this status.
    fn answering(status: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1_024];
            let length = stream.read(&mut asked).unwrap();
            assert!(asked[..length].starts_with(b"GET /api/health HTTP/1.1\r\n"));
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
        });
        address
    }

    fn health(address: SocketAddr) -> anyhow::Result<()> {
        run(&HealthArgs { service: ServiceArgs::of(format!("http://{address}")) })
    }

    #[test]
    fn only_200_is_health() {
        health(answering("200 OK")).unwrap();
        let error = health(answering("503 Service Unavailable")).unwrap_err();
        assert!(error.to_string().contains("answered 503"), "{error:#}");
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = health(nobody).unwrap_err();
        assert!(error.to_string().contains("nobody answers at"), "{error:#}");
    }
}
