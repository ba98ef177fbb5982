//! fork(2), and the one way out of a forked child.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, Pid};

/// How many children [`Alone::fork_row`] makes at most.
pub const LONGEST_ROW: usize = 64;

/// The exit code of a process whose life ends with a panic (EX_SOFTWARE).
const PANICKED: u8 = 70;

/// Which of the two processes this is after a fork.
#[derive(Debug)]
pub enum Fork {
    /// The process that called; its new child is the pid.
    Parent(Pid),
    /// The new process.
    Child,
}

/// The children of a row, in order.
#[derive(Debug)]
pub struct Children {
    pids: [Pid; LONGEST_ROW],
    count: usize,
    failure: Option<Errno>,
}

impl Children {
    /// Their pids.
    pub fn pids(&self) -> &[Pid] {
        &self.pids[..self.count]
    }

    /// Why there are fewer children than were asked for: the error of fork(2).
    pub fn failure(&self) -> Option<io::Error> {
        self.failure.map(io::Error::from)
    }
}

/// The proof that this process has one thread. The holder of the proof makes no other.
pub(super) struct Alone(());

/// Makes a child process (fork(2)), after a check that this process has one
/// thread only.
///
/// # Errors
///
/// The error of fork(2), such as EAGAIN at a limit; or there are threads, or there is no
/// /proc to count them.
pub fn fork() -> io::Result<Fork> {
    Ok(Alone::check()?.fork()?)
}

impl Alone {
    /// Checks that there is one thread.
    ///
    /// # Errors
    ///
    /// There are others, or there is no /proc to count them.
    pub(super) fn check() -> io::Result<Alone> {
        match thread_count()? {
            1 => Ok(Alone(())),
            _ => Err(io::Error::other("the process has threads, which a fork would not copy")),
        }
    }

    /// Makes this many children in a row, [`LONGEST_ROW`] at most; a failure ends the row.
    /// Each child runs `life`, which gets the child's place in the row.
    ///
    /// Each page that the parent writes between two forks is copied, and the earlier child
    /// keeps the old page. So the parent writes only to its stack, where a child writes,
    /// too.
    #[inline(never)]
    pub(super) fn fork_row(
        &self,
        count: usize,
        life: impl FnOnce(usize) -> Infallible,
    ) -> Children {
        let mut row = Children { pids: [Pid::from_raw(0); LONGEST_ROW], count: 0, failure: None };
        while row.count < count.min(LONGEST_ROW) {
            match self.fork() {
                Ok(Fork::Parent(child)) => row.pids[row.count] = child,
                Ok(Fork::Child) => live(|| life(row.count)),
                Err(errno) => {
                    row.failure = Some(errno);
                    break;
                }
            }
            row.count += 1;
        }
        row
    }

    fn fork(&self) -> nix::Result<Fork> {
        // SAFETY: there is one thread, as `self` proves. In the child of a threaded
        // process every lock that another thread held would stay locked for ever, the
        // allocator's included.
        Ok(match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => Fork::Parent(child),
            ForkResult::Child => Fork::Child,
        })
    }
}

/// Runs `life` to its end; a panic ends the process, too. So everything that the caller has
/// borrowed stays borrowed as long as the process lives.
#[inline(always)]
fn live(life: impl FnOnce() -> Infallible) -> ! {
    struct Last;
    impl Drop for Last {
        fn drop(&mut self) {
            leave(PANICKED);
        }
    }
    let _last = Last;
    match life() {}
}

/// Checks that [`fork`] can work. A join returns a moment before the kernel has forgotten
/// the thread, so this looks more than once.
///
/// # Errors
///
/// There are threads, or there is no /proc to count them.
pub fn check() -> io::Result<()> {
    const LOOKS: usize = 1_000;
    for _ in 1..LOOKS {
        if Alone::check().is_ok() {
            return Ok(());
        }
        thread::yield_now();
    }
    Alone::check().map(drop)
}

/// How many threads this process has (proc(5): /proc/self/task holds a
/// directory for each, which the link count of a directory counts).
pub fn thread_count() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// Ends the process without running exit handlers or destructors (_exit(2)).
///
/// A forked child must leave like this. The exit handlers that its parent has registered
/// are the parent's, such as the removal of a socket file.
pub fn leave(code: u8) -> ! {
    // SAFETY: _exit takes any status and touches no memory of ours.
    unsafe { libc::_exit(i32::from(code)) }
}
