//! Processes as the kernel shows them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The line of a process in the process table.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub name: String,
    /// `Z` is a zombie.
    pub state: char,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Processor time used, in clock ticks.
    pub ticks: u64,
}

impl Process {
    pub fn of(pid: i32) -> Option<Self> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, parentheses included.
        let (head, tail) = line.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let words: Vec<_> = tail.split_whitespace().collect();
        let number = |index: usize| words.get(index)?.parse::<i32>().ok();
        let ticks = |index: usize| words.get(index)?.parse::<u64>().ok();
        Some(Process {
            pid,
            name: name.to_owned(),
            state: words.first()?.chars().next()?,
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            ticks: ticks(11)? + ticks(12)?,
        })
    }

    pub fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }

    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// Every process that fits.
pub fn processes(fits: impl Fn(&Process) -> bool) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::of)
        .filter(|process| fits(process))
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// The pids of the children of `pid`, every one that is there all the while: what
/// [`children`] reads leaves some out when others end meanwhile (proc_pid_children(5)).
pub fn all_children(pid: i32) -> Vec<i32> {
    processes(|process| process.parent == pid).iter().map(|process| process.pid).collect()
}

/// The children of `pid`, zombies included.
pub fn children(pid: i32) -> Vec<Process> {
    // A kernel without this file, or a process that ended: look at all.
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(text) => {
            let mut found: Vec<_> = text
                .split_whitespace()
                .filter_map(|word| Process::of(word.parse().ok()?))
                // It may have ended meanwhile, and its number may be another's.
                .filter(|process| process.parent == pid)
                .collect();
            found.sort_by_key(|process| process.pid);
            found
        }
        Err(_) => processes(|process| process.parent == pid),
    }
}

pub fn is_alive(pid: i32) -> bool {
    Process::of(pid).is_some_and(|process| process.is_alive())
}

/// The number of the system call that the process sleeps in.
pub fn system_call(pid: i32) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Whether a worker sleeps in accept. Only root may see that of a worker. Another user sees
/// that the worker sleeps, and that it is settled.
pub fn is_in_accept(pid: i32) -> bool {
    match system_call(pid) {
        Some(number) => number == libc::SYS_accept4,
        None => Process::of(pid).is_some_and(|process| process.state == 'S') && is_settled(pid),
    }
}

/// Whether a worker is about to accept, or does: it blocks no signal any more. It
/// reports that it accepts after this, and before it is in the call.
pub fn is_settled(pid: i32) -> bool {
    status(pid, "SigBlk").is_some_and(|mask| mask.chars().all(|digit| digit == '0'))
}

/// Whether a process waits in ppoll. Only root may see that of a master. Another user sees
/// that the master sleeps, and blocks no signal, as only there.
pub fn is_in_ppoll(pid: i32) -> bool {
    match system_call(pid) {
        Some(number) => number == libc::SYS_ppoll,
        None => Process::of(pid).is_some_and(|process| process.state == 'S') && is_settled(pid),
    }
}

/// A value in `/proc/PID/status`.
pub fn status(pid: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == key).then(|| value.trim().to_owned())
    })
}

/// The process's number in its own PID namespace.
pub fn inner_pid(pid: i32) -> Option<i32> {
    status(pid, "NSpid")?.split_whitespace().last()?.parse().ok()
}

/// How often the process was taken off a processor.
pub fn context_switches(pid: i32) -> Option<u64> {
    let count = |key| status(pid, key)?.parse::<u64>().ok();
    Some(count("voluntary_ctxt_switches")? + count("nonvoluntary_ctxt_switches")?)
}

/// The masks of blocked, ignored and handled signals.
pub fn signal_masks(pid: i32) -> Vec<(&'static str, String)> {
    ["SigBlk", "SigIgn", "SigCgt"]
        .into_iter()
        .map(|key| (key, status(pid, key).unwrap_or_default()))
        .collect()
}

/// Every descriptor and what it is of.
pub fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some((number, target.display().to_string()))
        })
        .collect()
}

/// The inode of the socket that listens at a TCP address on IPv4, as
/// `/proc/PID/fd` writes it.
pub fn listener(address: std::net::SocketAddr) -> Option<String> {
    let local = in_hex(address)?;
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_it = words.get(1) == Some(&local.as_str()) && words.get(3) == Some(&LISTEN);
        is_it.then(|| words.get(9).map(|inode| format!("socket:[{inode}]")))?
    })
}

/// An address as /proc/net/tcp writes it: as the kernel holds it, and the port in
/// plain hexadecimal.
fn in_hex(address: std::net::SocketAddr) -> Option<String> {
    let std::net::SocketAddr::V4(address) = address else {
        return None;
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{ip:08X}:{:04X}", address.port()))
}

/// The timer that runs for the connection from `local` to `remote`, on IPv4, as the
/// kernel numbers them in /proc/net/tcp (proc_net(5)).
pub fn tcp_timer(local: std::net::SocketAddr, remote: std::net::SocketAddr) -> Option<String> {
    let ends = [in_hex(local)?, in_hex(remote)?];
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_it = words.get(1..3)? == ends;
        is_it.then(|| words.get(5)?.split_once(':').map(|(timer, _)| timer.to_owned()))?
    })
}

#[track_caller]
pub fn send(pid: i32, signal: Signal) {
    assert!(pid > 1, "no signal to process {pid}");
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
}

/// Sends to a process that may be gone already.
pub fn send_if_there(pid: i32, signal: Signal) {
    assert!(pid > 1, "no signal to process {pid}");
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Whether the process has the reading end of a pipe, as the master has while a process
/// reads the configuration for it. Standard input does not count. Only root may see that.
/// Another user looks for that process.
pub fn reads_a_pipe(pid: i32) -> bool {
    if !super::is_root() {
        let reads = |child: &Process| child.name == "preforkd-reload";
        return children(pid).iter().any(reads);
    }
    let is_pipe = |target: &str| target.starts_with("pipe:");
    let pipes = descriptors(pid).into_iter().filter(|(fd, target)| *fd > 2 && is_pipe(target));
    let reads = |fd: i32| {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
        Some(flags & nix::libc::O_ACCMODE == nix::libc::O_RDONLY)
    };
    pipes.map(|(fd, _)| fd).any(|fd| reads(fd) == Some(true))
}

/// Sets the soft limit of `resource` (as in prlimit(1)) for another process,
/// and gives the one before.
///
/// The program does it, as the `user` of that process: without CAP_SYS_RESOURCE
/// even root may not set the limits of another user.
#[track_caller]
pub fn limit(pid: i32, user: Option<u32>, resource: &str, soft: &str) -> String {
    let run = |arguments: &[String]| {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &pid.to_string()]).args(arguments);
        if let Some(id) = user {
            command.uid(id).gid(id);
        }
        let output = command.output().expect("run prlimit");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };
    let old = run(&[
        format!("--{resource}"),
        "--noheadings".into(),
        "--raw".into(),
        "--output=SOFT".into(),
    ]);
    run(&[format!("--{resource}={soft}:")]);
    old
}

/// The process table, for a test that failed.
pub fn table(processes: &[Process]) -> String {
    let mut text = String::from("    PID  PARENT SESSION  STATE SYSCALL NAME\n");
    for process in processes {
        let call = system_call(process.pid).map_or_else(|| "-".to_owned(), |call| call.to_string());
        let _ = writeln!(
            text,
            "{:>7} {:>7} {:>7} {:>6} {:>7} {}",
            process.pid, process.parent, process.session, process.state, call, process.name
        );
    }
    text
}
