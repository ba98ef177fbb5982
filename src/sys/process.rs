//! A handle on a process that is not a child of ours: another process may get its number.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// A process, whichever process gets its number later (pidfd_open(2)).
pub struct Process(OwnedFd);

impl Process {
    /// The process that has this number now.
    pub fn open(pid: Pid) -> nix::Result<Self> {
        // SAFETY: two integers; the kernel makes a new descriptor, with close-on-exec.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
        let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
        // SAFETY: pidfd_open has just made it, and nobody else owns it.
        Ok(Process(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends it a signal (pidfd_send_signal(2)).
    pub fn signal(&self, signal: Signal) -> nix::Result<()> {
        let info = ptr::null::<libc::siginfo_t>();
        // SAFETY: a null pointer stands for the data on the sender that kill(2) would give.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                info,
                0,
            )
        };
        Errno::result(done).map(drop)
    }
}
