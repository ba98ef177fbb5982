//! A pool during a reload: what is tried next to what serves, until the trial is kept or
//! taken back.
#![forbid(unsafe_code)]

use nix::unistd::Pid;

use crate::config;
use crate::sys::clock::Moment;

use super::generation::{Gate, Generation, Standing};
use super::{Asked, Blueprint, Listeners, Pool, scaled};

impl Pool {
    /// Starts a new generation next to the one that serves. Its workers get ready, and
    /// wait for [`commit`](Self::commit) before they accept.
    pub fn try_out(&mut self, mut blueprint: Blueprint, listeners: Listeners, now: Moment) {
        blueprint.inherit_ledger(&self.serving.blueprint);
        self.next = Some(Generation::new(self.generations, blueprint, listeners, Gate::Shut));
        self.generations += 1;
        if self.serving.failing().is_none() {
            // An old failure of a worker does not explain this trial.
            self.last_failure = None;
        }
        self.keep_pace(now);
    }

    /// How far that has come which a reload tries; None if it tries nothing here.
    pub fn trial(&self) -> Option<Standing> {
        let tried =
            self.next.as_ref().or((self.serving.gate == Gate::Shut).then_some(&self.serving));
        let tried = tried?;
        match tried.standing(self.room()) {
            // All ready workers have died since, so there would be none to take over.
            Standing::Ready if !tried.has_worker() => Some(Standing::Starting),
            standing => Some(standing),
        }
    }

    /// The configuration epoch that new workers belong to from now on.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.next.as_mut().unwrap_or(&mut self.serving).epoch = epoch;
    }

    /// The reload is in force: what was tried accepts, and what it replaces goes.
    pub fn commit(&mut self, now: Moment) {
        let old = self.next.take().map(|next| std::mem::replace(&mut self.serving, next));
        if self.serving.gate == Gate::Shut {
            self.serving.gate = Gate::Open;
            self.serving.listeners.suit();
            self.serving.pids().filter_map(|pid| self.workers.get(&pid)).for_each(|it| it.let_in());
        }
        // Only now, so that somebody accepts at any time.
        old.into_iter().for_each(|old| self.dismiss(old, now));
    }

    /// The reload has failed: what was tried goes.
    pub fn revert(&mut self, now: Moment) {
        if let Some(next) = self.next.take() {
            self.dismiss(next, now);
        }
    }

    /// Takes over what the configuration says of a pool that keeps its workers, as far
    /// as there is room for them; `step` is how many workers more it is to have.
    pub fn resize_to(&mut self, config: config::Pool, step: i64, now: Moment) {
        self.resize(scaled(&config, config.workers, step), now);
        self.serving.blueprint.config = config;
    }

    fn dismiss(&mut self, generation: Generation, now: Moment) {
        let workers: Vec<Pid> = generation.pids().collect();
        self.retire(workers, Asked::Retire, now);
        // Only now does the generation drop its listeners.
    }
}
