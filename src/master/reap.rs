//! Reaping: of workers, and of orphans.
#![forbid(unsafe_code)]

use nix::unistd::Pid;

use crate::error::reason;
use crate::log::event::Event;
use crate::sys::clock::Moment;
use crate::sys::wait::{Fate, changed_child, reap};

use super::Master;

impl Master<'_> {
    /// Takes every ended child out of the process table, once SIGCHLD has come. The
    /// signal coalesces, so this goes on until there is none. Each look is at all children,
    /// so there is none at a turn without the signal; after a failure there is.
    pub(super) fn reap(&mut self, now: Moment) {
        if !self.owes_reaping {
            return;
        }
        let mut orphans = 0;
        let mut events = Vec::new();
        let result = loop {
            let ended = match changed_child() {
                Ok(Some(Fate::Ended(ended))) => ended,
                Ok(Some(Fate::Halted(pid, halt))) => {
                    let mut pools = self.pools.iter_mut().chain(&mut self.removed);
                    if let Some(pool) = pools.find(|pool| pool.has(pid)) {
                        pool.note_halt(pid, halt, now, &mut events);
                    }
                    continue;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let pid = ended.pid;
            if let Err(reason) = self.end_program_of(pid) {
                events.push(Event::CouldNotEndProgram { pid, reason });
            }
            let mut pools = self.pools.iter_mut().chain(&mut self.removed);
            let pool = pools.find(|pool| pool.has(pid));
            if pool.is_none() && !self.scouts.note_end(pid) {
                // How the children of others ended is not our concern.
                self.leftovers.note_end(ended);
                orphans += 1;
            }
            match reap(pid) {
                Ok(reaped) => {
                    let random = now.as_nanos() ^ (pid.as_raw() as u64).wrapping_mul(0x9e37_79b9);
                    if let Some(pool) = pool {
                        pool.file(&reaped, now, random, &mut self.oom_kills, &mut events);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        self.owes_reaping = result.is_err();
        if let Err(error) = result {
            self.news.push(Event::CouldNotReap { reason: reason(&error) });
        }
        self.news.extend(events);
        if orphans > 0 {
            self.news.push(Event::OrphansReaped { count: orphans });
        }
        self.removed.retain(|pool| !pool.is_empty());
    }

    /// Ends the program that a dead worker had running. The worker is not reaped yet, so
    /// that its page is still there.
    ///
    /// # Errors
    ///
    /// The reason, with the number of the program: somebody else has to end it.
    fn end_program_of(&mut self, worker: Pid) -> Result<(), String> {
        let pools = || self.pools.iter().chain(&self.removed);
        let Some(doomed) = pools().find_map(|pool| pool.doomed(worker)) else { return Ok(()) };
        let claimed = doomed.program.filter(|&pid| !pools().any(|pool| pool.has(pid)));
        let ended = self.leftovers.end_connections(worker, &doomed.serials, claimed);
        ended.map_err(|error| match claimed {
            Some(claimed) => format!("process {claimed}: {}", reason(&error)),
            None => reason(&error),
        })
    }
}
