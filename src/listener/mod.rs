//! Listeners: bound once, kept over reloads, mended, drained at the end.
#![forbid(unsafe_code)]

mod file;
pub mod holder;
mod inherited;
mod tcp;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr,
    bind, getsockname, getsockopt, listen, shutdown, socket, sockopt,
};
use nix::unistd::{Pid, getpid};

use crate::config::{Address, Listen};
use crate::error::{Code, Error};
use crate::sys::listener::{drop_newcomers, look_at};
use crate::unit::{self, Refused};

use file::SocketFile;
pub use inherited::{BoundBy, Inherited, abandon, is_stored, stored_name};

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
    file: Option<SocketFile>,
    made_by: Pid,
    stays: Cell<bool>,
}

impl Listener {
    /// Binds the address and listens.
    ///
    /// # Errors
    ///
    /// The address is in use, it is systemd's, or it cannot be bound for another
    /// reason. See [`could_not_bind`].
    pub fn bind(listen: &Listen) -> io::Result<Self> {
        let socket = match &listen.address {
            Address::Inet(endpoint) => tcp::bind(endpoint, &listen.tcp)?,
            Address::Abstract(name) => bind_unix(&UnixAddr::new_abstract(name.as_bytes())?)?,
            Address::Path(path) => {
                let (socket, file) = SocketFile::listen(path, listen)?;
                return Ok(Listener::new(socket, listen.address.clone(), Some(file)));
            }
            Address::Systemd(_) => return Err(io::Error::other("systemd binds it")),
        };
        listen_on(&socket, listen.backlog)?;
        Ok(Listener::new(socket, listen.address.clone(), None))
    }

    /// Adopts a socket that listens already.
    ///
    /// # Errors
    ///
    /// It is not a stream socket that listens.
    pub fn adopt(inherited: &Inherited, address: &Address, by: BoundBy) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            let what = format!("adopt listener \"{address}\"");
            Error::system(what, &error).with_code(Code::CannotCreate)
        };
        let socket = inherited.socket.try_clone().map_err(failed)?;
        let kind = getsockopt(&socket, sockopt::SockType).map_err(|errno| failed(errno.into()))?;
        let listens =
            getsockopt(&socket, sockopt::AcceptConn).map_err(|errno| failed(errno.into()))?;
        let ready = look_at(socket.as_fd()).map_err(|errno| failed(errno.into()))?;
        if kind != SockType::Stream || !listens || ready.is_shut_down {
            return Err(failed(io::Error::other("it is not a stream socket that listens")));
        }
        let file = match address {
            Address::Path(path) if by == BoundBy::Us => Some(SocketFile::of(path).map_err(failed)?),
            _ => None,
        };
        let listener = Listener::new(socket, address.clone(), file);
        // The service manager has it too: a start that fails must not take it
        // away. See `own`.
        listener.stays.set(true);
        Ok(listener)
    }

    /// Says that the socket is to go with this listener, now that the daemon
    /// serves on it; but not what a socket unit has made.
    pub fn own(&self) {
        self.stays.set(matches!(self.address, Address::Systemd(_)));
    }

    fn new(socket: OwnedFd, address: Address, file: Option<SocketFile>) -> Self {
        Listener { socket, address, file, made_by: getpid(), stays: Cell::new(false) }
    }

    /// Leaves the socket open when this listener goes, because another process keeps it.
    pub fn leave_open(&self) {
        self.stays.set(true);
    }

    /// Whether it does.
    pub fn stays_open(&self) -> bool {
        self.stays.get()
    }

    /// Makes accept on it sleep until a client comes, or return at once. It is so for all
    /// processes that have it, for the flag belongs to the socket (O_NONBLOCK of open(2)).
    ///
    /// # Errors
    ///
    /// That of fcntl(2).
    pub fn set_accept(&self, accept: Accept) -> io::Result<()> {
        let before = OFlag::from_bits_retain(fcntl(&self.socket, FcntlArg::F_GETFL)?);
        let mut flags = before;
        flags.set(OFlag::O_NONBLOCK, accept == Accept::Returns);
        if flags != before {
            fcntl(&self.socket, FcntlArg::F_SETFL(flags))?;
        }
        Ok(())
    }

    /// Applies what `listen` says of the backlog, the file and TCP, while it listens.
    ///
    /// # Errors
    ///
    /// The backlog, the owner, the mode or an option could not be changed.
    pub fn adjust(&self, listen: &Listen) -> io::Result<()> {
        if matches!(self.address, Address::Systemd(_)) {
            return Ok(());
        }
        listen_on(&self.socket, listen.backlog)?;
        if matches!(self.address, Address::Inet(_)) {
            tcp::adjust(&self.socket, &listen.tcp)?;
        }
        match &self.file {
            Some(file) => file.adjust(listen),
            None => Ok(()),
        }
    }

    /// The key of `listen` that it was bound with another value of. That stays as it is as
    /// long as it is bound.
    pub fn bound_otherwise(&self, listen: &Listen) -> Option<&'static str> {
        let Address::Inet(endpoint) = &self.address else { return None };
        tcp::bound_otherwise(&self.socket, endpoint, &listen.tcp)
    }

    /// Whether clients can find it: nobody has removed its file, or put another in
    /// its place.
    pub fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(SocketFile::is_in_place)
    }

    /// The address for clients. For a socket of a socket unit, the kernel gives it.
    pub fn bound(&self) -> String {
        match &self.address {
            Address::Systemd(_) => {
                let bound = getsockname::<SockaddrStorage>(self.socket.as_raw_fd());
                bound.map_or_else(|_| self.address.to_string(), |bound| bound_address(&bound))
            }
            address => address.to_string(),
        }
    }

    /// The address as the configuration writes it.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// What a worker has done to it, and its end.
