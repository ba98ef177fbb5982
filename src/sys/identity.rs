//! What a process is to the kernel: priority, environment, privacy, terminal.
//!
//! nix's safe wrappers set the user and the groups; this file has the rest.

use std::convert::Infallible;
use std::ffi::{CString, c_char};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::prctl;
use nix::sys::stat::Mode;

use super::fork::{Alone, Children};
use super::unshared::Unshared;

/// Sets the nice value of this process (setpriority(2)), -20 to 19.
pub fn set_nice(value: i32) -> io::Result<()> {
    // SAFETY: three integers; who 0 is the calling process.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) })
        .map(drop)
        .map_err(io::Error::from)
}

/// Who may look into a process, by /proc/PID or a debugger (PR_SET_DUMPABLE of
/// prctl(2)). A process can dump core only if its user may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// Only root.
    Closed,
    /// Root, and processes of the same user.
    Open,
}

/// Sets who may look into this process. The children that it forks inherit this; a program
/// that it executes is open again.
///
/// A change of the user resets this, so it must be set again afterwards
/// (/proc/sys/fs/suid_dumpable).
pub fn set_privacy(privacy: Privacy) -> io::Result<()> {
    Ok(prctl::set_dumpable(privacy == Privacy::Open)?)
}

/// Sets how readily the kernel kills this process when memory is short.
pub fn set_oom_score_adj(score: i32) -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let score = score.to_string();
    match fs::write(FILE, &score) {
        // The files of a closed process belong to root.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            set_privacy(Privacy::Open)?;
            let written = fs::write(FILE, &score);
            set_privacy(Privacy::Closed)?;
            written
        }
        written => written,
    }
}

/// Whether a process has a controlling terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// Neither the process nor the children that it forks have one.
    Absent,
    /// The process has one, or there is no way to find out.
    Possible,
}

impl Terminal {
    /// Looks for the terminal of this process. The kernel never waits in the open of this
    /// file.
    pub fn look() -> Terminal {
        match open_terminal() {
            Err(Errno::ENXIO) => Terminal::Absent,
            _ => Terminal::Possible,
        }
    }

    /// Gives the terminal up, for this process and all that it starts. None of them can put
    /// keystrokes into it (TIOCSTI) or get its signals. A process that leads no session
    /// does not get a terminal back by opening one (tty_ioctl(4), TIOCNOTTY).
    ///
    /// A session of its own would do, too. But where the scheduler groups by session, it
    /// costs up to a hundred microseconds, and memory for each processor (sched(7),
    /// autogroup).
    pub fn leave(self) -> io::Result<()> {
        if self == Terminal::Absent {
            return Ok(());
        }
        let left = match open_terminal() {
            Err(Errno::ENXIO) => return Ok(()),
            // SAFETY: TIOCNOTTY has no argument.
            Ok(terminal) => unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) },
            Err(_) => -1,
        };
        if left < 0 {
            // This system has no such file. A new session has no terminal.
            nix::unistd::setsid()?;
        }
        Ok(())
    }
}

fn open_terminal() -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(c"/dev/tty", flags, Mode::empty())
}

/// An environment of `NAME=value` entries, ready to become that of the process.
///
/// The environment is built once, before any fork. Only the children of its pool have it.
pub struct Environment {
    /// Pointers to the entries, a null pointer, and the entries.
    block: Unshared,
}

impl Environment {
    /// The environment of these entries.
    pub fn new(entries: &[CString]) -> io::Result<Self> {
        const POINTER_BYTES: usize = size_of::<*mut c_char>();
        let texts = (entries.len() + 1) * POINTER_BYTES;
        let length = entries.iter().map(|entry| entry.as_bytes_with_nul().len()).sum::<usize>();
        let mut block = Unshared::zeroes(texts + length)?;
        let start = block.start().as_ptr() as usize;
        let mut at = texts;
        for (index, entry) in entries.iter().enumerate() {
            let text = entry.as_bytes_with_nul();
            let pointer = (start + at).to_ne_bytes();
            block[index * POINTER_BYTES..][..POINTER_BYTES].copy_from_slice(&pointer);
            block[at..][..text.len()].copy_from_slice(text);
            at += text.len();
        }
        Ok(Environment { block })
    }

    /// Forks children in a row with this environment,
    /// [`LONGEST_ROW`](super::fork::LONGEST_ROW) at most. Each of them runs `life`, which
    /// gets the child's place in the row.
    ///
    /// # Errors
    ///
    /// There are threads, or there is no memory to hand the environment over: then there is
    /// no child.
    pub fn fork_row(
        &self,
        count: usize,
        life: impl FnOnce(usize) -> Infallible,
    ) -> io::Result<Children> {
        let alone = Alone::check()?;
        self.block.share()?;
        // During the row the parent has this environment, too (environ(7)). If each child
        // set it for itself, each would copy a page of the C library.
        // SAFETY: there is one thread, which only forks until the old value is back. A child
        // keeps the new value and borrows `self` all its life, so the array stays. If the C
        // library extends the environment, it first copies an array that it did not allocate
        // itself.
        let before = unsafe { ptr::replace(&raw mut environ, self.block.start().as_ptr().cast()) };
        let children = alone.fork_row(count, life);
        // SAFETY: see above.
        unsafe { environ = before };
        self.block.unshare();
        Ok(children)
    }
}

unsafe extern "C" {
    static mut environ: *mut *mut c_char;
}
