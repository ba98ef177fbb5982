//! fork(2), and the one way out of a forked child.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::thread;

use nix::libc;
use nix::unistd::{ForkResult, Pid};

/// Which of the two processes this is after a fork.
#[derive(Debug)]
pub enum Fork {
    /// The process that called; its new child is the pid.
    Parent(Pid),
    /// The new process.
    Child(Newborn),
}

/// The proof that a process is a child fresh from its fork, with one thread.
#[derive(Debug)]
pub struct Newborn(());

/// Makes a child process (fork(2)), after a check that this process has one
/// thread only.
///
/// # Errors
///
/// That of fork(2), such as EAGAIN at a limit; or there are threads, or /proc
/// is not there to tell.
pub fn fork() -> io::Result<Fork> {
    check_threads()?;
    // SAFETY: there is one thread, this one, and it makes no other until here.
    unsafe { fork_unchecked() }
}

/// Makes a child process (fork(2)).
///
/// # Safety
///
/// The calling process must have one thread only. In the child of a threaded
/// process every lock that another thread held stays locked for ever, the
/// allocator's included.
unsafe fn fork_unchecked() -> io::Result<Fork> {
    // SAFETY: fork's contract is the one thread, which our caller promises.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child(Newborn(()))),
    }
}

/// Whether [`fork`] will not always fail. Whoever has joined a thread goes on a moment
/// before the kernel has forgotten it, so this looks more than once.
///
/// # Errors
///
/// There are threads, or /proc is not there to tell.
pub fn check() -> io::Result<()> {
    const LOOKS: usize = 1_000;
    for _ in 1..LOOKS {
        if check_threads().is_ok() {
            return Ok(());
        }
        thread::yield_now();
    }
    check_threads()
}

fn check_threads() -> io::Result<()> {
    match thread_count()? {
        1 => Ok(()),
        _ => Err(io::Error::other("the process has threads, which a fork would not copy")),
    }
}

/// How many threads this process has (proc(5): /proc/self/task holds a
/// directory for each, which the link count of a directory counts).
pub fn thread_count() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// Ends the process without running exit handlers or destructors (_exit(2)).
///
/// A forked child must leave like this: what its parent registered to run at
/// exit is the parent's, such as removing a socket file.
pub fn leave(code: u8) -> ! {
    // SAFETY: _exit takes any status and touches no memory of ours.
    unsafe { libc::_exit(i32::from(code)) }
}
