//! Descriptors across a fork: which stay, and at which number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

/// Closes every descriptor above 2 but those in `keep`, which are in ascending order
/// (close_range(2)).
///
/// This is for a child that just came out of fork: what it inherited belongs
/// to objects of its parent that it never drops.
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

/// Closes what this process was started with above 2, such as the lock of the
/// shell that called it. Nothing of that may have been taken over by [`adopt`].
///
/// A descriptor that came through an exec is one that no exec closes; those that
/// were opened here are closed by one, for Rust opens them so, and stay.
pub fn close_passed() -> io::Result<()> {
    let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|&number| number > 2) {
        // SAFETY: reading a flag takes a number only, and says if it is closed.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: it was passed to this process, see above, so that no object
            // owns it; what is passed is not adopted where this is called.
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
/// One system call, so that no moment exists in which the number means
/// nothing or, in another process's eyes, something else.
pub fn replace(source: impl AsFd, target: RawFd) -> io::Result<()> {
    let flags = if target > 2 { libc::O_CLOEXEC } else { 0 };
    let source = source.as_fd().as_raw_fd();
    if source == target {
        return Ok(());
    }
    // SAFETY: dup3 takes numbers; whoever owns the number `target` goes on
    // owning it, with another file behind it.
    Errno::result(unsafe { libc::dup3(source, target, flags) }).map(drop).map_err(io::Error::from)
}

/// Closes a descriptor that this process inherited and whose owner is an
/// object of its parent, which this process never drops.
pub fn close_inherited(descriptor: BorrowedFd<'_>) {
    // SAFETY: see above; nobody in this process closes or uses it again, as
    // the caller promises by its being a forked child. Linux closes it whatever
    // close returns.
    unsafe { libc::close(descriptor.as_raw_fd()) };
}

/// Takes over a descriptor that was passed to this process at its start, such
/// as those of sd_listen_fds(3).
pub fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: whoever started the process opened it for us to own and said so
    // in the environment; each number is adopted once.
    unsafe { OwnedFd::from_raw_fd(number) }
}
