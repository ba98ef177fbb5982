//! Families of processes: who was started by whom, and for which connection.
//!
//! The parent of a process tells that only as long as it lives. So what is started for a
//! connection also carries a mark, which children inherit and an exec, another user or
//! another session does not take away: the soft limit RLIMIT_LOCKS, which no Linux since
//! 2.4.25 enforces (getrlimit(2)). A mark is a hint that any process can change for itself.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid, getpgrp, getpid};

use super::handler;
use super::process::Process;
use super::wait::is_child;

/// How many processes of a connection are looked for. A connection that has more is beyond
/// the limits of its worker.
const MOST_PROCESSES: usize = 4096;

/// How often a family is listed until nothing is new: a member that was just stopped may
/// have made one child more.
const MOST_ROUNDS: usize = 5;

/// The connection that a process was started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    /// That of a worker's connection with this number.
    pub fn of(worker: Pid, serial: u64) -> Self {
        Mark(u64::from(worker.as_raw().unsigned_abs()) << 32 | serial & u64::from(u32::MAX))
    }

    /// The limit that says so; the hard limit stays.
    pub(super) fn as_limit(self, hard: libc::rlim_t) -> libc::rlimit {
        libc::rlimit { rlim_cur: self.0 as libc::rlim_t, rlim_max: hard }
    }

    /// The mark of a process, which may have ended but is not reaped (proc_pid_limits(5)).
    pub fn on(pid: Pid) -> Option<Self> {
        if !is_proc_ours() {
            return None;
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        let locks = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
        locks.split_whitespace().next()?.parse().ok().map(Mark)
    }
}

/// The hard limit of what carries a mark.
pub(super) fn hard_limit() -> libc::rlim_t {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live, writable local of the right type.
    unsafe { libc::getrlimit(libc::RLIMIT_LOCKS, &raw mut limit) };
    limit.rlim_max
}

/// A process and its parent, at the time of a look.
type Member = (Pid, Pid);

/// The leftovers here, which are no processes of the daemon itself: the children of this
/// process that are not in its own process group. The leader of a program never is in that
/// group.
pub fn strangers() -> Vec<Pid> {
    strangers_of(getpid())
}

/// The same for another process of our group.
fn strangers_of(parent: Pid) -> Vec<Pid> {
    let own = getpgrp();
    children(parent).into_iter().filter(|&pid| getpgid(Some(pid)) != Ok(own)).collect()
}

/// Processes with all that they have started, parents first.
#[derive(Default)]
pub struct Family {
    members: Vec<Pid>,
    /// The members and the processes that adopt their orphans.
    parents: HashSet<Pid>,
}

impl Family {
    /// These processes and their descendants.
    fn of(eldest: impl IntoIterator<Item = Member>) -> Self {
        let mut family = Family::default();
        family.extend(eldest.into_iter().collect(), |_, _| ());
        family
    }

    /// The leftovers here that `fits` admits, with their descendants.
    pub fn of_strangers(fits: impl Fn(Pid) -> bool) -> Self {
        let admitted = strangers().into_iter().filter(|&pid| fits(pid));
        Family::of(admitted.map(|pid| (pid, getpid())))
    }

    /// The processes that were started for this connection of the child `worker`.
    pub fn of_connection(worker: Pid, serial: u64, marks: &mut Marks) -> Self {
        Family::of(marks.elders(worker, serial))
    }

    /// All that is below this process.
    pub fn below_us() -> Self {
        Family::of(children(getpid()).into_iter().map(|pid| (pid, getpid())))
    }

    /// The processes that may still have the socket of the connection in hand: those below
    /// this process, and those of it that the `master` has adopted. Anybody may read the mark
    /// of a process; one without a mark may be of any connection.
    pub fn of_possible_holders(master: Pid) -> Self {
        let mark = Mark::of(getpid(), handler::serial());
        let below = children(getpid()).into_iter().map(|pid| (pid, getpid()));
        let adopted = strangers_of(master).into_iter();
        let suspects = adopted.filter(|&pid| Mark::on(pid).is_none_or(|it| it == mark));
        Family::of(below.chain(suspects.map(|pid| (pid, master))))
    }

    /// Whether nobody belongs to it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Sends a signal to those that `fits` admits. Gives how many got it.
    ///
    /// # Errors
    ///
    /// This process may not signal one of them.
    pub fn signal(&self, what: Signal, mut fits: impl FnMut(Pid) -> bool) -> io::Result<usize> {
        // The youngest first: a parent that is stopped reaps nobody, so the numbers stay.
        let members = self.members.iter().rev().filter(|pid| fits(**pid));
        let results: Vec<_> = members.map(|&pid| self.send(pid, what)).collect();
        if results.contains(&Err(Errno::EPERM)) {
            return Err(Errno::EPERM.into());
        }
        Ok(results.iter().filter(|sent| sent.is_ok()).count())
    }

    /// Whether one of its processes has this socket, or does not let us see its files.
    pub fn may_hold(&self, inode: u64) -> bool {
        self.members.iter().any(|&pid| may_hold(pid, inode))
    }

    /// Signals a member, if it still is one: its parent is a member, or has adopted it.
    fn send(&self, pid: Pid, signal: Signal) -> nix::Result<()> {
        // From here on the handle means this process, even if its number is used again.
        let process = Process::open(pid)?;
        match parent_of(pid) {
            Some(now) if now == getpid() || self.parents.contains(&now) => process.signal(signal),
            _ => Err(Errno::ESRCH),
        }
    }

