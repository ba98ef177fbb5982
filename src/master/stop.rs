//! Stopping: serve the clients that wait, ask for the last time, kill.
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::config;
use crate::log::event::Event;
use crate::pool::{Asked, Pool};
use crate::sys::clock::Moment;

use super::Master;
use super::phase::Phase;

/// How long the kernel may take to end a killed process. One in an
/// uninterruptible sleep may take for ever, and we do not.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(10);

/// How a stop begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Connections are finished.
    None,
    /// Connections are ended.
    AtOnce,
}

impl Master<'_> {
    /// Begins to stop; each further signal goes one step further.
    pub(super) fn stop(&mut self, signal: Signal, now: Moment) {
        let cause = signal.as_str();
        match (self.phase, signal) {
            (Phase::Starting | Phase::Running, Signal::SIGTERM) => {
                self.begin_stop(cause, Haste::None, now);
            }
            (Phase::Starting | Phase::Running, _) => self.begin_stop(cause, Haste::AtOnce, now),
            (Phase::Delaying(until) | Phase::Draining { until, .. } | Phase::Asking(until), _) => {
                self.news.push(Event::StopEscalated {
                    step: "no longer waiting for connections",
                    cause,
                });
                let stop_at = match self.phase {
                    Phase::Delaying(_) => now + self.daemon.stop_timeout,
                    _ => until,
                };
                self.hurry(stop_at.min(now + self.kill_timeout()), now);
            }
            (Phase::Ending(_), _) => self.kill(cause, now),
            (Phase::Killing(_) | Phase::Stopped | Phase::Failed, _) => {}
        }
    }

    /// Begins to stop, for this cause.
    pub(super) fn begin_stop(&mut self, cause: &'static str, haste: Haste, now: Moment) {
        self.cause = cause;
        self.scouts.recall();
        self.undo_reload(now);
        self.news.push(Event::Stopping { cause });
        self.pools.append(&mut self.removed);
        self.control.close();
        self.leave_listeners();
        if haste == Haste::AtOnce {
            self.herald.observer.stopping(self.kill_timeout());
            return self.hurry(now + self.kill_timeout(), now);
        }
        let config::Daemon { stop_delay, stop_timeout, .. } = self.daemon;
        self.herald.observer.stopping(stop_delay + stop_timeout);
        match stop_delay {
            Duration::ZERO => self.drain(now),
            delay => self.enter(Phase::Delaying(now + delay)),
        }
    }

    /// Serves the clients that wait, and no others.
    fn drain(&mut self, now: Moment) {
        self.pools.iter_mut().for_each(|pool| pool.drain(now));
        self.enter(Phase::draining(now, self.daemon.stop_timeout, self.kill_timeout()));
    }

    /// Ends the connections in hand; what is left then is killed.
    fn hurry(&mut self, until: Moment, now: Moment) {
        for pool in &mut self.pools {
            pool.close(Asked::Stop, now);
            pool.cut(self.cause, now, &mut self.news);
        }
        self.leftovers.ask(&mut self.news);
        self.enter(Phase::Ending(until));
    }

    /// Asks programs to end, before the workers that still wait for them are killed.
    fn ask_programs(&mut self, until: Moment, now: Moment) {
        for pool in &mut self.pools {
            pool.ask_programs("stop_timeout", now, &mut self.news);
        }
        self.leftovers.ask(&mut self.news);
        self.enter(Phase::Asking(until));
    }

    /// Ends when neither a worker nor what programs have left running is there; kills what
    /// takes too long.
    pub(super) fn advance_stop(&mut self, now: Moment) {
        let is_delaying = matches!(self.phase, Phase::Delaying(_));
        if !is_delaying && self.pools.iter().all(Pool::is_empty) {
            let is_awaited = match self.phase {
                Phase::Killing(_) => {
                    // A killed process may have left children.
                    self.leftovers.kill(&mut self.news);
                    self.leftovers.are_ending()
                }
                _ => {
                    self.leftovers.ask(&mut self.news);
                    self.leftovers.are_there()
                }
            };
            if !is_awaited {
                return self.finish_stop();
            }
        }
        match self.phase {
            Phase::Delaying(until) if now >= until => self.drain(now),
            Phase::Draining { ask, until } if now >= ask => self.ask_programs(until, now),
            Phase::Asking(until) if now >= until => self.kill("stop_timeout", now),
            Phase::Ending(until) if now >= until => self.kill("kill_timeout", now),
            Phase::Killing(until) if now >= until => {
                if !self.pools.iter().all(Pool::is_empty) || self.leftovers.count() > 0 {
                    let reason = "the kernel does not let go of it".to_owned();
                    self.news.push(Event::CouldNotEndWorkers { reason });
                }
                self.finish_stop();
            }
            _ => {}
        }
    }

    fn finish_stop(&mut self) {
        let cut = self.pools.iter().map(Pool::connections_cut).sum();
        let connections_cut = Some(cut).filter(|&cut| cut > 0);
        self.news.push(Event::Stopped { cause: self.cause, connections_cut });
        self.enter(Phase::Stopped);
    }

    fn kill(&mut self, cause: &'static str, now: Moment) {
        if !self.pools.iter().all(Pool::is_empty) {
            self.news.push(Event::StopEscalated { step: "killing workers", cause });
        }
        for pool in &mut self.pools {
            pool.close(Asked::Stop, now);
            pool.kill_all(Asked::Stop);
        }
        self.leftovers.kill(&mut self.news);
        self.enter(Phase::Killing(now + KERNEL_TIMEOUT));
    }

    fn kill_timeout(&self) -> Duration {
        self.pools.iter().map(Pool::kill_timeout).max().unwrap_or_default()
    }
}
