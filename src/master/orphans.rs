//! Processes that programs have left when they or their worker ended. They become our
//! children, as do the orphans of all our descendants. As PID 1 we get all other orphans,
//! too.
//!
//! Children that were there before the daemon, as those of a start script that became the
//! daemon, are not ours, except where we are PID 1.
//!
//! The processes of a dead worker's connection end with the worker. Processes that an
//! earlier connection has left running go on until the daemon stops.
#![forbid(unsafe_code)]

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid};

use crate::error::reason;
use crate::log::event::Event;
use crate::sys::family::{Family, Mark, children, kill_connection, kill_strangers, strangers};
use crate::sys::wait::{Ended, is_child};

/// Of how many connections that were ended the last processes are waited for.
const MOST_CONDEMNED: usize = 64;

/// From here on the orphans of our descendants are our children
/// (PR_SET_CHILD_SUBREAPER of prctl(2)).
pub fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(true)?)
}

/// The children that this process has now, none of which the daemon has started. To PID 1
/// all processes belong.
pub fn earlier_children() -> HashSet<Pid> {
    match getpid().as_raw() {
        1 => HashSet::new(),
        _ => children(getpid()).into_iter().collect(),
    }
}

/// What programs have left running.
#[derive(Debug)]
pub struct Leftovers {
    /// The connections that were ended last, by their worker and their number.
    condemned: VecDeque<(Pid, u64)>,
    /// Children that are not ours and not reaped yet, so that they keep their numbers.
    foreign: HashSet<Pid>,
    /// The processes that were asked to end.
    asked: HashSet<Pid>,
    /// Some of it may not be ended, and the log knows.
    is_denied: bool,
}

impl Leftovers {
    /// Nothing yet. The `foreign` children never belong to it.
    pub fn new(foreign: HashSet<Pid>) -> Self {
        Leftovers { condemned: VecDeque::new(), foreign, asked: HashSet::new(), is_denied: false }
    }

    /// Ends all of the connections that the dead `worker` had: their processes, whatever user,
    /// group or session they have. The worker is not reaped yet.
    ///
    /// `claimed` is the program that the worker's page names, which may be anything. It is
    /// believed only if that process is now a child of ours, leads a process group, as a
    /// program does, and is in the session of the worker, which the leader of a group cannot
    /// leave. What else is found carries the number of the worker, or is below it.
    ///
    /// # Errors
    ///
    /// We may not kill some of it: we are not root, and it has changed its user.
    pub fn end_connections(
        &mut self,
        worker: Pid,
        serials: &[u64],
        claimed: Option<Pid>,
    ) -> io::Result<()> {
        let claimed =
            claimed.filter(|&pid| !self.foreign.contains(&pid) && is_program(pid, worker));
        let mut done = Ok(());
        for &serial in serials {
            // A process that is dying may still leave children to us.
            self.condemned.push_back((worker, serial));
            if self.condemned.len() > MOST_CONDEMNED {
                self.condemned.pop_front();
            }
            done = done.and(kill_connection(worker, serial, claimed).map(drop));
        }
        if let Some(claimed) = claimed {
            // Last, what has lost its parent before.
            let _ = killpg(claimed, Signal::SIGKILL);
        }
        done
    }

    /// Takes note of the end of an orphan that is not reaped yet: what it has left is ours
    /// now, and may belong to a connection that was ended.
    pub fn note_end(&mut self, orphan: Ended) {
        if self.foreign.remove(&orphan.pid) {
            return;
        }
        // Another process may get its number.
        self.asked.remove(&orphan.pid);
        if self.condemned.is_empty() && !orphan.by_sigkill {
            return;
        }
        let mark = Mark::on(orphan.pid);
        let condemned = self
            .condemned
            .iter()
            .find(|(pid, serial)| mark.is_some_and(|mark| mark == Mark::of(*pid, *serial)));
        if let Some(&(worker, serial)) = condemned {
            let _ = kill_connection(worker, serial, None);
        }
        // The leader of a program without a mark, whose worker was killed.
        let is_leader = || group_of_program(orphan.pid) == Some(orphan.pid);
        if orphan.by_sigkill && mark.is_none() && is_leader() {
            let _ = killpg(orphan.pid, Signal::SIGKILL);
        }
    }

    /// Forgets the ended connections of workers whose numbers living workers have now.
    pub fn spare(&mut self, is_worker: impl Fn(Pid) -> bool) {
        self.condemned.retain(|&(pid, _)| !is_worker(pid));
    }

