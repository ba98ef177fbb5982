//! System calls of a running process that fail on request, by strace(1).

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use support::{is_root, procfs, provided, until};

/// A fault: the call with this name fails at its n-th time in a process.
#[derive(Clone, Debug)]
pub struct Fault {
    pub call: String,
    pub errno: &'static str,
    pub when: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { call, errno, when } = self;
        write!(f, "inject={call}:error={errno}:when={when}")
    }
}

/// Which processes are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The process itself.
    Itself,
    /// Its children too, and theirs.
    Descendants,
}

/// Whether strace may trace a process that it has not started.
#[track_caller]
pub fn can_attach() -> bool {
    let is_there = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    provided(is_root() && is_there.is_ok_and(|status| status.success()), "strace, as root")
}

/// A strace at work.
pub struct Trace {
    strace: Child,
    output: PathBuf,
}

impl Trace {
    /// Traces the process `pid` from here on, and writes to `output`. A fault is met by
    /// each of the traced processes.
    #[track_caller]
    pub fn attach(pid: i32, whom: Whom, output: PathBuf, fault: Option<&Fault>) -> Self {
        let mut command = Command::new("strace");
        command.args(["-qq", "-p", &pid.to_string()]).arg("-o").arg(&output);
        if whom == Whom::Descendants {
            command.arg("-f");
        }
        if let Some(fault) = fault {
            command.args(["-e", &fault.to_string()]);
        }
        let strace = command.stderr(Stdio::null()).spawn().expect("run strace");
        let is_traced = || procfs::status(pid, "TracerPid").is_some_and(|tracer| tracer != "0");
        until("strace has attached itself", || is_traced().then_some(()));
        Trace { strace, output }
    }

    /// Lets the processes go on by themselves.
    #[track_caller]
    pub fn detach(&mut self) {
        procfs::send_if_there(self.strace.id() as i32, Signal::SIGTERM);
        until("strace has gone", || self.strace.try_wait().expect("wait for strace"));
    }

    /// What was traced so far, a call a line, in this form: the process, or 0 if there
    /// is one only, and the rest of the line.
    pub fn lines(&self) -> Vec<(i32, String)> {
        let text = fs::read(&self.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let split = |line: &str| match line.split_once(' ') {
            Some((pid, rest)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => {
                (pid.parse().unwrap_or_default(), rest.trim_start().to_owned())
            }
            _ => (0, line.to_owned()),
        };
        text.lines().map(split).collect()
    }

    /// The processes that have met the fault.
    pub fn victims(&self) -> Vec<i32> {
        let mut lines = self.lines();
        lines.retain(|(_, line)| line.contains("(INJECTED)"));
        lines.into_iter().map(|(pid, _)| pid).collect()
    }

    /// How often the process made each call.
    pub fn counts(&self, pid: i32) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (_, line) in self.lines().iter().filter(|(of, _)| *of == pid) {
            let Some((name, _)) = line.split_once('(') else { continue };
            // An old strace has but a number for a new call, and cannot make it fail.
            let is_known = !name.starts_with("syscall_0x");
            if is_known && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                *counts.entry(name.to_owned()).or_default() += 1;
            }
        }
        counts
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Every fault that can hit a process that makes these calls.
pub fn all_faults(counts: &BTreeMap<String, usize>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (call, &count) in counts {
        for &errno in errors_of(call) {
            faults.extend((1..=count).map(|when| Fault { call: call.clone(), errno, when }));
        }
    }
    faults
}

/// What may become of a call on a machine that works as the manual says.
fn errors_of(call: &str) -> &'static [&'static str] {
    match call {
        // They fail for a process with a bug alone, or not at all.
        "arch_prctl" | "exit" | "exit_group" | "getegid" | "geteuid" | "getgid" | "getpid"
        | "getppid" | "gettid" | "getuid" | "munmap" | "restart_syscall" | "rseq"
        | "rt_sigaction" | "rt_sigprocmask" | "rt_sigreturn" | "set_robust_list"
        | "set_tid_address" | "sigaltstack" | "umask" | "uname" => &[],
        // To unlock a file cannot fail, and a file that somebody else has locked is not
        // what a reload meets.
        "flock" => &[],
        // What Linux closes is closed, whatever it says, and strace would not close it.
        "close" | "close_range" => &[],
        // Nothing is left to a program of Rust that gets no memory.
        "brk" | "madvise" | "mmap" | "mprotect" | "mremap" => &[],
        "accept4" => &["ECONNABORTED", "EMFILE", "ENOMEM"],
        "bind" => &["EADDRINUSE", "ENOMEM"],
        "clone" | "clone3" | "fork" | "vfork" => &["EAGAIN", "ENOMEM"],
        "connect" => &["ECONNREFUSED", "EAGAIN"],
        "dup" | "dup2" | "dup3" | "fcntl" => &["EMFILE", "EINTR"],
        "eventfd2" | "inotify_init1" | "memfd_create" | "pidfd_open" | "pipe2" | "socket"
        | "socketpair" | "timerfd_create" => &["EMFILE", "ENFILE", "ENOMEM"],
        "execve" => &["ENOMEM", "ETXTBSY"],
        "ftruncate" => &["EINTR", "EIO"],
        "getdents64" | "getcwd" | "lseek" | "readlink" | "statx" | "newfstatat" | "fstat"
        | "access" | "faccessat2" => &["EACCES", "EIO", "ENOMEM"],
        // Who is signalled is a child that is not reaped: it is there.
        "kill" | "pidfd_send_signal" => &[],
        "mkdir" | "chmod" | "fchmod" | "fchmodat" | "chown" | "fchown" | "fchownat" | "rename"
        | "renameat2" | "unlink" | "unlinkat" => &["EACCES", "EIO", "EROFS"],
        "open" | "openat" | "openat2" => &["EACCES", "EMFILE", "ENFILE", "ENOMEM"],
        "poll" | "ppoll" => &["EINTR", "ENOMEM"],
        // The scoreboard, which is memory.
        "pread64" | "pwrite64" => &[],
        "read" | "readv" => &["EINTR", "EIO", "ENOMEM"],
        "recvfrom" | "recvmsg" => &["EINTR", "ECONNRESET", "ENOMEM"],
        "sendmsg" | "sendto" => &["EAGAIN", "ENOBUFS", "EPIPE"],
        "setgroups" | "setresgid" | "setresuid" | "setsid" | "setpgid" | "setpriority" => {
            &["EPERM", "EAGAIN"]
        }
        "shutdown" => &["ENOTCONN"],
        "splice" | "sendfile" | "copy_file_range" => &["EINTR", "EIO", "ECONNRESET"],
        "wait4" | "waitid" => &["EINTR"],
        "write" | "writev" => &["EAGAIN", "EINTR", "EIO", "ENOSPC"],
        // ioctl, listen, prctl, prlimit64, setsockopt and what comes to be used.
        _ => &["ENOMEM"],
    }
}
