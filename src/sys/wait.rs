//! Reaping: how a child ended, and what it used.

use std::fmt;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// How a process ended (WIFEXITED and WIFSIGNALED of wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It called exit with this code (WEXITSTATUS).
    Code(u8),
    /// A signal ended it (WTERMSIG, WCOREDUMP).
    Signal {
        /// The number of the signal; real-time signals have no name.
        number: i32,
        /// Whether a core was dumped.
        core_dumped: bool,
    },
}

impl Exit {
    /// Decodes the status word of wait(2). A stopped or continued process has
    /// not ended, and gives None.
    pub fn from_status(status: i32) -> Option<Exit> {
        if libc::WIFEXITED(status) {
            // WEXITSTATUS is eight bits by its definition.
            Some(Exit::Code(libc::WEXITSTATUS(status) as u8))
        } else if libc::WIFSIGNALED(status) {
            Some(Exit::Signal {
                number: libc::WTERMSIG(status),
                core_dumped: libc::WCOREDUMP(status),
            })
        } else {
            None
        }
    }
}

/// The name of the signal `number`, such as `SIGSEGV` or `SIGRTMIN+1`.
pub fn signal_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if number >= libc::SIGRTMIN() => format!("SIGRTMIN+{}", number - libc::SIGRTMIN()),
        Err(_) => format!("signal {number}"),
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal { number, core_dumped } => {
                let core = if core_dumped { ", core dumped" } else { "" };
                write!(f, "was killed by {}{core}", signal_name(number))
            }
        }
    }
}

/// What an ended process had used (getrusage(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, user and system, of the process and the children it waited for.
    pub cpu: Duration,
    /// The most resident memory at any time, in KiB.
    pub max_rss_kib: u64,
}

/// An ended child, taken out of the process table.
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    /// Who it was.
    pub pid: Pid,
    /// How it ended.
    pub exit: Exit,
    /// What it had used.
    pub usage: Usage,
}

/// An ended child that is still in the process table.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Who it was.
    pub pid: Pid,
    /// SIGKILL has ended it.
    pub by_sigkill: bool,
}

/// What a signal has done to a child that has not ended (WIFSTOPPED and WIFCONTINUED of
/// wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The child is halted.
    Suspended,
    /// It runs again.
    Resumed,
}

/// A change in a child's state.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// The child has ended, and stays in the process table until it is reaped. Until then
    /// no other process can get its pid or its process group's number.
    Ended(Ended),
    /// The child was suspended or resumed. The kernel reports this once.
    Halted(Pid, Halt),
}

/// Finds one child whose state has changed, if there is one.
///
/// Does not block (WNOHANG). SIGCHLD coalesces, so the caller repeats this until the result
/// is None. One call looks for all kinds of changes, because for each call the kernel
/// visits the children until it finds one.
pub fn changed_child() -> io::Result<Option<Fate>> {
    let all = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOWAIT;
    loop {
        let Some(info) = waitid(libc::P_ALL, 0, all)? else { return Ok(None) };
        let (pid, status, code) = info;
        let (halt, kind) = match code {
            libc::CLD_STOPPED | libc::CLD_TRAPPED => (Halt::Suspended, libc::WSTOPPED),
            libc::CLD_CONTINUED => (Halt::Resumed, libc::WCONTINUED),
            _ => {
                let by_sigkill = code == libc::CLD_KILLED && status == libc::SIGKILL;
                return Ok(Some(Fate::Ended(Ended { pid, by_sigkill })));
            }
        };
        // This takes the change, so that it is not found again. By now it may be another
        // change.
        if waitid(libc::P_PID, pid.as_raw() as libc::id_t, kind)?.is_some() {
            return Ok(Some(Fate::Halted(pid, halt)));
        }
    }
}

/// waitid(2) without waiting: the pid, the status and the code of the child that was found.
fn waitid(
    kind: libc::idtype_t,
    id: libc::id_t,
    options: i32,
) -> io::Result<Option<(Pid, i32, i32)>> {
    // SAFETY: siginfo_t is plain data, for which all zeroes is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the pointer is to a live, writable local of the right type. The wrapper
        // of nix fails if a real-time signal has ended the child.
        match Errno::result(unsafe { libc::waitid(kind, id, &mut info, options | libc::WNOHANG) }) {
            Ok(_) => {
                // SAFETY: waitid filled in the fields of SIGCHLD, or left zeroes
                // (waitid(2)).
                let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
                return Ok((pid != 0).then(|| (Pid::from_raw(pid), status, info.si_code)));
            }
            Err(Errno::ECHILD) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Finds a child that has ended, which stays in the process table. Does not block.
pub fn ended_child() -> io::Result<Option<Pid>> {
    let found = waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOWAIT)?;
    Ok(found.map(|(pid, ..)| pid))
}

/// Whether this process has a child that is not reaped yet.
pub fn has_children() -> bool {
    look(libc::P_ALL, 0) != Err(Errno::ECHILD)
}

/// Whether a child of this process that is not reaped yet is in this process group. Then no
/// other group has its number.
pub fn has_children_in(group: Pid) -> bool {
    libc::id_t::try_from(group.as_raw()).is_ok_and(|id| look(libc::P_PGID, id).is_ok())
}

/// Whether a process is a child of this one that is not reaped yet (waitid(2)). Then no
/// other process has its number.
pub fn is_child(pid: Pid) -> bool {
    libc::id_t::try_from(pid.as_raw()).is_ok_and(|id| look(libc::P_PID, id).is_ok())
}

/// Looks whether there are such children, and changes nothing.
fn look(kind: libc::idtype_t, id: libc::id_t) -> nix::Result<()> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: siginfo_t is plain data, for which all zeroes is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable local of the right type.
    Errno::result(unsafe { libc::waitid(kind, id, &mut info, options) }).map(drop)
}

/// Waits for the end of the child `pid` and takes it out of the process table.
pub fn reap(pid: Pid) -> io::Result<Reaped> {
    loop {
        match wait4(pid.as_raw(), 0) {
            Ok(Some((pid, status, usage))) => {
                if let Some(exit) = Exit::from_status(status) {
                    return Ok(Reaped { pid, exit, usage });
                }
            }
            Ok(None) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// wait4(2), which nix does not wrap: the only wait that also gives the usage
/// of just this child.
fn wait4(pid: libc::pid_t, options: i32) -> nix::Result<Option<(Pid, i32, Usage)>> {
    let mut status = 0;
    // SAFETY: rusage is integers only, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live, writable locals of the right types.
    let pid = Errno::result(unsafe { libc::wait4(pid, &mut status, options, &mut usage) })?;
    Ok((pid > 0).then(|| (Pid::from_raw(pid), status, Usage::from(usage))))
}

impl From<libc::rusage> for Usage {
    fn from(usage: libc::rusage) -> Self {
        let span = |time: libc::timeval| {
            Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
                + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
        };
        Usage {
            cpu: span(usage.ru_utime) + span(usage.ru_stime),
            max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_word_is_decoded() {
        assert_eq!(Exit::from_status(0), Some(Exit::Code(0)));
        assert_eq!(Exit::from_status(78 << 8), Some(Exit::Code(78)));
        assert_eq!(Exit::from_status(9), Some(Exit::Signal { number: 9, core_dumped: false }));
        assert_eq!(
            Exit::from_status(0x80 | 11),
            Some(Exit::Signal { number: 11, core_dumped: true })
        );
        assert_eq!(Exit::from_status(0x137f), None, "stopped");
        assert_eq!(Exit::from_status(0xffff), None, "continued");
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_name(libc::SIGSEGV), "SIGSEGV");
        assert_eq!(signal_name(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
    }
}