impl Listener {
    /// Ends the socket for all who have it, so that its address can be bound again.
    pub fn shut_down(&self) {
        // Were it to fail, the bind that follows would tell.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Looks whether a worker has shut the socket down, and listens again if that
    /// helps. It is not for a listener that drains.
    ///
    /// Workers have the very socket of the master, so that what one of them does to it
    /// is done to all. shutdown(2) ends listening on TCP; the address stays, and the
    /// socket can listen again. A Unix socket stays shut down for good.
    pub fn mend(&self, listen: &Listen) -> Mended {
        let ready = look_at(self.as_fd());
        match getsockopt(&self.socket, sockopt::AcceptConn) {
            Ok(true) if ready.is_ok_and(|ready| ready.is_shut_down) => Mended::MustBindAnew,
            Ok(true) => Mended::Sound,
            // A worker may even have connected it, or another process may have taken the
            // port. Then only a new bind can find out.
            _ => match listen_on(&self.socket, listen.backlog) {
                Ok(()) => Mended::ListenedAgain,
                Err(_) => Mended::MustBindAnew,
            },
        }
    }

    /// Lets no further client into the queue. Clients in the queue can still be accepted.
    /// At its end accept fails instead of waiting, with EAGAIN on TCP and with EINVAL on a
    /// Unix socket. A listener that stays open for the next daemon does not drain.
    ///
    /// TCP drops the first segment of new connections, and the client repeats it until the
    /// listener is closed. A client whose handshake was under way still gets into the
    /// queue, so it may fill again for as long as a packet travels.
    ///
    /// The path of a Unix socket goes first, and shutdown(2) for reading follows: from
    /// then on a connect is refused, also one that had found the path before. That
    /// accept still gives all that wait, and EINVAL behind them, is written in no
    /// manual page: unix_accept and unix_stream_connect of Linux do so, and the tests
    /// of this module hold it on the kernel that they run on (seen on 6.18).
    ///
    /// # Errors
    ///
    /// The kernel refuses it. The listener goes on as it was then.
    pub fn begin_drain(&self) -> io::Result<()> {
        if self.stays.get() {
            return Ok(());
        }
        if self.is_internet() {
            if drop_newcomers(self.as_fd()).is_err() {
                // A sandbox may forbid a filter. A queue without length keeps newcomers
                // out for as long as somebody waits in it.
                listen(&self.socket, Backlog::new(0)?)?;
            }
            return self.set_accept(Accept::Returns);
        }
        if let Some(file) = &self.file {
            file.remove();
        }
        Ok(shutdown(self.socket.as_raw_fd(), Shutdown::Read)?)
    }

    /// Whether clients wait to be accepted.
    pub fn queue(&self) -> Queue {
        match look_at(self.as_fd()) {
            Err(_) => Queue::Unknown,
            // A Unix socket that drains is readable whether somebody waits or not.
            Ok(ready) if ready.is_shut_down && !self.is_internet() => Queue::Unknown,
            Ok(ready) if ready.is_readable => Queue::Waiting,
            Ok(_) => Queue::Empty,
        }
    }

    /// Binds the address of this listener again, for one that [`Listener::mend`] could
    /// not mend.
    ///
    /// The path of a Unix socket is not missing meanwhile. The new socket listens first,
    /// and then gets the name, unless the name is almost as long as possible. An abstract
    /// name is free only once every process has closed the old socket, this listener
    /// included.
    ///
    /// # Errors
    ///
    /// Those of [`Listener::bind`].
    pub fn bind_anew(&self, listen: &Listen) -> io::Result<Self> {
        match &self.file {
            Some(file) => {
                let (socket, file) = file.listen_again(listen)?;
                Ok(Listener::new(socket, self.address.clone(), Some(file)))
            }
            None => Listener::bind(listen),
        }
    }

    fn is_internet(&self) -> bool {
        // That of systemd may be either.
        let domain = getsockname::<SockaddrStorage>(self.socket.as_raw_fd());
        domain.is_ok_and(|address| address.family() != Some(AddressFamily::Unix))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What accept does where nobody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// It sleeps until a client comes.
    Sleeps,
    /// It returns at once, with EAGAIN.
    Returns,
}

/// What [`Listener::mend`] has found and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// It listens, and did all the time.
    Sound,
    /// A worker had shut it down. It listens again; who waited in its queue was reset.
    ListenedAgain,
    /// A worker has shut it down for good: see [`Listener::bind_anew`].
    MustBindAnew,
}

/// What [`Listener::queue`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Nobody waits.
    Empty,
    /// Somebody waits.
    Waiting,
    /// Only accept can tell: it is a Unix socket that drains.
    Unknown,
}

