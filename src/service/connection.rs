//! A connection, as a service gets it.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt};

use crate::sys::{handler, socket};

/// A stream to a client: TCP, or a Unix socket.
#[derive(Debug)]
pub struct Connection {
    // Dropped first: see `Forget`.
    _forget: Forget,
    stream: Stream,
    peer: Peer,
}

/// Takes the descriptor from the signal handlers before it closes: its number
/// may mean another file the moment after.
#[derive(Debug)]
struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        handler::forget_descriptor();
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client at this Internet address. An IPv4 client of an IPv6 listener
    /// is told as IPv4.
    Internet(SocketAddr),
    /// A client on the Unix socket, see [`Connection::credentials`].
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Internet(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// Whom the process was running as that connected to the Unix socket
/// (SO_PEERCRED of unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its pid.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Connection {
    /// The connection on this socket.
    pub(crate) fn new(socket: OwnedFd, peer: Option<SocketAddr>) -> Self {
        let (stream, peer) = match peer {
            Some(address) => (Stream::Tcp(socket.into()), Peer::Internet(address)),
            None => (Stream::Unix(socket.into()), Peer::Unix),
        };
        Connection { _forget: Forget, stream, peer }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The address of this end; None on a Unix socket.
    pub fn local_address(&self) -> io::Result<Option<SocketAddr>> {
        socket::local_address(self.as_fd()).map_err(io::Error::from)
    }

    /// Whom the client on a Unix socket was running as when it connected.
    pub fn credentials(&self) -> io::Result<Credentials> {
        let credentials = getsockopt(self, sockopt::PeerCredentials)?;
        Ok(Credentials { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
    }

    /// Ends one or both directions of the stream (shutdown(2)).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Read for &Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => (&mut &*stream).read(buffer),
            Stream::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }
}

impl Write for &Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => (&mut &*stream).write(buffer),
            Stream::Unix(stream) => (&mut &*stream).write(buffer),
        }
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => (&mut &*stream).write_vectored(buffers),
            Stream::Unix(stream) => (&mut &*stream).write_vectored(buffers),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&mut &*self).read(buffer)
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&mut &*self).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
