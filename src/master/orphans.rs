//! Processes that programs have left when they or their worker ended. They become our
//! children, as do the orphans of all our descendants. As PID 1 we get all other orphans,
//! too.
//!
//! The processes of a dead worker's connection end with the worker. Processes that an
//! earlier connection has left running go on until the daemon stops.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
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

/// What programs have left running.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// The connections that were ended last, by their worker and their number.
    condemned: VecDeque<(Pid, u64)>,
    is_asked: bool,
    /// Some of it may not be ended, and the log knows.
    is_denied: bool,
}

impl Leftovers {
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
        let claimed = claimed.filter(|&pid| is_program(pid, worker));
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

    /// Asks all of it to end, once.
    pub fn ask(&mut self, news: &mut Vec<Event>) {
        if std::mem::replace(&mut self.is_asked, true) {
            return;
        }
        match Family::of_strangers().signal(Signal::SIGTERM, |_| true) {
            Ok(0) => {}
            Ok(count) => news.push(Event::LeftoversAsked { count }),
            Err(error) => self.deny(&error, news),
        }
    }

    /// Kills all of it.
    pub fn kill(&mut self, news: &mut Vec<Event>) {
        match kill_strangers() {
            Ok(0) => {}
            Ok(count) => news.push(Event::LeftoversKilled { count }),
            Err(error) => self.deny(&error, news),
        }
    }

    /// Whether there is some of it that can be waited for.
    pub fn are_there(&self) -> bool {
        // Without a worker, each child is either left over or reads what such a one writes.
        !self.is_denied && !children(getpid()).is_empty()
    }

    /// How many processes there are of it, without those below them.
    pub fn count() -> usize {
        strangers().len()
    }

    fn deny(&mut self, error: &io::Error, news: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.is_denied, true) {
            news.push(Event::CouldNotEndLeftovers { reason: reason(error) });
        }
    }
}

/// Sends SIGUSR1 to our children that read what leftovers write: they are in our process
/// group as the workers are, but are no worker.
pub fn reopen_log(is_known: impl Fn(Pid) -> bool) {
    let own = getpgrp();
    let followers = children(getpid()).into_iter().filter(|&pid| !is_known(pid));
    for pid in followers.filter(|&pid| getpgid(Some(pid)) == Ok(own)) {
        let _ = kill(pid, Signal::SIGUSR1);
    }
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
