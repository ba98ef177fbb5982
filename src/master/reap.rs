//! Reaping: of workers, and of orphans, which become our children when their parents end.
//! Those are what the programs of a worker have left when the worker was killed, and, as
//! PID 1, what anybody leaves.
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

use crate::error::reason;
use crate::log::event::Event;
use crate::sys::clock::Moment;
use crate::sys::wait::{Ended, ended_child, halted_child, reap};

use super::Master;

/// From here on the orphans of our descendants are our children
/// (PR_SET_CHILD_SUBREAPER of prctl(2)).
pub fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(true)?)
}

impl Master<'_> {
    /// Takes every ended child out of the process table. SIGCHLD coalesces, so
    /// this goes on until there is none, whether the signal came or not.
    pub(super) fn reap(&mut self, now: Moment) {
        let mut orphans = 0;
        let mut events = Vec::new();
        while let Ok(Some((pid, halt))) = halted_child() {
            let mut pools = self.pools.iter_mut().chain(&mut self.removed);
            if let Some(pool) = pools.find(|pool| pool.has(pid)) {
                pool.note_halt(pid, halt, now, &mut events);
            }
        }
        let result = loop {
            let ended = match ended_child() {
                Ok(Some(ended)) => ended,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let pid = ended.pid;
            let mut pools = self.pools.iter_mut().chain(&mut self.removed);
            let pool = pools.find(|pool| pool.has(pid));
            if pool.is_none() {
                // How the children of others ended is not our concern.
                end_program(ended);
                orphans += 1;
            }
            match reap(pid) {
                Ok(reaped) => {
                    let random = now.as_nanos() ^ (pid.as_raw() as u64).wrapping_mul(0x9e37_79b9);
                    if let Some(pool) = pool {
                        pool.file(&reaped, now, random, &mut self.shared, &mut events);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = result {
            self.news.push(Event::CouldNotReap { reason: reason(&error) });
        }
        self.news.extend(events);
        if orphans > 0 {
            self.news.push(Event::OrphansReaped { count: orphans });
        }
        self.removed.retain(|pool| !pool.is_empty());
    }
}

/// Takes note of the end of an orphan that is not reaped yet. If it was the leader of a
/// program whose worker was killed, what is left of its process group is killed, too.
fn end_program(orphan: Ended) {
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
