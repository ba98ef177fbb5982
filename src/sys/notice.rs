//! The notice that a worker is asked to leave, for code that waits for descriptors.
//!
//! A worker makes a notice when its service asks for one: most never do.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The descriptor of the attached notice plus one: 0 is none.
static ATTACHED: AtomicI32 = AtomicI32::new(0);

/// A descriptor that is readable once the notice was given (eventfd(2)).
pub struct Notice(EventFd);

impl Notice {
    /// A notice that was not given.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        EventFd::from_flags(flags).map(Notice).map_err(io::Error::from)
    }

    /// From now on the signal handlers of the process give it.
    pub fn attach(&self) {
        ATTACHED.store(self.0.as_fd().as_raw_fd() + 1, SeqCst);
    }

    /// Gives the notice. Once is enough; more often does no harm.
    pub fn give(&self) {
        give(self.0.as_fd().as_raw_fd());
    }
}

impl AsFd for Notice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        // Its number may soon mean another file.
        let number = self.0.as_fd().as_raw_fd() + 1;
        let _ = ATTACHED.compare_exchange(number, 0, SeqCst, SeqCst);
    }
}

/// Gives the notice that is attached, if there is one. It is async-signal-safe.
pub(super) fn give_attached() {
    match ATTACHED.load(SeqCst) {
        0 => {}
        number => give(number - 1),
    }
}

fn give(number: i32) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is 8 bytes that live here; write is async-signal-safe. The
    // descriptor is open, for it is forgotten before it closes. A write can only fail if
    // the counter is full, and then the notice was given.
    unsafe { libc::write(number, one.as_ptr().cast(), one.len()) };
}
