//! A connection, as a service gets it.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{self as posix, MsgFlags, getsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;

use crate::sys::clock::Moment;
use crate::sys::socket::StreamEnd;
use crate::sys::wait::Exit;
use crate::sys::{descriptor, handler, socket};

use super::context::Context;
use super::linger::{is_safe, linger};
use super::record::SharedRecord;

pub use crate::sys::socket::Peer;

/// How many buffers one call may send (UIO_MAXIOV of the kernel).
const MOST_BUFFERS: usize = 1024;

/// A stream to a client: TCP, or a Unix socket.
///
/// A read or a write that a signal interrupts goes on. If a call waits longer than
/// `idle_timeout` for the client, it fails with [`ErrorKind::TimedOut`].
///
/// The descriptor itself (`as_fd`, `as_raw_fd`) behaves like the bare socket. If the pool
/// has an `idle_timeout`, a read or a write fails with EINTR when a signal comes, because
/// Linux does not restart a call that has a time limit (signal(7)). It fails with EAGAIN
/// when the limit is over. Code that uses the descriptor must try again after EINTR.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    peer: Peer,
    idle_timeout: Option<Duration>,
    /// The socket has the time limit, which it gets at its first use here.
    is_limited: AtomicBool,
    /// The service has read to the end: nothing more can come from the client.
    at_end: AtomicBool,
    /// The socket was given away: its number means what tells that the client has hung up.
    is_released: AtomicBool,
    /// Where the pool keeps account of its clients: 0 once this one has gone.
    entry: Option<&'static AtomicU64>,
    /// What the access log is to tell of it.
    record: Option<SharedRecord>,
    /// How many connections its source has, if the pool counts them.
    count: Option<u32>,
}

/// The identity of the process that connected to the Unix socket (SO_PEERCRED of unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its pid.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// What has ended a wait: see [`Connection::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// There is something to read, or the client has closed its end.
    Input,
    /// The worker is asked to leave, and there is nothing to read.
    Leave,
}

impl From<UnixStream> for Connection {
    /// A connection on a socket that no worker has accepted.
    fn from(socket: UnixStream) -> Self {
        Connection::new(socket.into(), Peer::Unix, None)
    }
}

impl TryFrom<TcpStream> for Connection {
    type Error = io::Error;

    /// A connection on a socket that no worker has accepted.
    ///
    /// # Errors
    ///
    /// The socket is not connected.
    fn try_from(socket: TcpStream) -> io::Result<Self> {
        let peer = Peer::Internet(socket.peer_addr()?);
        Ok(Connection::new(socket.into(), peer, None))
    }
}

impl Connection {
    /// The connection on this socket. A client that sends or takes nothing for
    /// `idle_timeout` ends a read or a write.
    pub(crate) fn new(socket: OwnedFd, peer: Peer, idle_timeout: Option<Duration>) -> Self {
        let is_limited = AtomicBool::new(idle_timeout.is_none());
        let at_end = AtomicBool::new(false);
        Connection {
            socket,
            peer,
            idle_timeout,
            is_limited,
            at_end,
            is_released: AtomicBool::new(false),
            entry: None,
            record: None,
            count: None,
        }
    }

    /// The same connection, of which account is kept. It clears the word `entry` when it ends,
    /// and does so before the client can see the end: else a client that comes again at once
    /// would be one too many.
    pub(crate) fn with_account(
        mut self,
        entry: Option<&'static AtomicU64>,
        record: Option<SharedRecord>,
    ) -> Self {
        (self.entry, self.record) = (entry, record);
        self
    }

    /// The same connection, one of so many of its source.
    pub(crate) fn with_count(mut self, count: Option<u32>) -> Self {
        self.count = count;
        self
    }

    /// How many connections its source had when it was accepted, this one included; None
    /// where the pool does not count them.
    pub(crate) fn count(&self) -> Option<u32> {
        self.count
    }

    /// Takes note of the program that has served the client, and how it ended.
    pub(crate) fn note_program(&self, pid: Pid, exit: Exit) {
        self.record.iter().for_each(|it| it.change(|it| it.program = Some((pid, exit))));
    }

    /// Notes the bytes that were transferred until now. Bytes that the client sends after
    /// the end of its service are not read, and do not count.
    fn note_bytes(&self) {
        let Some(record) = &self.record else { return };
        let end = match self.at_end.load(Ordering::Relaxed) {
            true => StreamEnd::Seen,
            false => StreamEnd::Unseen,
        };
        if let Some(bytes) = socket::transferred(self.socket.as_fd(), end) {
            record.change(|it| {
                it.received = it.received.or(Some(bytes.received));
                it.sent = Some(bytes.sent);
            });
        }
    }

