//! Descriptors across a fork: which stay, and at which number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

/// Closes every descriptor above 2 except those in `keep`, which are in ascending order
/// (close_range(2)).
///
/// This is for a child directly after its fork: its inherited descriptors belong to objects
/// of its parent that it never drops.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut first = 3;
    for &kept in keep.iter().filter(|&&fd| fd > 2) {
        if kept > first {
            close_range(first, kept - 1)?;
        }
        first = kept + 1;
    }
    close_range(first, RawFd::MAX)
}

/// Closes the descriptors above 2 that this process was started with, such as the lock of
/// the shell that called it. None of them may have been taken over by [`adopt`].
///
/// A descriptor that came through an exec has no close-on-exec flag. Descriptors that were
/// opened here have it, because Rust sets it, so they stay.
pub fn close_passed() -> io::Result<()> {
    let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|&number| number > 2) {
        // SAFETY: reading a flag needs only a number, and fails if it is closed.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: the descriptor was passed to this process, see above, so no object
            // owns it; the callers of this function adopt none of those.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: closing takes numbers only. The owners of these descriptors are
    // the parent's objects, and the caller is a child that never runs them.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(done).map(drop).map_err(io::Error::from)
}

/// Makes the number `target` mean what `source` means (dup3(2)).
///
/// One system call, so that at no moment the number is closed and could be reused.
pub fn replace(source: impl AsFd, target: RawFd) -> io::Result<()> {
    let flags = if target > 2 { libc::O_CLOEXEC } else { 0 };
    let source = source.as_fd().as_raw_fd();
    if source == target {
        return Ok(());
    }
    // SAFETY: dup3 takes numbers; the owner of the number `target` stays its owner, with
    // another file behind it.
    Errno::result(unsafe { libc::dup3(source, target, flags) }).map(drop).map_err(io::Error::from)
}

/// Closes a descriptor that this process inherited and whose owner is an
/// object of its parent, which this process never drops.
pub fn close_inherited(descriptor: BorrowedFd<'_>) {
    // SAFETY: see above; nobody in this process closes or uses it again, because the caller
    // is a forked child. Linux closes it whatever close returns.
    unsafe { libc::close(descriptor.as_raw_fd()) };
}

/// Takes over a descriptor that was passed to this process at its start, such
/// as those of sd_listen_fds(3).
pub fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: the parent process opened it for us to own and said so in the environment;
    // each number is adopted once.
    unsafe { OwnedFd::from_raw_fd(number) }
}
