//! How long a line may wait for its reader. A reader that sleeps must stop neither
//! the supervisor nor a worker.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::sys::clock::Moment;

/// The patience that is left, in milliseconds.
static LEFT_MS: AtomicU16 = AtomicU16::new(0);

/// The patience of a master in one turn of its loop. With more patience, a slow reader of
/// the log would stop the supervisor.
pub const MASTER_MS: u16 = 50;
/// The patience of a worker in one connection. Only the worker's own client waits.
pub const WORKER_MS: u16 = 2_000;

/// Sets how long lines may wait from here on, all together.
pub fn renew(millis: u16) {
    LEFT_MS.store(millis, Relaxed);
}

/// Waits until a write is possible, as long as there is patience left.
pub(super) fn await_room(target: &OwnedFd) -> io::Result<()> {
    if has_room(target, 0)? {
        return Ok(());
    }
    let patience = LEFT_MS.load(Relaxed);
    let began = Moment::now();
    let has_room = has_room(target, patience)?;
    let waited = (Moment::now() - began).as_millis();
    LEFT_MS.store(patience.saturating_sub(u16::try_from(waited).unwrap_or(u16::MAX)), Relaxed);
    if has_room { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Whether a write is possible within this time.
pub(super) fn has_room(target: &OwnedFd, patience_ms: u16) -> io::Result<bool> {
    let mut room = [PollFd::new(target.as_fd(), PollFlags::POLLOUT)];
    loop {
        match poll(&mut room, patience_ms) {
            Ok(_) => return Ok(room[0].any() == Some(true)),
            // A signal to the worker. Each kind comes a few times at most.
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
