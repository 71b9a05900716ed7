//! A list on a server of its own, for a source to fetch.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

/// Answers every request with the list, until the process ends.
#[derive(Debug)]
pub struct ListServer {
    address: SocketAddr,
    list: Arc<Mutex<String>>,
}

impl ListServer {
    /// Starts it on a free port, with an empty list.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let list = Arc::new(Mutex::new(String::new()));
        let held = Arc::clone(&list);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let list = held.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A fetch that went away is the source's to report.
                let _ = answer(stream, &list);
            }
        });
        Ok(Self { address, list })
    }

    /// Where the list is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/list.txt", self.address)
    }

    /// What it answers from now on.
    pub fn serve(&self, list: String) {
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = list;
    }
}

fn answer(mut stream: TcpStream, list: &str) -> Result<()> {
    let mut head = BufReader::new(stream.try_clone()?).lines();
    while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{list}", list.len())?;
    Ok(())
}
