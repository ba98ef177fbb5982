//! A client's end of one connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::{self, net::UnixStream};
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};

use super::{Address, PATIENCE};

pub enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// Connects, or tells why it could not.
    pub fn try_connect(address: &Address) -> io::Result<Self> {
        let client = match address {
            Address::Tcp(address) => {
                Client::Tcp(TcpStream::connect_timeout(&(*address).into(), PATIENCE)?)
            }
            Address::Unix(path) => Client::Unix(UnixStream::connect(path)?),
            Address::Abstract(name) => {
                let address = unix::net::SocketAddr::from_abstract_name(name)?;
                Client::Unix(UnixStream::connect_addr(&address)?)
            }
        };
        client.set_timeouts(PATIENCE)?;
        Ok(client)
    }

    /// Connects from the address `source`.
    pub fn try_connect_from(source: Ipv4Addr, address: &Address) -> io::Result<Self> {
        let Address::Tcp(address) = address else {
            return Client::try_connect(address);
        };
        let socket =
            socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // The port is chosen by `connect`, so that it is only taken for this
        // one destination.
        socket::setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket::bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
        socket::connect(socket.as_raw_fd(), &SockaddrIn::from(*address))?;
        let client = Client::Tcp(TcpStream::from(socket));
        client.set_timeouts(PATIENCE)?;
        Ok(client)
    }

    #[track_caller]
    pub fn connect(address: &Address) -> Self {
        match Client::try_connect(address) {
            Ok(client) => client,
            Err(error) => panic!("could not connect to {address}: {error}"),
        }
    }

    pub fn set_timeouts(&self, time: Duration) -> io::Result<()> {
        match self {
            Client::Tcp(stream) => {
                stream.set_read_timeout(Some(time))?;
                stream.set_write_timeout(Some(time))
            }
            Client::Unix(stream) => {
                stream.set_read_timeout(Some(time))?;
                stream.set_write_timeout(Some(time))
            }
        }
    }

    /// Ends the stream of this side.
    pub fn half_close(&self) -> io::Result<()> {
        match self {
            Client::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Client::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.write_all(text.as_bytes()).expect("write to the daemon");
    }

    /// Reads exactly as much as `text` has, and compares.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let mut buffer = vec![0; text.len()];
        self.read_exact(&mut buffer).expect("read from the daemon");
        assert_eq!(String::from_utf8_lossy(&buffer), text);
    }

    /// Reads to the end.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        self.read_to_string(&mut text).expect("read from the daemon to the end");
        text
    }

    /// Sends `text` to an echo service and expects it back. The connection is
    /// then held by a worker, and stays open.
    #[track_caller]
    pub fn ping(&mut self, text: &str) {
        self.send(text);
        self.expect(text);
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => stream.read(buffer),
            Client::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Client {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => stream.write(buffer),
            Client::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection that sends `request`, closes its half, and reads all.
#[track_caller]
pub fn ask(address: &Address, request: &str) -> String {
    let mut client = Client::connect(address);
    client.send(request);
    client.half_close().expect("close one half");
    client.rest()
}

/// Checks that an echo service answers at `address`.
#[track_caller]
pub fn assert_serves(address: &Address) {
    assert_eq!(ask(address, "who is there"), "who is there", "no echo from {address}");
}

/// Checks that nobody listens at `address`.
#[track_caller]
pub fn assert_refuses(address: &Address) {
    let error = Client::try_connect(address).err();
    let kind = error.as_ref().map(io::Error::kind);
    assert!(
        matches!(kind, Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)),
        "{address} should refuse, but gave {error:?}"
    );
}
