//! How much of what repeats itself is logged of a pool.
#![forbid(unsafe_code)]

use crate::log::limit::Limit;
use crate::sys::clock::Moment;

use super::cause::Cause;
use super::generation::StartKind;

/// How many crashes a pool may log in ten seconds; a client that can make a
/// worker crash must not fill the disk.
const CRASHES: u32 = 2_000;

/// The same for workers that have served their quota, and for those that take the
/// place of others. Far more, for their ends account for what was served.
const TURNOVER: u32 = 20_000;

/// The same for connections that take too long.
const TIMEOUTS: u32 = 200;

/// The bounds of one pool. Each gives how many lines of its kind were held back since
/// the last one that was logged, or None to hold this one back, too.
pub struct Limits {
    crashes: Limit,
    recycled: Limit,
    replaced: Limit,
    timed_out: Limit,
    /// Of slots that back off: starts, ends, delays.
    retried: [Limit; 3],
}

impl Limits {
    pub fn new() -> Self {
        Limits {
            crashes: Limit::new(CRASHES),
            recycled: Limit::new(TURNOVER),
            replaced: Limit::new(TURNOVER),
            timed_out: Limit::new(TIMEOUTS),
            retried: [1; 3].map(Limit::new),
        }
    }

    /// A worker was forked.
    pub fn start(&mut self, kind: StartKind, now: Moment) -> Option<u64> {
        match kind {
            StartKind::First => Some(0),
            StartKind::Replacement => self.replaced.admit(now),
            StartKind::Retry => self.retried[0].admit(now),
        }
    }

    /// A worker of a slot that backs off has lived.
    pub fn recovery(&mut self, now: Moment) -> Option<u64> {
        self.replaced.admit(now)
    }

    /// A worker has ended; `is_retry` if its slot backs off.
    pub fn end(&mut self, cause: Cause, is_retry: bool, now: Moment) -> Option<u64> {
        match cause {
            _ if is_retry => self.retried[1].admit(now),
            Cause::Recycled => self.recycled.admit(now),
            _ if cause.is_wanted() => Some(0),
            _ => self.crashes.admit(now),
        }
    }

    /// A slot waits before it is filled again.
    pub fn delay(&mut self, now: Moment) -> Option<u64> {
        self.retried[2].admit(now)
    }

    /// A connection takes too long.
    pub fn time_out(&mut self, now: Moment) -> Option<u64> {
        self.timed_out.admit(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_nanos(1);

    #[test]
    fn what_clients_can_make_of_workers_is_bounded() {
        let mut limits = Limits::new();
        let ends = (0..30_000).filter_map(|_| limits.end(Cause::Recycled, false, NOW));
        assert_eq!(ends.count(), 20_000);
        let starts = (0..30_000).filter_map(|_| limits.start(StartKind::Replacement, NOW));
        assert_eq!(starts.count(), 20_000);
        let crashes = (0..30_000).filter_map(|_| limits.end(Cause::Crashed, false, NOW));
        assert_eq!(crashes.count(), 2_000);
    }

    #[test]
    fn what_the_operator_asks_for_is_told() {
        let mut limits = Limits::new();
        assert!((0..30_000).all(|_| limits.start(StartKind::First, NOW) == Some(0)));
        for cause in [Cause::Retired, Cause::Stopped] {
            assert!((0..30_000).all(|_| limits.end(cause, false, NOW) == Some(0)));
        }
    }
}
