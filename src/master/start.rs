//! The start: from the first pool that serves until every pool has accepted.
#![forbid(unsafe_code)]

use crate::log::event::Event;
use crate::pool::{Pool, Standing};
use crate::sys::clock::Moment;

use super::Master;
use super::condition;
use super::phase::Phase;
use super::stop::Haste;

impl Master<'_> {
    /// Some pools accept, and the others have failed.
    pub(super) fn begin_service(&mut self) {
        let accept = || self.pools.iter().filter(|pool| pool.standing() == Standing::Ready);
        let (pools, workers) = (accept().count(), accept().map(Pool::target).sum());
        self.news.push(Event::Ready { pools, workers });
        if let Some(warning) = condition::not_started(&self.pools) {
            self.herald.warn(warning);
        }
        self.enter(Phase::Running);
        self.look_who_is_ready();
    }

    /// Takes note of when every pool accepts for the first time.
    pub(super) fn look_who_is_ready(&mut self) {
        if !self.herald.is_ready()
            && self.pools.iter().all(|pool| pool.standing() == Standing::Ready)
        {
            self.herald.begin();
        }
    }

    /// When a start fails that waits for a pool.
    pub(super) fn start_deadline(&self) -> Option<Moment> {
        let is_awaited = self.phase == Phase::Running
            && !self.herald.is_ready()
            && self.herald.observer.waits_for_all();
        let failed = self.pools.iter().filter(|pool| pool.standing() == Standing::Failed);
        let timeouts = failed.filter_map(|pool| pool.config().start_timeout);
        timeouts.min().filter(|_| is_awaited).map(|timeout| self.started + timeout)
    }

    /// Ends a start that has waited for too long.
    pub(super) fn give_up_start(&mut self, now: Moment) {
        if self.start_deadline().is_some_and(|deadline| deadline <= now) {
            self.start_failure = condition::not_started(&self.pools);
            self.begin_stop("start_timeout", Haste::None, now);
        }
    }
}
