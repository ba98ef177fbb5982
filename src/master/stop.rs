//! Stopping: ask, ask for the last time, kill.
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::log::event::Event;
use crate::pool::{Asked, Pool};
use crate::sys::clock::Moment;

use super::Master;
use super::orphans::end_programs;
use super::phase::Phase;

/// How long the kernel may take to end a killed process. One in an
/// uninterruptible sleep may take for ever, and we do not.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(10);

impl Master<'_> {
    /// Begins to stop; each further signal goes one step further.
    pub(super) fn stop(&mut self, signal: Signal, now: Moment) {
        let cause = signal.as_str();
        match (self.phase, signal) {
            (Phase::Starting | Phase::Running, _) => {
                self.cause = cause;
                self.undo_reload(now);
                self.news.push(Event::Stopping { cause });
                self.pools.append(&mut self.removed);
                self.control.close();
                self.leave_listeners();
                self.pools.iter_mut().for_each(|pool| pool.close(Asked::Stop, now));
                if signal == Signal::SIGTERM {
                    self.herald.observer.stopping(self.daemon.stop_timeout);
                    self.enter(Phase::Draining(now + self.daemon.stop_timeout));
                } else {
                    self.pools.iter().for_each(Pool::cut);
                    self.herald.observer.stopping(self.kill_timeout());
                    self.enter(Phase::Ending(now + self.kill_timeout()));
                }
            }
            (Phase::Draining(until), _) => {
                self.news.push(Event::StoppingFaster {
                    step: "no longer waiting for connections",
                    cause,
                });
                self.pools.iter().for_each(Pool::cut);
                self.enter(Phase::Ending(until.min(now + self.kill_timeout())));
            }
            (Phase::Ending(_), _) => self.kill(cause, now),
            (Phase::Killing(_) | Phase::Stopped | Phase::Failed, _) => {}
        }
    }

    /// Ends when no worker is left; kills those that take too long.
    pub(super) fn advance_stop(&mut self, now: Moment) {
        if self.pools.iter().all(Pool::is_empty) && !end_programs() {
            self.news.push(Event::Stopped { cause: self.cause, connections_cut: None });
            self.enter(Phase::Stopped);
            return;
        }
        match self.phase {
            Phase::Draining(until) if now >= until => self.kill("stop_timeout", now),
            Phase::Ending(until) if now >= until => self.kill("kill_timeout", now),
            Phase::Killing(until) if now >= until => {
                let reason = "the kernel does not let go of it".to_owned();
                self.news.push(Event::CouldNotEndWorkers { reason });
                self.news.push(Event::Stopped { cause: self.cause, connections_cut: None });
                self.enter(Phase::Stopped);
            }
            _ => {}
        }
    }

    fn kill(&mut self, cause: &'static str, now: Moment) {
        self.news.push(Event::StoppingFaster { step: "killing workers", cause });
        self.pools.iter_mut().for_each(|pool| pool.kill_all(Asked::Stop));
        self.enter(Phase::Killing(now + KERNEL_TIMEOUT));
    }

    fn kill_timeout(&self) -> Duration {
        self.pools.iter().map(Pool::kill_timeout).max().unwrap_or_default()
    }
}
