//! A pool during a reload: what is tried beside what serves, until it is kept or
//! taken back.
#![forbid(unsafe_code)]

use std::rc::Rc;

use crate::config;
use crate::listener::Listener;

use super::cause::Asked;
use super::generation::Generation;
use super::{Blueprint, Pool};

/// What a reload that has not concluded has done to a pool, beside giving it a
/// new generation.
#[derive(Default)]
pub struct Trial {
    /// It made the pool.
    is_new: bool,
    /// It wants the pool to go.
    is_doomed: bool,
    /// It has resized the pool, which was like this before.
    before: Option<(u32, config::Pool)>,
}

impl Pool {
    /// Marks a pool that a reload makes.
    pub fn on_trial(mut self) -> Self {
        self.trial.is_new = true;
        self
    }

    /// For a reload: starts a new generation beside the one that serves, which
    /// goes on until the reload is committed.
    pub fn renew(&mut self, blueprint: Blueprint, listener: Rc<Listener>) {
        let old = std::mem::replace(&mut self.current, Generation::new(blueprint, listener));
        if self.elder.is_none() && !self.trial.is_new {
            self.elder = Some(old);
        } else {
            // It never got to be the one that serves.
            self.dismiss(old, Asked::Retire);
        }
    }

    /// For a reload: changes the number of workers.
    pub fn resize_to(&mut self, config: config::Pool) {
        if self.elder.is_none() && !self.trial.is_new && self.trial.before.is_none() {
            self.trial.before = Some((self.size(), self.config().clone()));
        }
        self.resize(config.workers);
        self.current.blueprint.config = config;
    }

    /// For a reload: it is in the configuration, or not.
    pub fn doom(&mut self, is_doomed: bool) {
        self.trial.is_doomed = is_doomed;
    }

    /// Whether a reload waits for it to show that its workers start.
    pub fn is_on_trial(&self) -> bool {
        (self.trial.is_new || self.elder.is_some()) && !self.trial.is_doomed
    }

    /// The reload is in force: what it replaced goes. Tells whether the pool
    /// stays.
    pub fn commit(&mut self) -> bool {
        let Trial { is_doomed, .. } = std::mem::take(&mut self.trial);
        if let Some(elder) = self.elder.take() {
            self.dismiss(elder, Asked::Retire);
        }
        !is_doomed
    }

    /// The reload has failed: what it did is undone. Tells whether the pool
    /// stays.
    pub fn revert(&mut self) -> bool {
        let Trial { is_new, before, .. } = std::mem::take(&mut self.trial);
        if is_new {
            // Its listener may be one that another pool has again.
            return false;
        }
        if let Some(elder) = self.elder.take() {
            let failed = std::mem::replace(&mut self.current, elder);
            self.dismiss(failed, Asked::Retire);
        }
        if let Some((size, config)) = before {
            self.resize(size);
            self.current.blueprint.config = config;
        }
        if let Some(listener) = &self.current.listener {
            // It was done when the reload began; were it to fail now, the next
            // reload would tell.
            let _ = listener.adjust(self.config().listen.get_ref());
        }
        true
    }
}
