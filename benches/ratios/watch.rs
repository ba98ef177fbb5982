//! What /proc and the clocks tell of a process from outside, without asking it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

/// The children of `parent` (which has one thread), oldest first.
pub fn children(parent: Pid) -> io::Result<Vec<Pid>> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    Ok(list
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .map(Pid::from_raw)
        .collect())
}

/// Whether `process` sleeps in `accept`. One that has just gone does not.
pub fn accepts(process: Pid) -> bool {
    let Ok(call) = fs::read_to_string(format!("/proc/{process}/syscall")) else {
        return false;
    };
    let number = call.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
    matches!(number, Some(libc::SYS_accept4 | libc::SYS_accept))
}

/// The CPU time that the processes have used, in nanoseconds: the processes' own clocks,
/// since /proc/PID/stat counts ticks of ten milliseconds.
pub fn cpu_time(processes: &[Pid]) -> io::Result<Duration> {
    processes.iter().map(|process| process_clock(*process)).sum()
}

/// The CPU time of this process, every thread of it.
pub fn own_cpu_time() -> io::Result<Duration> {
    process_clock(Pid::this())
}

fn process_clock(process: Pid) -> io::Result<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write only through their last argument, which is a live local.
    let failed = unsafe {
        match libc::clock_getcpuclockid(process.as_raw(), &raw mut clock) {
            0 => Errno::result(libc::clock_gettime(clock, &raw mut time)).err(),
            errno => Some(Errno::from_raw(errno)),
        }
    };
    match failed {
        None => Ok(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)),
        Some(errno) => Err(errno.into()),
    }
}

/// The memory in KiB that only `process` maps: what would come free if it ended.
pub fn private_kib(process: Pid) -> io::Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    Ok(field_kib(&path, "Private_Clean:")? + field_kib(&path, "Private_Dirty:")?)
}

/// The resident set of `process` in KiB.
pub fn resident_kib(process: Pid) -> io::Result<u64> {
    field_kib(&format!("/proc/{process}/status"), "VmRSS:")
}

/// How often `process` has gone to sleep.
pub fn sleeps(process: Pid) -> io::Result<u64> {
    field(&format!("/proc/{process}/status"), "voluntary_ctxt_switches:", "")
}

fn field_kib(path: &str, name: &str) -> io::Result<u64> {
    field(path, name, " kB")
}

fn field(path: &str, name: &str, unit: &str) -> io::Result<u64> {
    fs::read_to_string(path)?
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(unit)?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("could not read field \"{name}\" of \"{path}\"")))
}

/// A handle on a process by which one can wait for its end, though it is nobody's child here.
pub struct Watched(OwnedFd);

impl Watched {
    /// Takes hold of `process`, which is alive.
    pub fn new(process: Pid) -> io::Result<Watched> {
        // SAFETY: pidfd_open(2) takes two integers; its result is a new descriptor that
        // nobody else owns.
        unsafe {
            let pidfd = Errno::result(libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0))?;
            Ok(Watched(OwnedFd::from_raw_fd(pidfd as libc::c_int)))
        }
    }

    /// Waits until the process is dead and its descriptors are closed, `patience` at most;
    /// false if the process is still alive.
    pub fn ends_within(&self, patience: Duration) -> io::Result<bool> {
        let mut end = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        Ok(poll(&mut end, patience)? > 0)
    }
}
