//! How much of what repeats itself is logged of a pool.
#![forbid(unsafe_code)]

use crate::log::rate::{HeldBack, Rate};
use crate::sys::clock::Moment;

use super::cause::Cause;
use super::slot::StartKind;

/// How many crashes a pool may log in ten seconds; a client that can make a
/// worker crash must not fill the disk.
const CRASHES: u32 = 2_000;

/// The same for workers that have served their quota, and for those that take the
/// place of others. Far more, for their ends account for what was served.
const TURNOVER: u32 = 20_000;

/// The same for connections that take too long.
const TIMEOUTS: u32 = 200;

/// The rates of one pool. Each gives how many lines of its kind were held back since
/// the last one that was logged, or None to hold this one back, too.
pub struct Rates {
    crashes: Rate,
    recycled: Rate,
    replaced: Rate,
    timed_out: Rate,
    halted: Rate,
    cut: Rate,
    /// Of slots that back off: starts, ends, delays.
    retried: [Rate; 3],
}

impl Rates {
    pub fn new() -> Self {
        Rates {
            crashes: Rate::new(CRASHES),
            recycled: Rate::new(TURNOVER),
            replaced: Rate::new(TURNOVER),
            timed_out: Rate::new(TIMEOUTS),
            halted: Rate::new(TIMEOUTS),
            cut: Rate::new(TIMEOUTS),
            retried: [1; 3].map(Rate::new),
        }
    }

    /// A worker was forked.
    pub fn start(&mut self, kind: StartKind, now: Moment) -> Option<HeldBack> {
        match kind {
            StartKind::First => Some(HeldBack::NONE),
            StartKind::Replacement => self.replaced.admit(now),
            StartKind::Retry => self.retried[0].admit(now),
        }
    }

    /// A worker of a slot that backs off has lived.
    pub fn recovery(&mut self, now: Moment) -> Option<HeldBack> {
        self.replaced.admit(now)
    }

    /// A worker has ended.
    pub fn end(&mut self, cause: Cause, now: Moment) -> Option<HeldBack> {
        match cause {
            Cause::Recycled => self.recycled.admit(now),
            _ if cause.is_wanted() => Some(HeldBack::NONE),
            _ => self.crashes.admit(now),
        }
    }

    /// A worker of a slot that backs off has died young again.
    pub fn failed_retry(&mut self, now: Moment) -> Option<HeldBack> {
        self.retried[1].admit(now)
    }

    /// A slot waits before it is filled again.
    pub fn delay(&mut self, now: Moment) -> Option<HeldBack> {
        self.retried[2].admit(now)
    }

    /// A worker was suspended.
    pub fn halt(&mut self, now: Moment) -> Option<HeldBack> {
        self.halted.admit(now)
    }

    /// A connection was ended.
    pub fn cut(&mut self, now: Moment) -> Option<HeldBack> {
        self.cut.admit(now)
    }

    /// A connection takes too long.
    pub fn time_out(&mut self, now: Moment) -> Option<HeldBack> {
        self.timed_out.admit(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_nanos(1);

    #[test]
    fn what_clients_can_make_of_workers_is_bounded() {
        let mut rates = Rates::new();
        let ends = (0..30_000).filter_map(|_| rates.end(Cause::Recycled, NOW));
        assert_eq!(ends.count(), 20_000);
        let starts = (0..30_000).filter_map(|_| rates.start(StartKind::Replacement, NOW));
        assert_eq!(starts.count(), 20_000);
        let crashes = (0..30_000).filter_map(|_| rates.end(Cause::Crashed, NOW));
        assert_eq!(crashes.count(), 2_000);
    }

    #[test]
    fn what_the_operator_asks_for_is_told() {
        let mut rates = Rates::new();
        assert!((0..30_000).all(|_| rates.start(StartKind::First, NOW) == Some(HeldBack::NONE)));
        for cause in [Cause::Retired, Cause::Stopped] {
            assert!((0..30_000).all(|_| rates.end(cause, NOW) == Some(HeldBack::NONE)));
        }
    }
}