    /// Notes that the client is about to see the end. If the end of its reply is in danger,
    /// the client can keep the worker longer, and has not gone yet.
    pub(crate) fn note_end(&self) {
        self.note_bytes();
        if self.entry.is_some() && is_safe(self.socket.as_fd()) {
            self.clear_entry();
        }
    }

    fn clear_entry(&self) {
        self.entry.iter().for_each(|entry| entry.store(0, Ordering::SeqCst));
    }

    /// How long the client may send or take nothing.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout
    }

    /// The socket without a time limit, for a program, because a limit would make the
    /// program's calls fail. Transfers by the program are not seen here.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        handler::note_transfer();
        self.socket.as_fd()
    }

    /// The socket with the time limit.
    fn limited(&self) -> BorrowedFd<'_> {
        if !self.is_limited.load(Ordering::Relaxed) {
            self.is_limited.store(true, Ordering::Relaxed);
            if let Some(longest) = self.idle_timeout {
                // It cannot fail on a socket; were it to, the client gets more time.
                let _ = socket::set_timeouts(self.socket.as_fd(), longest);
            }
        }
        self.socket.as_fd()
    }

    /// A connection and its client's end, a pair of Unix sockets, for the test of a
    /// service: see [`Context::for_test`].
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn pair() -> io::Result<(Self, UnixStream)> {
        let (socket, client) = UnixStream::pair()?;
        Ok((Connection::from(socket), client))
    }

    /// The same connection, with this bound on how long its client may be idle, as by the
    /// key `idle_timeout` of a pool.
    #[must_use]
    pub fn with_idle_timeout(self, longest: Duration) -> Self {
        let _ = socket::set_timeouts(self.socket.as_fd(), longest);
        let mut connection = self;
        connection.idle_timeout = Some(longest);
        connection
    }

    /// Waits until there is something to read, the client's end included, or until the
    /// worker is asked to leave. Input comes first, so that no request is lost. This does
    /// not see bytes that a service has read into its own buffer.
    ///
    /// ```
    /// use std::io::{BufRead, BufReader, Write};
    /// use preforkd::{Connection, Context, Outcome, Service, Wake};
    ///
    /// struct Lines;
    ///
    /// impl Service for Lines {
    ///     fn serve(&mut self, connection: Connection, context: &Context) -> Outcome {
    ///         let mut reader = BufReader::new(&connection);
    ///         loop {
    ///             if reader.buffer().is_empty() {
    ///                 match connection.wait(context) {
    ///                     Ok(Wake::Input) => {}
    ///                     Ok(Wake::Leave) => return Outcome::Served,
    ///                     Err(error) => return error.into(),
    ///                 }
    ///             }
    ///             let mut line = String::new();
    ///             match reader.read_line(&mut line) {
    ///                 Ok(0) => return Outcome::Served,
    ///                 Ok(_) => {}
    ///                 Err(error) => return error.into(),
    ///             }
    ///             if let Err(error) = (&connection).write_all(line.as_bytes()) {
    ///                 return error.into();
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] after `idle_timeout`; or those of
    /// [`Context::leave_descriptor`].
    pub fn wait(&self, context: &Context<'_>) -> io::Result<Wake> {
        let leave = context.leave_descriptor()?;
        let until = self.idle_timeout.map(|longest| Moment::now() + longest);
        loop {
            let left = until.map(|until| until - Moment::now());
            let mut awaited = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(leave, PollFlags::POLLIN),
            ];
            match ppoll(&mut awaited, left.map(TimeSpec::from), None) {
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) if awaited[0].any() != Some(false) => return Ok(Wake::Input),
                Ok(_) => return Ok(Wake::Leave),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Gives the socket away to the program that was started on it: the stream ends when the
    /// last process that has the socket closes it. What is left here is a set of epoll(7),
    /// which watches the socket without holding it open.
    ///
    /// # Errors
    ///
    /// There is no descriptor or no memory for the set.
    pub(crate) fn release(&self) -> io::Result<()> {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // The kernel always reports a hang-up.
        set.add(&self.socket, EpollEvent::new(EpollFlags::empty(), 0))?;
        descriptor::replace(&set.0, self.socket.as_raw_fd())?;
        self.is_released.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The descriptor to wait for: it has an event once the client has hung up. A client
    /// that closed only its sending side has not.
    pub(crate) fn hang_up(&self) -> PollFd<'_> {
        // The kernel always reports a hang-up of the socket; an epoll set becomes readable.
        match self.is_released.load(Ordering::Relaxed) {
            true => PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            false => PollFd::new(self.socket(), PollFlags::empty()),
        }
    }

    /// Closes it, if that cuts nothing of the reply. Else it is given back.
    pub(crate) fn close_if_safe(self) -> Option<Self> {
        if is_safe(self.socket.as_fd()) {
            self.abandon();
            return None;
        }
        Some(self)
    }

    /// Closes it without a look at its client: another process goes on with it.
    pub(crate) fn abandon(mut self) {
        *self.at_end.get_mut() = true;
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The address of this end; None on a Unix socket.
    pub fn local_address(&self) -> io::Result<Option<SocketAddr>> {
        socket::local_address(self.socket.as_fd()).map_err(io::Error::from)
    }

    /// The path of the Unix socket at this end, `@name` in the abstract namespace; None
    /// for one without a name, and on TCP.
    pub(crate) fn local_path(&self) -> io::Result<Option<OsString>> {
        socket::local_path(self.socket.as_raw_fd()).map_err(io::Error::from)
    }

    /// The identity of the client on a Unix socket when it connected.
    pub fn credentials(&self) -> io::Result<Credentials> {
        let credentials = getsockopt(&self.socket, sockopt::PeerCredentials)?;
        Ok(Credentials { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
    }

    /// Ends one or both directions of the stream (shutdown(2)).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => posix::Shutdown::Read,
            Shutdown::Write => posix::Shutdown::Write,
            Shutdown::Both => posix::Shutdown::Both,
        };
        posix::shutdown(self.socket.as_raw_fd(), how).map_err(io::Error::from)
    }

    /// Makes a call that may wait for the client until it is done, however many signals
    /// come, or until the client has been idle for too long. `ready` is the event that it
    /// waits for.
    fn persist(
        &self,
        ready: PollFlags,
        mut call: impl FnMut(RawFd) -> nix::Result<usize>,
    ) -> io::Result<usize> {
        let until = self.idle_timeout.map(|longest| Moment::now() + longest);
        loop {
            match call(self.limited().as_raw_fd()) {
                Ok(count) => {
                    handler::note_transfer();
                    return Ok(count);
                }
                Err(Errno::EINTR) => self.go_on(ready, until)?,
                Err(Errno::EAGAIN) if !self.is_non_blocking() => {
                    return Err(ErrorKind::TimedOut.into());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for what is left of the time. The kernel counts it from the start again in
    /// each call, so that signals would make it longer and longer.
    fn go_on(&self, ready: PollFlags, until: Option<Moment>) -> io::Result<()> {
        let Some(until) = until else { return Ok(()) };
        loop {
            let left = until - Moment::now();
            let mut socket = [PollFd::new(self.socket.as_fd(), ready)];
            match ppoll(&mut socket, Some(TimeSpec::from(left)), None) {
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) if left > Duration::ZERO => {}
                Err(Errno::EINTR) => return Err(ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Whether the service has made the socket non-blocking. EAGAIN then says nothing of
    /// a time limit.
    fn is_non_blocking(&self) -> bool {
        let flags = fcntl(&self.socket, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        flags.is_ok_and(|flags| flags.contains(OFlag::O_NONBLOCK))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.note_bytes();
        if !*self.at_end.get_mut() {
            linger(self.socket.as_fd(), self.idle_timeout);
        }
        self.note_bytes();
        self.clear_entry();
        // Its number may mean another file the moment after the close.
        handler::forget_descriptor();
    }
}

impl AsFd for Connection {
    /// What is transferred by it is not seen here.
    fn as_fd(&self) -> BorrowedFd<'_> {
        handler::note_transfer();
        self.limited()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Read for &Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let is_probe = buffer.is_empty();
        let count = self
            .persist(PollFlags::POLLIN, |socket| posix::recv(socket, buffer, MsgFlags::empty()))?;
        if count == 0 && !is_probe {
            self.at_end.store(true, Ordering::Relaxed);
        }
        Ok(count)
    }
}

impl Write for &Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.persist(PollFlags::POLLOUT, |socket| {
            posix::send(socket, buffer, MsgFlags::MSG_NOSIGNAL)
        })
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.persist(PollFlags::POLLOUT, |socket| {
            let buffers = &buffers[..buffers.len().min(MOST_BUFFERS)];
            posix::sendmsg::<()>(socket, buffers, &[], MsgFlags::MSG_NOSIGNAL, None)
        })
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
