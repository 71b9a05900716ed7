//! The ports of a stack, and whether they can be had.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};
use rustix::net::{self, AddressFamily, SocketType};

/// Every port of a stack, all on 127.0.0.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// The gate: what clients talk to.
    pub gate: u16,
    /// Envoy's own admin interface.
    pub envoy_admin: u16,
    /// The admin service through Envoy.
    pub admin_api: u16,
    /// The admin service: people and their tools.
    pub people: u16,
    /// The admin service: gateways.
    pub gateways: u16,
    /// The demo backend.
    pub demo: u16,
}

/// Which ports a stack takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortChoice {
    /// [`Ports::DEFAULT`], or an error that names the one that is taken.
    Default,
    /// A block of [`ReservedPorts`]; several stacks run side by side.
    Free,
}

impl Ports {
    /// The ports that are written in `envoy/envoy.yaml` and the README.
    pub const DEFAULT: Self =
        Self { gate: 10000, envoy_admin: 9901, admin_api: 10001, people: 9070, gateways: 9071, demo: 10080 };

    /// Each port with what it is for.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u16); 6] {
        [
            ("the gate", self.gate),
            ("Envoy's admin interface", self.envoy_admin),
            ("the admin service through Envoy", self.admin_api),
            ("the admin service", self.people),
            ("the admin service's listener for gateways", self.gateways),
            ("the demo backend", self.demo),
        ]
    }

    /// Fails if a port is taken, naming each that is and what it is for.
    ///
    /// # Errors
    /// One message for all that are taken.
    pub fn check_free(&self, skip_demo: bool) -> Result<()> {
        let taken: BTreeSet<String> = self
            .named()
            .into_iter()
            .filter(|(_, port)| !(skip_demo && *port == self.demo))
            .filter(|(_, port)| TcpListener::bind(local(*port)).is_err())
            .map(|(what, port)| format!("127.0.0.1:{port} is taken; {what} needs it"))
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        bail!("{}", taken.into_iter().collect::<Vec<_>>().join("\n"));
    }
}

/// Ports that no other stack of this machine gets as long as this is held, whichever
/// process starts it. That they are free alone would not do: Envoy shares a port with
/// whoever binds it the same way (`SO_REUSEPORT`), so two stacks would both seem to start.
///
/// They come in blocks, below those that the system hands out for port 0 and for
/// connections. The first port of a block is its lock: bound, and nobody listens there.
#[derive(Debug)]
pub struct ReservedPorts {
    _lock: OwnedFd,
    ports: Ports,
}

impl ReservedPorts {
    /// The first port of the first block; what `up` and containers take is far away.
    const FIRST: u16 = 20_000;
    /// Ports of a block, the lock included.
    const BLOCK: u16 = 7;
    const BLOCKS: u16 = 1_700;

    /// Takes the next block of which every port is free.
    ///
    /// # Errors
    /// There is none.
    pub fn take() -> Result<Self> {
        // Where this process goes on looking: a port is not taken again soon.
        static NEXT: OnceLock<AtomicU16> = OnceLock::new();
        let next = NEXT.get_or_init(|| AtomicU16::new((std::process::id() % 1_000) as u16));
        (0..Self::BLOCKS)
            .find_map(|_| Self::block(next.fetch_add(1, Ordering::Relaxed) % Self::BLOCKS))
            .context("no free ports on 127.0.0.1")
    }

    fn block(number: u16) -> Option<Self> {
        let lock = Self::FIRST + number * Self::BLOCK;
        let held = net::socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
        net::bind(&held, &local(lock)).ok()?;
        let ports = Ports {
            gate: lock + 1,
            envoy_admin: lock + 2,
            admin_api: lock + 3,
            people: lock + 4,
            gateways: lock + 5,
            demo: lock + 6,
        };
        ports.check_free(false).ok()?;
        Some(Self { _lock: held, ports })
    }

    /// The ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }
}

/// A port of 127.0.0.1 that refuses connections, and that nobody else can take
/// meanwhile.
#[derive(Debug)]
pub struct Refusing {
    /// Bound, and not listening.
    _held: OwnedFd,
    address: SocketAddr,
}

impl Refusing {
    /// Takes a free one.
    ///
    /// # Errors
    /// The system has none left.
    pub fn new() -> Result<Self> {
        let held = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        net::bind(&held, &local(0))?;
        let address = net::getsockname(&held)?.try_into()?;
        Ok(Self { _held: held, address })
    }

    /// Where nobody answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A port of 127.0.0.1 that takes connections (a hundred or so) and never says a
/// word.
#[derive(Debug)]
pub struct Silent(TcpListener);

impl Silent {
    /// Takes a free one.
    ///
    /// # Errors
    /// The system has none left.
    pub fn new() -> Result<Self> {
        Ok(Self(TcpListener::bind(local(0))?))
    }

    /// Where it is.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }
}

/// A port of this machine.
#[must_use]
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_purpose() {
        let reserved = ReservedPorts::take().unwrap();
        let ports = reserved.ports();
        ports.check_free(false).unwrap();
        let _held = TcpListener::bind(local(ports.people)).unwrap();
        let said = ports.check_free(false).unwrap_err().to_string();
        assert_eq!(said, format!("127.0.0.1:{} is taken; the admin service needs it", ports.people));
    }

    #[test]
    fn nobody_takes_what_is_reserved() {
        let [one, two] = [(); 2].map(|()| ReservedPorts::take().unwrap());
        let number = (one.ports().gate - 1 - ReservedPorts::FIRST) / ReservedPorts::BLOCK;
        assert_ne!(one.ports(), two.ports());
        assert!(ReservedPorts::block(number).is_none(), "nobody listens, and it is taken all the same");
        drop(one);
        assert!(ReservedPorts::block(number).is_some());
    }

    #[test]
    fn one_port_refuses_and_one_is_silent() {
        let refusing = Refusing::new().unwrap();
        let refused = TcpStream::connect(refusing.address()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let silent = Silent::new().unwrap();
        TcpStream::connect(silent.address().unwrap()).unwrap();
    }

    #[test]
    fn a_demo_backend_of_ones_own_may_hold_its_port() {
        let reserved = ReservedPorts::take().unwrap();
        let ports = reserved.ports();
        let _held = TcpListener::bind(local(ports.demo)).unwrap();
        ports.check_free(true).unwrap();
        assert!(ports.check_free(false).is_err());
    }
}
