//! Repairs of what workers have done to their shared listeners.
#![forbid(unsafe_code)]

use toml::Spanned;

use crate::error;
use crate::log::event::Event;
use crate::sys::clock::Moment;

use super::agenda::Task;
use super::generation::Generation;
use super::listeners::Repair;
use super::worker::Place;
use super::{Asked, Pool};

/// Whether somebody may have done something to the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Nothing has happened since they were looked at.
    Trusted,
    /// A worker has died, or a reload wants to know.
    Suspect,
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

    /// Mends what the workers share, if one of them has died.
    pub fn mend(&mut self, now: Moment, events: &mut Vec<Event>) -> Mending {
        self.generations().filter_map(|it| it.blueprint.ledger.as_ref()).for_each(|it| it.mend());
        self.mend_listeners(now, events)
    }

    /// Mends the listeners, if a worker has shut one down (shutdown(2)).
    ///
    /// Workers that sleep in accept on a Unix socket die of it, and each death leads here
    /// again, so an address that others still hold is tried again.
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
                    let reason = format!("{reason}: {}", error::reason(&error));
                    events.push(Event::CouldNotAdjustListener { pool, address, reason });
                    continue;
                }
            }
            events.push(Event::ListenerMended { pool, address, reason });
        }
        if mending == Mending::Rebound {
            self.serving.listeners.suit();
        }
        if has_regained {
            self.replace_workers(now);
        }
        mending
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
