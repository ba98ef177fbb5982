//! What programs have left when they or their worker ended. It becomes our child, as the
//! orphans of all our descendants do; as PID 1 we get what anybody leaves, too.
//!
//! A worker ends the process group of its program itself. Where it cannot any more, this is
//! done here: what belonged to the connection of a dead worker ends with it. What an earlier
//! connection has left running, in a session of its own, is not touched.
#![forbid(unsafe_code)]

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid};

use crate::sys::process::Process;
use crate::sys::wait::{Ended, is_child};

/// How many processes of one program are looked for. One that has more is beyond its
/// worker's limits, and loses its process group only.
const MOST_PROCESSES: usize = 4096;

/// From here on the orphans of our descendants are our children
/// (PR_SET_CHILD_SUBREAPER of prctl(2)).
pub fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(true)?)
}

/// Takes note of the end of an orphan that is not reaped yet. If it was the leader of a
/// program whose worker was killed, what is left of its process group is killed, too.
pub fn end_group_of(orphan: Ended) {
    // What a program detaches with two forks is ours at once, while the program lives
    // and is nobody we may kill: that one is no leader, or nobody has killed it.
    if orphan.by_sigkill && group_of_program(orphan.pid) == Some(orphan.pid) {
        let _ = killpg(orphan.pid, Signal::SIGKILL);
    }
}

/// Kills what is left of programs, when there is no worker any more. Tells whether
/// there was anything; it is reaped like any other child.
pub fn end_programs() -> bool {
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let orphans = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    let groups = orphans.filter_map(|pid| group_of_program(Pid::from_raw(pid)));
    let killed: Vec<_> = groups.map(|group| killpg(group, Signal::SIGKILL)).collect();
    !killed.is_empty()
}

/// The process group of an orphan, if that can be one of a program. What has made a
/// session of its own was meant to live on, or was never of ours; what is in our own
/// group was not started as a program.
fn group_of_program(orphan: Pid) -> Option<Pid> {
    let session = getsid(None).ok()?;
    // 0 is one that is outside of our PID namespace, which says nothing.
    let is_of_ours = session.as_raw() != 0 && getsid(Some(orphan)) == Ok(session);
    let group = getpgid(Some(orphan)).ok()?;
    (is_of_ours && group != getpgrp()).then_some(group)
}

/// Ends all of the program that the dead `worker` had running: its process group, and its
/// descendants, whatever user, group or session they have. The worker is not reaped yet.
///
/// `claimed` is what the worker's page says, which may be anything. It is believed only if
/// that process is now a child of ours, leads a process group, as a program does, and is in
/// the session of the worker, which the leader of a group cannot leave.
///
/// # Errors
///
/// We may not kill it: we are not root, and it has changed its user.
pub fn end_program(claimed: Pid, worker: Pid) -> io::Result<()> {
    // A child that is not reaped keeps its number.
    let is_program = is_child(claimed)
        && getpgid(Some(claimed)) == Ok(claimed)
        && getsid(Some(claimed)).is_ok_and(|session| getsid(Some(worker)) == Ok(session));
    if !is_program {
        return Ok(());
    }
    let family = stop_family(claimed);
    // The youngest first: a parent that is stopped reaps nobody, so that the numbers stay.
    let results = family.iter().rev().map(|&(pid, parent)| signal(pid, parent, Signal::SIGKILL));
    let denied = results.filter(|sent| *sent == Err(Errno::EPERM)).count();
    // Last, what has lost its parent before.
    let _ = killpg(claimed, Signal::SIGKILL);
    if denied == 0 { Ok(()) } else { Err(Errno::EPERM.into()) }
}

/// Stops a child of ours and all of its descendants, parents first. One that is stopped makes
/// no more children, so that the list is complete. Gives each with its parent.
fn stop_family(eldest: Pid) -> Vec<(Pid, Pid)> {
    let mut family = vec![(eldest, getpid())];
    let mut next = 0;
    while let Some(&(pid, parent)) = family.get(next) {
        let _ = signal(pid, parent, Signal::SIGSTOP);
        let room = MOST_PROCESSES - family.len();
        family.extend(children(pid).into_iter().take(room).map(|child| (child, pid)));
        next += 1;
    }
    family
}

/// Signals a process if it is still the child of that parent, or is ours because that has
/// died meanwhile.
fn signal(pid: Pid, parent: Pid, signal: Signal) -> nix::Result<()> {
    // From here on the handle means one process, whoever gets its number.
    let process = Process::open(pid)?;
    match parent_of(pid) {
        Some(now) if now == parent || now == getpid() => process.signal(signal),
        _ => Err(Errno::ESRCH),
    }
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

/// The children of a process, of all its threads (proc_pid_children(5)).
fn children(pid: Pid) -> Vec<Pid> {
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