/// Why the address of a listener, or of another `kind` of socket, was not bound: code
/// 77 if the permission is missing, else 73.
pub fn could_not_bind(kind: &str, address: &Address, error: &io::Error) -> Error {
    let error = Error::system(format!("bind {kind} \"{address}\""), error);
    match error.code() {
        Code::NoPermission => error,
        _ => error.with_code(Code::CannotCreate),
    }
}

/// The setting of the service unit that may have kept an address from being bound.
pub fn hint(address: &Address, error: &io::Error) -> Option<&'static str> {
    match address {
        Address::Inet(endpoint) => unit::hint(Refused::Port(endpoint.numbers()?.port()), error),
        Address::Path(path) => unit::hint(Refused::Write(path), error),
        Address::Abstract(_) | Address::Systemd(_) => None,
    }
}

/// Finds what would keep a listener from being bound, without leaving anything
/// behind. That the address is in use is not looked for: it may be by the very
/// daemon that is to be reloaded.
pub fn check(listen: &Listen) -> io::Result<()> {
    match &listen.address {
        Address::Inet(endpoint) => match tcp::bind(endpoint, &listen.tcp) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
            probed => probed.map(drop),
        },
        Address::Path(path) => file::check(path, listen),
        Address::Abstract(_) | Address::Systemd(_) => Ok(()),
    }
}

/// The file that replaces a listener: accept on it fails at once (ENOTSOCK). Every worker
/// holds it, so a worker must not be able to change it. On a socket a worker could bind and
/// listen.
pub fn dead() -> io::Result<OwnedFd> {
    Ok(fs::File::open("/dev/null")?.into())
}

/// An address of the kernel, as the configuration writes it.
fn bound_address(bound: &SockaddrStorage) -> String {
    let Some(unix) = bound.as_unix_addr() else { return bound.to_string() };
    match (unix.path(), unix.as_abstract()) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(name)) => format!("@{}", String::from_utf8_lossy(name)),
        (None, None) => "unix".to_owned(),
    }
}

fn bind_unix(address: &UnixAddr) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind_to(&socket, address)?;
    Ok(socket)
}

fn bind_to(socket: &OwnedFd, address: &dyn SockaddrLike) -> io::Result<()> {
    Ok(bind(socket.as_raw_fd(), address)?)
}

/// Listens, or changes the backlog of a listening socket. The kernel limits the backlog to
/// net.core.somaxconn.
fn listen_on(socket: &OwnedFd, backlog: u32) -> io::Result<()> {
    let backlog =
        Backlog::new(i32::try_from(backlog).unwrap_or(i32::MAX)).unwrap_or(Backlog::MAXCONN);
    Ok(listen(socket, backlog)?)
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Not in a child, where the socket is still the parent's; and not by a
        // panic, after which the service manager starts us on it again.
        if self.stays.get() || getpid() != self.made_by || std::thread::panicking() {
            return;
        }
        // A worker that is stopped or busy may hold the socket open for long.
        // Shut down, it refuses clients and leaves the address at once.
        self.shut_down();
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}
