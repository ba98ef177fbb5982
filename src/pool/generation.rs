//! The workers of one configuration epoch, and their slots.
#![forbid(unsafe_code)]

use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::Pid;

use crate::listener::Listener;
use crate::sys::clock::Moment;

use super::Blueprint;
use super::shared::Shared;
use super::spawn::spawn;
use super::throttle::Throttle;
use super::worker::Worker;

/// Workers that share a blueprint and a listener.
pub struct Generation {
    pub(super) blueprint: Blueprint,
    /// None once the pool lets go of its address.
    pub(super) listener: Option<Rc<Listener>>,
    pub(super) slots: Vec<Slot>,
    /// The configuration epoch: the newest while it is the current one.
    pub(super) epoch: u64,
}

/// A worker that was forked.
pub(super) struct Start {
    pub slot: u32,
    pub pid: Pid,
    pub generation: u64,
    pub kind: StartKind,
}

/// What the slot of a new worker has been through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartKind {
    /// Nothing of note.
    First,
    /// It has had a worker that accepted.
    Replacement,
    /// It backs off.
    Retry,
}

/// The place of one worker.
#[derive(Debug, Default)]
pub struct Slot {
    pub(super) worker: Option<Worker>,
    pub(super) throttle: Throttle,
    /// A worker of this slot has got as far as accepting.
    pub(super) has_accepted: bool,
    /// The log has not been told of its worker, which may die like those before.
    pub(super) untold: bool,
}

impl Start {
    fn of(worker: &Worker, kind: StartKind) -> Self {
        Start { slot: worker.slot, pid: worker.pid, generation: worker.generation, kind }
    }
}

impl Slot {
    /// When its worker will be too old to die young, if the log waits for that.
    fn recovers(&self, min_uptime: Duration) -> Option<Moment> {
        let worker = self.worker.as_ref().filter(|_| self.untold)?;
        worker.seat.look().is_accepting.then(|| worker.started + min_uptime)
    }
}

/// How far a generation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Some slots have not shown yet whether they work.
    Starting,
    /// Every slot has had a worker that accepted, or backs off; one at least
    /// has.
    Ready,
    /// Every slot backs off, and no worker has got as far as accepting.
    Failed,
}

impl Generation {
    pub(super) fn new(blueprint: Blueprint, listener: Rc<Listener>) -> Self {
        let mut generation =
            Generation { blueprint, listener: Some(listener), slots: Vec::new(), epoch: 0 };
        generation.slots.resize_with(generation.blueprint.config.workers as usize, Slot::default);
        generation
    }

    /// How far it has come.
    pub fn standing(&self) -> Standing {
        standing(self.slots.iter().map(|slot| (slot.has_accepted, slot.throttle.is_throttled())))
    }

    /// Takes note of which workers have got as far as accepting.
    pub(super) fn look_who_accepts(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.has_accepted) {
            slot.has_accepted =
                slot.worker.as_ref().is_some_and(|worker| worker.seat.look().is_accepting);
        }
    }

    /// Changes the number of slots; gives the workers that have none any more.
    pub(super) fn resize(&mut self, size: u32) -> Vec<Worker> {
        let size = size as usize;
        let surplus =
            self.slots.drain(size.min(self.slots.len())..).filter_map(|slot| slot.worker).collect();
        self.slots.resize_with(size, Slot::default);
        surplus
    }

    /// Fills the empty slots whose time has come.
    ///
    /// Nothing but the forks in a row: what is allocated between two of them
    /// is memory that a worker no longer shares.
    ///
    /// # Errors
    ///
    /// fork failed; the slots that are still empty stay so.
    pub(super) fn fill(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        started: &mut Vec<Start>,
    ) -> io::Result<()> {
        if self.next_spawn().is_none_or(|due| due > now) {
            return Ok(());
        }
        started.reserve(self.slots.len());
        for index in 0..self.slots.len() {
            let Slot { worker, throttle, has_accepted, .. } = &self.slots[index];
            if worker.is_some() || throttle.until().is_some_and(|until| until > now) {
                continue;
            }
            let kind = match (throttle.is_throttled(), has_accepted) {
                (true, _) => StartKind::Retry,
                (false, true) => StartKind::Replacement,
                (false, false) => StartKind::First,
            };
            let worker = spawn(self, index as u32, shared)?;
            started.push(Start::of(&worker, kind));
            self.slots[index].untold = false;
            self.slots[index].worker = Some(worker);
        }
        Ok(())
    }

    /// Takes note that the log was not told of this worker.
    pub(super) fn leave_untold(&mut self, pid: Pid) {
        let holds = |slot: &&mut Slot| slot.worker.as_ref().is_some_and(|it| it.pid == pid);
        if let Some(slot) = self.slots.iter_mut().find(holds) {
            slot.untold = true;
        }
    }

    /// Finds the workers that the log was not told of and that are too old now to die
    /// young: their slots have recovered.
    pub(super) fn recovered(&mut self, now: Moment) -> Vec<Start> {
        let min_uptime = self.blueprint.config.min_uptime;
        let slots = self.slots.iter_mut();
        slots
            .filter(|slot| slot.recovers(min_uptime).is_some_and(|due| due <= now))
            .filter_map(|slot| {
                slot.untold = false;
                slot.worker.as_ref().map(|worker| Start::of(worker, StartKind::Retry))
            })
            .collect()
    }

    /// When there may be such a worker next.
    pub(super) fn next_recovery(&self) -> Option<Moment> {
        let min_uptime = self.blueprint.config.min_uptime;
        self.slots.iter().filter_map(|slot| slot.recovers(min_uptime)).min()
    }

    /// Takes the worker `pid` out of its slot, and tells which that is.
    pub(super) fn take(&mut self, pid: Pid) -> Option<(usize, Worker)> {
        let holds = |slot: &Slot| slot.worker.as_ref().is_some_and(|worker| worker.pid == pid);
        let index = self.slots.iter().position(holds)?;
        Some((index, self.slots[index].worker.take()?))
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.slots.iter().filter_map(|slot| slot.worker.as_ref())
    }

    pub(super) fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.slots.iter_mut().filter_map(|slot| slot.worker.as_mut())
    }

    /// When the next empty slot may be filled: a moment that has passed if one
    /// may be at once, None if none is empty.
    pub(super) fn next_spawn(&self) -> Option<Moment> {
        self.slots
            .iter()
            .filter(|slot| slot.worker.is_none())
            .map(|slot| slot.throttle.until().unwrap_or_default())
            .min()
    }
}

/// Decides from what each slot has shown: that a worker of it accepted, that
/// it backs off.
fn standing(slots: impl Iterator<Item = (bool, bool)> + Clone) -> Standing {
    if !slots.clone().all(|(has_accepted, throttled)| has_accepted || throttled) {
        Standing::Starting
    } else if slots.clone().any(|(has_accepted, _)| has_accepted) {
        Standing::Ready
    } else {
        Standing::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_that_accepts_makes_a_generation() {
        const NEW: (bool, bool) = (false, false);
        const ACCEPTED: (bool, bool) = (true, false);
        const THROTTLED: (bool, bool) = (false, true);
        let cases: [(&[_], _); 5] = [
            (&[NEW, ACCEPTED], Standing::Starting),
            (&[ACCEPTED, ACCEPTED], Standing::Ready),
            (&[ACCEPTED, THROTTLED], Standing::Ready),
            (&[THROTTLED, NEW], Standing::Starting),
            (&[THROTTLED, THROTTLED], Standing::Failed),
        ];
        for (slots, expected) in cases {
            assert_eq!(standing(slots.iter().copied()), expected, "{slots:?}");
        }
    }
}
