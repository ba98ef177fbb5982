//! Children of others, which become ours when their parents end: what the programs of a
//! worker have left when the worker was killed, and, as PID 1, what anybody leaves.
//!
//! A worker ends the process group of its program itself. Where it cannot any more,
//! the kernel kills the leader of the group (PR_SET_PDEATHSIG) and gives us what is left
//! of it, which would go on holding the socket of a client.
#![forbid(unsafe_code)]

use std::fs;
use std::io;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getsid};

use crate::sys::wait::Ended;

/// From here on the orphans of our descendants are our children
/// (PR_SET_CHILD_SUBREAPER of prctl(2)).
pub fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(true)?)
}

/// Takes note of the end of an orphan that is not reaped yet. If it was the leader of a
/// program whose worker was killed, what is left of its process group is killed, too.
pub fn ended(orphan: Ended) {
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
