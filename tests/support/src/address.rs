//! Addresses that no other test uses.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

/// Where a pool listens. Its text is the value of the key `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddrV4),
    Unix(PathBuf),
    /// A Unix socket of this name, without its `@`, in no directory.
    Abstract(String),
}

impl Address {
    /// A TCP address on loopback that no other test has, in this process or in
    /// another: all of 127.0.0.0/8 is there, so the process id goes into it.
    pub fn fresh() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        // Ids go up to 2^22: 7 bits in the port, 7 and 8 in the address, whose
        // second byte thus stays clear of the usual 127.0.
        let port = 7000 + (u16::from(high) << 1 | u16::from(middle >> 7));
        let ip = Ipv4Addr::new(127, 0x80 | middle, low, number);
        Address::Tcp(SocketAddrV4::new(ip, port))
    }

    /// A Unix socket at `path`.
    pub fn unix(path: &Path) -> Self {
        Address::Unix(path.to_owned())
    }

    /// An abstract Unix socket that no other test has.
    pub fn unnamed() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Address::Abstract(format!("preforkd-test-{}-{number}", std::process::id()))
    }

    /// The TCP address.
    pub fn tcp(&self) -> SocketAddr {
        match self {
            Address::Tcp(address) => SocketAddr::V4(*address),
            other => panic!("{other} is no TCP address"),
        }
    }

    /// Another loopback address for a client to come from. With one for each
    /// of its clients, a load does not run out of ports.
    pub fn source(&self, client: usize) -> Option<Ipv4Addr> {
        let Address::Tcp(address) = self else {
            return None;
        };
        let [_, second, _, fourth] = address.ip().octets();
        Some(Ipv4Addr::new(127, second & 0x7f, fourth, client as u8 + 1))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
            Address::Abstract(name) => write!(f, "@{name}"),
        }
    }
}
