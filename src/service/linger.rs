//! The end of a connection whose client may lose the end of its reply.
//!
//! A socket that is closed with unread data, or that gets data later, makes the kernel send
//! a reset and drop what it has not sent yet of the reply (RFC 2525, section 2.17). So the
//! worker shuts down its side, and drops what the client sends until the client closes,
//! too.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use nix::sys::time::TimeSpec;

use crate::sys::clock::Moment;
use crate::sys::{handler, socket};

/// How long a client may take to close, if its pool has no shorter `idle_timeout`.
const LONGEST: Duration = Duration::from_secs(5);

/// How much it may send until then.
const MOST_BYTES: usize = 64 << 20;

/// How much is dropped at a time.
const CHUNK_BYTES: usize = 4096;

/// Waits until the client has closed its side, if a reset could cut its reply: it has sent
/// what was not read, or part of the reply has still to be sent. SIGALRM for the connection
/// ends the wait.
///
/// Bytes that are already on their way arrive before a reset does. So the usual short reply
/// to a request that was read costs two system calls here and no time.
pub fn linger(socket: BorrowedFd<'_>, idle_timeout: Option<Duration>) {
    if handler::is_alarmed() || is_safe(socket) {
        return;
    }
    await_close(socket, idle_timeout);
}

/// Whether a reset could cut no reply any more.
pub fn is_safe(socket: BorrowedFd<'_>) -> bool {
    socket::unread(socket) == 0 && socket::unsent(socket) == 0
}

/// Apart, so that a worker which never waits has no room on its stack for what it drops.
#[cold]
#[inline(never)]
fn await_close(socket: BorrowedFd<'_>, idle_timeout: Option<Duration>) {
    let until = Moment::now() + idle_timeout.map_or(LONGEST, |longest| longest.min(LONGEST));
    let mut left = MOST_BYTES;
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
    while left > 0 && !handler::is_alarmed() {
        let time = until - Moment::now();
        if time.is_zero() {
            return;
        }
        let mut chunk = [0; CHUNK_BYTES];
        match recv(socket.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return,
            Ok(count) => left = left.saturating_sub(count),
            Err(Errno::EAGAIN) => {
                // A signal ends this wait; the loop looks which.
                let mut sent = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                let _ = ppoll(&mut sent, Some(TimeSpec::from(time)), None);
            }
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
