//! Repairs of what workers have done to their shared listeners.
#![forbid(unsafe_code)]

use std::time::Duration;

use toml::Spanned;

use crate::error;
use crate::log::event::Event;
use crate::sys::clock::Moment;

use super::agenda::Task;
use super::generation::Generation;
use super::listeners::Repair;
use super::worker::Place;
use super::{Asked, Pool};

/// How long after its loss the address of a listener is tried again. Each further try waits
/// twice as long, up to a limit.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Whether somebody may have done something to the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Nothing has happened since they were looked at.
    Trusted,
    /// The address of a lost one may be free by now.
    Lost,
    /// A worker has died, or a reload wants to know.
    Suspect,
}

/// The tries to have a lost listener again.
#[derive(Debug, Default)]
pub(super) struct Tries {
    count: u32,
    /// When the next one is.
    next: Option<Moment>,
}

impl Tries {
    /// One was in vain. Gives when the next one is, unless that was planned before.
    fn plan(&mut self, now: Moment) -> Option<Moment> {
        if self.next.is_some_and(|at| at > now) {
            return None;
        }
        self.next = Some(now + delay(self.count));
        self.count = self.count.saturating_add(1);
        self.next
    }
}

/// The delay after so many tries.
fn delay(tries: u32) -> Duration {
    FIRST_DELAY.saturating_mul(2u32.saturating_pow(tries)).min(LONGEST_DELAY)
}

/// What mending has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mending {
    /// The pool has the listeners that it had.
    Kept,
    /// The pool has another listener with the same address.
    Rebound,
}

impl Pool {
    /// The listeners are to be looked at.
    pub fn suspect(&mut self) {
        self.health = Health::Suspect;
    }

    /// The addresses of lost listeners are to be tried again.
    pub(super) fn try_again(&mut self) {
        if self.health == Health::Trusted {
            self.health = Health::Lost;
        }
    }

    /// Mends what the workers share, if one of them has died.
    pub fn mend(&mut self, now: Moment, events: &mut Vec<Event>) -> Mending {
        self.generations().filter_map(|it| it.blueprint.ledger.as_ref()).for_each(|it| it.mend());
        self.mend_listeners(now, events)
    }

    /// Mends the listeners, if a worker has shut one down (shutdown(2)).
    ///
    /// Workers that sleep in accept on a Unix socket die of it, and each death leads here
    /// again, so an address that others still hold is tried again. It is also tried from time
    /// to time, because a pool without a listener has no worker that could die. Such a try is
    /// silent until it succeeds.
    fn mend_listeners(&mut self, now: Moment, events: &mut Vec<Event>) -> Mending {
        let health = std::mem::replace(&mut self.health, Health::Trusted);
        if health == Health::Trusted || self.closing.has_begun() {
            return Mending::Kept;
        }
        let mut mending = Mending::Kept;
        let mut has_regained = false;
        let Generation { blueprint, listeners, .. } = &mut self.serving;
        let config = &blueprint.config;
        for listen in config.listen.iter().map(Spanned::get_ref) {
            let (pool, address) = (config.name.clone(), listen.address.to_string());
            let reason = "a worker had shut it down".to_owned();
            match listeners.mend(listen) {
                Repair::Sound => continue,
                Repair::Listening => {}
                Repair::Replaced { old, new } => {
                    let tried = self.next.iter_mut();
                    tried.for_each(|next| next.listeners.replace(&old, &new));
                    mending = Mending::Rebound;
                }
                Repair::Regained => {
                    mending = Mending::Rebound;
                    has_regained = true;
                }
                Repair::Lost(error) => {
                    if health == Health::Suspect {
                        let reason = format!("{reason}: {}", error::reason(&error));
                        events.push(Event::CouldNotAdjustListener { pool, address, reason });
                    }
                    continue;
                }
            }
            events.push(Event::ListenerMended { pool, address, reason });
        }
        self.plan_tries(now);
        if mending == Mending::Rebound {
            self.serving.listeners.suit();
        }
        if has_regained {
            self.replace_workers(now);
        }
        mending
    }

    /// Plans the next try to have the lost listeners again, if there are any.
    fn plan_tries(&mut self, now: Moment) {
        if !self.serving.listeners.has_lost() {
            self.tries = Tries::default();
        } else if let Some(at) = self.tries.plan(now) {
            self.agenda.add(at, Task::Listeners);
        }
    }

    /// Asks the workers to leave that were forked without a listener which the pool has now.
    /// They keep their slots.
    fn replace_workers(&mut self, now: Moment) {
        for worker in self.workers.values_mut().filter(|worker| worker.place != Place::Leaving) {
            worker.ask(Asked::Retire, now);
            if let Some(at) = worker.deadline() {
                self.agenda.add(at, Task::Worker(worker.pid));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rare() {
        for (tries, millis) in [
            (0, 500),
            (1, 1_000),
            (2, 2_000),
            (5, 16_000),
            (6, 30_000),
            (40, 30_000),
            (u32::MAX, 30_000),
        ] {
            assert_eq!(delay(tries), Duration::from_millis(millis), "{tries}");
        }
    }

    #[test]
    fn a_try_that_is_planned_is_not_planned_again() {
        let mut tries = Tries::default();
        let now = Moment::from_nanos(1_000_000_000);
        let first = now + delay(0);
        assert_eq!(tries.plan(now), Some(first));
        assert_eq!(tries.plan(now), None, "a worker has died in between");
        assert_eq!(tries.plan(first), Some(first + delay(1)));
    }
}