    /// Adds these and all below them. `meet` is called for each before its children are
    /// listed.
    fn extend(&mut self, eldest: Vec<Member>, meet: impl Fn(&Self, Pid)) {
        let mut next = self.members.len();
        let mut found = eldest;
        loop {
            for (pid, parent) in found {
                self.parents.insert(parent);
                if self.members.len() < MOST_PROCESSES && self.parents.insert(pid) {
                    self.members.push(pid);
                }
            }
            let Some(&pid) = self.members.get(next) else { return };
            meet(self, pid);
            found = children_of(pid);
            next += 1;
        }
    }
}

/// The marks of the leftovers here, each of which is read once. As long as this process reaps
/// none of them, no number gets another process.
#[derive(Default)]
pub struct Marks(HashMap<Pid, Option<Mark>>);

impl Marks {
    /// The leftovers of the worker, and those of ours that carry its mark.
    fn elders(&mut self, worker: Pid, serial: u64) -> Vec<Member> {
        let mark = Some(Mark::of(worker, serial));
        let mut ours = strangers();
        ours.retain(|&pid| *self.0.entry(pid).or_insert_with(|| Mark::on(pid)) == mark);
        // A fork of the worker, which is in its group, is not of the connection.
        let below = strangers_of(worker).into_iter().map(|pid| (pid, worker));
        below.chain(ours.into_iter().map(|pid| (pid, getpid()))).collect()
    }

    /// Kills all that was started for this connection of the child `worker`, which may have
    /// died, whatever user, group or session it has. `known` is a child of ours that belongs
    /// to it.
    ///
    /// # Errors
    ///
    /// We may not kill some of it: we are not root, and it has changed its user.
    pub fn kill_connection(
        &mut self,
        worker: Pid,
        serial: u64,
        known: Option<Pid>,
    ) -> io::Result<usize> {
        let known = known.map(|pid| (pid, getpid()));
        kill(|| self.elders(worker, serial).into_iter().chain(known).collect())
    }
}

/// Does the same with marks that were not read before.
///
/// # Errors
///
/// As those of [`Marks::kill_connection`].
pub fn kill_connection(worker: Pid, serial: u64, known: Option<Pid>) -> io::Result<usize> {
    Marks::default().kill_connection(worker, serial, known)
}

/// Kills what is left running here and `fits` admits, and all that it has started.
///
/// # Errors
///
/// As those of [`Marks::kill_connection`].
pub fn kill_strangers(fits: impl Fn(Pid) -> bool) -> io::Result<usize> {
    let admitted = || strangers().into_iter().filter(|&pid| fits(pid));
    kill(|| admitted().map(|pid| (pid, getpid())).collect())
}

/// Kills all that is below this process.
///
/// # Errors
///
/// As those of [`Marks::kill_connection`].
pub fn kill_below_us() -> io::Result<usize> {
    kill(|| children_of(getpid()))
}

fn kill(mut eldest: impl FnMut() -> Vec<Member>) -> io::Result<usize> {
    let mut family = Family::default();
    for _ in 0..MOST_ROUNDS {
        let before = family.members.len();
        // A process that has lost its parent in the last round has another one in this.
        let late = family.members.iter().flat_map(|&pid| children_of(pid));
        let all = late.chain(eldest()).collect();
        // A stopped process makes no children.
        family.extend(all, |family, pid| {
            let _ = family.send(pid, Signal::SIGSTOP);
        });
        if family.members.len() == before {
            break;
        }
    }
    family.signal(Signal::SIGKILL, |_| true)
}

/// Whether /proc speaks of our PID namespace, and not of one around it.
fn is_proc_ours() -> bool {
    fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == getpid().to_string().as_str())
}

fn parent_of(pid: Pid) -> Option<Pid> {
    if !is_proc_ours() {
        return is_child(pid).then(getpid);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

fn children_of(parent: Pid) -> Vec<Member> {
    children(parent).into_iter().map(|pid| (pid, parent)).collect()
}

/// The children of a process, of all its threads (proc_pid_children(5)).
pub fn children(pid: Pid) -> Vec<Pid> {
    if !is_proc_ours() {
        return Vec::new();
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let numbers = |list: String| -> Vec<_> {
        list.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw).collect()
    };
    lists.flat_map(numbers).collect()
}

/// Whether a process has this socket, or does not let us see that.
fn may_hold(pid: Pid, inode: u64) -> bool {
    let socket = format!("socket:[{inode}]");
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(files) => files.flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket.as_str())
        }),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_mark_is_read_where_it_is_set() {
        let mark = Mark::of(Pid::from_raw(77), 5);
        assert_ne!(mark, Mark::of(Pid::from_raw(77), 6));
        assert_ne!(mark, Mark::of(Pid::from_raw(78), 5));
        let script = format!("ulimit -S -x {} && exec cat", mark.0);
        let mut command = Command::new("bash");
        let child = Ended(command.args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap());
        let pid = Pid::from_raw(child.0.id() as i32);
        // Until bash has obeyed; the test runner bounds it.
        while Mark::on(pid) != Some(mark) {
            std::thread::yield_now();
        }
        assert_eq!(Mark::on(Pid::from_raw(1 << 30)), None);
    }
}
