//! The workers of one configuration epoch: their slots and their progress.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use nix::unistd::Pid;

use crate::sys::clock::Moment;

use super::Blueprint;
use super::listeners::Listeners;
use super::slot::{Next, Sign, Slot, StartKind};
use super::throttle::{Delay, End};

/// Slots that share a blueprint and the listeners.
pub struct Generation {
    /// Its number in its pool.
    pub(super) id: u64,
    pub(super) blueprint: Blueprint,
    /// None once the pool has released its addresses.
    pub(super) listeners: Listeners,
    /// The configuration epoch that its new workers belong to.
    pub(super) epoch: u64,
    pub(super) gate: Gate,
    /// How many workers the generation should have.
    target: u32,
    slots: Vec<Slot>,
    /// The vacant slots that may be filled now.
    due: VecDeque<u32>,
    census: Census,
}

/// Whether the workers of a generation may accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The workers wait until a reload is committed.
    Shut,
    /// The workers may accept.
    Open,
    /// The workers may accept until the queues of the listeners are empty, and then leave.
    Draining,
}

/// How many slots show which sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Census {
    accept: usize,
    fail: usize,
}

/// The progress of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Some slots have shown no result yet.
    Starting,
    /// Every slot has had a worker that accepted, or backs off. At least one has had such a
    /// worker. A slot for which the pool has no room does not count.
    Ready,
    /// Every slot backs off, and no worker has accepted.
    Failed,
}

impl Generation {
    pub(super) fn new(id: u64, blueprint: Blueprint, listeners: Listeners, gate: Gate) -> Self {
        let target = blueprint.config.workers;
        let mut generation = Generation {
            id,
            blueprint,
            listeners,
            epoch: 0,
            gate,
            target: 0,
            slots: Vec::new(),
            due: VecDeque::new(),
            census: Census::default(),
        };
        generation.resize(target);
        generation
    }

    /// How many workers the generation should have.
    pub fn target(&self) -> u32 {
        self.target
    }

    /// The progress, if the generation may have this many more workers.
    pub fn standing(&self, room: usize) -> Standing {
        let held_back = self.due.len().saturating_sub(room);
        self.census.standing(self.slots.len(), held_back)
    }

    /// Whether the generation has a worker that accepts.
    pub fn has_worker(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Serving(..)))
    }

    /// The workers of its slots, if every slot backs off.
    pub fn failing(&self) -> Option<impl Iterator<Item = Pid>> {
        let all_fail = !self.slots.is_empty() && self.slots.iter().all(Slot::backs_off);
        all_fail.then(|| self.pids())
    }

    /// How many slots back off.
    pub fn backing_off(&self) -> usize {
        self.slots.iter().filter(|slot| slot.pid().is_none() && slot.backs_off()).count()
    }

    /// Changes how many workers the generation should have. Gives the workers that no
    /// longer have a slot.
    pub(super) fn resize(&mut self, target: u32) -> Vec<Pid> {
        self.target = target;
        let size = target as usize;
        let surplus = self.slots.split_off(size.min(self.slots.len()));
        surplus.iter().for_each(|slot| self.census.forget(slot.sign()));
        self.due.retain(|&index| index < target);
        self.due.extend(self.slots.len() as u32..target);
        self.slots.resize_with(size, Slot::default);
        surplus.iter().filter_map(Slot::pid).collect()
    }

    /// The workers in its slots.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.slots.iter().filter_map(Slot::pid)
    }

    /// How many slots may be filled now. Without a listener a worker would have nothing to
    /// do, so there are none.
    pub(super) fn vacancies(&self) -> usize {
        if self.listeners.is_empty() { 0 } else { self.due.len() }
    }

    /// Takes the next slots to be filled, at most this many, each with its history. The
    /// caller must [fill](Self::fill) each of them or [give it back](Self::put_back).
    pub(super) fn take_due(&mut self, most: usize, now: Moment) -> Vec<(u32, StartKind)> {
        let most = most.min(self.vacancies());
        let mut taken = Vec::with_capacity(most);
        while taken.len() < most
            && let Some(index) = self.due.pop_front()
        {
            if let Some(Next::Fill(kind)) = self.slots.get(index as usize).map(|it| it.next(now)) {
                taken.push((index, kind));
            }
        }
        taken
    }

    /// These slots stay the next to be filled.
    pub(super) fn put_back(&mut self, slots: &[u32]) {
        slots.iter().rev().for_each(|&index| self.due.push_front(index));
    }

    /// This slot has got this worker.
    pub(super) fn fill(&mut self, index: u32, pid: Pid) {
        self.change(index, |slot| (slot.filled(pid), ()));
    }

    /// The delay of a slot may be over.
    pub(super) fn look_whether_due(&mut self, index: u32, now: Moment) {
        let is_due = self
            .slots
            .get(index as usize)
            .is_some_and(|slot| matches!(slot.next(now), Next::Fill(_)));
        if is_due && !self.due.contains(&index) {
            self.due.push_back(index);
        }
    }

    /// The worker of a slot accepts.
    pub(super) fn accepts(&mut self, index: u32) {
        self.change(index, |slot| (slot.accepting(), ()));
    }

    /// The worker of a slot has ended. Gives the delay until the slot may be filled.
    pub(super) fn vacate(
        &mut self,
        index: u32,
        end: End,
        now: Moment,
        random: u64,
    ) -> Option<Delay> {
        let delay = self.change(index, |slot| slot.vacated(end, now, random)).flatten();
        if delay.is_none() {
            self.due.push_back(index);
        }
        delay
    }

    /// Whether a slot backs off.
    pub(super) fn backs_off(&self, index: u32) -> bool {
        self.slots.get(index as usize).is_some_and(Slot::backs_off)
    }

    fn change<T>(&mut self, index: u32, change: impl FnOnce(Slot) -> (Slot, T)) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        self.census.forget(slot.sign());
        let (changed, result) = change(*slot);
        *slot = changed;
        self.census.count(slot.sign());
        Some(result)
    }
}

impl Census {
    fn count(&mut self, sign: Sign) {
        match sign {
            Sign::Accepts => self.accept += 1,
            Sign::Fails => self.fail += 1,
            Sign::Open => {}
        }
    }

    fn forget(&mut self, sign: Sign) {
        match sign {
            Sign::Accepts => self.accept -= 1,
            Sign::Fails => self.fail -= 1,
            Sign::Open => {}
        }
    }

    /// The progress of this many slots together, of which some are held back.
    fn standing(self, slots: usize, held_back: usize) -> Standing {
        let Census { accept, fail } = self;
        if accept + fail + held_back < slots {
            Standing::Starting
        } else if accept > 0 {
            Standing::Ready
        } else if held_back > 0 {
            // Failing workers make room in the end.
            Standing::Starting
        } else {
            Standing::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_that_accepts_makes_a_generation() {
        for (accept, fail, slots, held_back, expected) in [
            (1, 0, 2, 0, Standing::Starting),
            (2, 0, 2, 0, Standing::Ready),
            (1, 1, 2, 0, Standing::Ready),
            (0, 1, 2, 0, Standing::Starting),
            (0, 2, 2, 0, Standing::Failed),
            (1, 0, 4, 3, Standing::Ready),
            (0, 0, 4, 3, Standing::Starting),
            (0, 0, 4, 4, Standing::Starting),
            (0, 1, 4, 3, Standing::Starting),
        ] {
            let census = Census { accept, fail };
            assert_eq!(
                census.standing(slots, held_back),
                expected,
                "{census:?} {slots} {held_back}"
            );
        }
    }
}