    /// Asks all of it to end, each process once. What a process that was asked starts
    /// afterwards, as to clean up, is not asked as long as that process lives.
    pub fn ask(&mut self, news: &mut Vec<Event>) {
        let Leftovers { foreign, asked, .. } = self;
        let new = Family::of_strangers(|pid| !foreign.contains(&pid) && !asked.contains(&pid));
        match new.signal(Signal::SIGTERM, |pid| asked.insert(pid)) {
            Ok(0) => {}
            Ok(count) => news.push(Event::LeftoversAsked { count }),
            Err(error) => self.deny(&error, news),
        }
    }

    /// Kills all of it.
    pub fn kill(&mut self, news: &mut Vec<Event>) {
        match kill_strangers(|pid| !self.foreign.contains(&pid)) {
            Ok(0) => {}
            Ok(count) => news.push(Event::LeftoversKilled { count }),
            Err(error) => self.deny(&error, news),
        }
    }

    /// Whether there is some of it that can be waited for.
    pub fn are_there(&self) -> bool {
        // Without a worker, each child is either left over or reads what such a one writes.
        !self.is_denied && children(getpid()).iter().any(|pid| !self.foreign.contains(pid))
    }

    /// Whether there is some of it that ends because [`kill`](Self::kill) was called.
    pub fn are_ending(&self) -> bool {
        !self.is_denied && (self.count() > 0 || self.followers(|_| false).next().is_some())
    }

    /// How many processes there are of it, without those below them.
    pub fn count(&self) -> usize {
        strangers().iter().filter(|pid| !self.foreign.contains(pid)).count()
    }

    /// Sends SIGUSR1 to our children that read what leftovers write.
    pub fn reopen_log(&self, is_known: impl Fn(Pid) -> bool) {
        for pid in self.followers(is_known) {
            let _ = kill(pid, Signal::SIGUSR1);
        }
    }

    /// Our children that read what leftovers write. They are in our process group as the
    /// workers are, but are no worker, and have its handler of SIGUSR1. The signal would end
    /// an orphan that has none.
    fn followers(&self, is_known: impl Fn(Pid) -> bool) -> impl Iterator<Item = Pid> {
        let own = getpgrp();
        children(getpid()).into_iter().filter(move |&pid| {
            !is_known(pid)
                && !self.foreign.contains(&pid)
                && getpgid(Some(pid)) == Ok(own)
                && catches(pid, Signal::SIGUSR1)
        })
    }

    fn deny(&mut self, error: &io::Error, news: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.is_denied, true) {
            news.push(Event::CouldNotEndLeftovers { reason: reason(error) });
        }
    }
}

/// Whether a process has a handler for this signal (SigCgt of proc_pid_status(5)).
fn catches(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    caught.is_some_and(|caught| caught >> (signal as i32 - 1) & 1 == 1)
}

/// Whether what the page of a dead worker names is a program of it, which is our child now
/// and not reaped, so that it keeps its number.
fn is_program(claimed: Pid, worker: Pid) -> bool {
    is_child(claimed)
        && getpgid(Some(claimed)) == Ok(claimed)
        && getsid(Some(claimed)).is_ok_and(|session| getsid(Some(worker)) == Ok(session))
}

/// The process group of an orphan, if the group can belong to a program. A process with a
/// session of its own was meant to survive, or was never ours. A process in our own group
/// was not started as a program.
fn group_of_program(orphan: Pid) -> Option<Pid> {
    let session = getsid(None).ok()?;
    // 0 is one that is outside of our PID namespace, which says nothing.
    let is_of_ours = session.as_raw() != 0 && getsid(Some(orphan)) == Ok(session);
    let group = getpgid(Some(orphan)).ok()?;
    (is_of_ours && group != getpgrp()).then_some(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_with_a_number_used_again_is_not_condemned() {
        let [old, other] = [7, 8].map(Pid::from_raw);
        let mut leftovers = Leftovers::new(HashSet::new());
        leftovers.condemned.extend([(old, 1), (other, 1), (old, 2)]);
        leftovers.spare(|pid| pid == old);
        assert_eq!(leftovers.condemned, [(other, 1)]);
    }

    #[test]
    fn a_signal_without_a_handler_is_not_caught() {
        assert!(!catches(getpid(), Signal::SIGWINCH));
        // The runtime of Rust reports the overflow of a stack.
        assert!(catches(getpid(), Signal::SIGSEGV));
    }
}
