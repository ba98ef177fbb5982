//! Token buckets: how often something may happen, and how much of it at once.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::config::Rate;
use crate::sys::clock::Moment;

/// A rate as a bucket of tokens. The bucket is one number, and holds as many tokens as
/// `burst` at most (the generic cell rate algorithm of ATM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How long a token takes to come back.
    interval: u64,
    /// How far ahead of the present a bucket may be and still have a token.
    tolerance: u64,
}

impl Quota {
    /// So many in each span of time.
    pub fn new(count: u32, span: Duration, burst: u32) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let interval = (span / u64::from(count.max(1))).max(1);
        Quota { interval, tolerance: interval.saturating_mul(u64::from(burst.max(1)) - 1) }
    }

    /// Takes a token out of a bucket; gives the bucket that is left, or None if it is
    /// empty. A bucket is the moment when it will be full again, and 0 is full.
    ///
    /// A bucket that cannot have come from here is taken for a full one: it holds what a
    /// worker gone wild has written, or comes from a larger quota that a reload has changed.
    pub fn take(self, bucket: u64, now: Moment) -> Option<u64> {
        let now = now.as_nanos();
        let latest = now.saturating_add(self.tolerance).saturating_add(self.interval);
        let full_at = if bucket > latest { now } else { bucket.max(now) };
        let has_token = full_at - now <= self.tolerance;
        has_token.then(|| full_at.saturating_add(self.interval))
    }
}

impl From<Rate> for Quota {
    fn from(rate: Rate) -> Self {
        Quota::new(rate.count, rate.span, rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn quota(count: u32, burst: u32) -> Quota {
        Quota::new(count, Duration::from_secs(1), burst)
    }

    /// How many of these moments, in nanoseconds, find a token.
    fn taken(quota: Quota, moments: impl IntoIterator<Item = u64>) -> usize {
        let mut bucket = 0;
        let take = |&moment: &u64| {
            let left = quota.take(bucket, Moment::from_nanos(moment));
            bucket = left.unwrap_or(bucket);
            left.is_some()
        };
        moments.into_iter().filter(take).count()
    }

    #[test]
    fn a_bucket_and_a_moment_give_a_verdict() {
        let at = 100 * SECOND;
        let now = Moment::from_nanos(at);
        for (what, quota, bucket, verdict) in [
            ("a new bucket", quota(10, 1), 0, Some(at + SECOND / 10)),
            ("one that was full long ago", quota(10, 1), at - 1, Some(at + SECOND / 10)),
            ("one that is full now", quota(10, 1), at, Some(at + SECOND / 10)),
            ("one that lacks its only token", quota(10, 1), at + 1, None),
            ("one that has just given it", quota(10, 1), at + SECOND / 10, None),
            ("one with a token left", quota(10, 2), at + SECOND / 10, Some(at + SECOND / 5)),
            ("one that lacks a little", quota(10, 2), at + SECOND / 10 + 1, None),
            ("one that has given both", quota(10, 2), at + SECOND / 5, None),
            ("one that nobody can owe", quota(10, 2), at + SECOND / 5 + 1, Some(at + SECOND / 10)),
            ("rubbish", quota(10, 2), u64::MAX, Some(at + SECOND / 10)),
        ] {
            assert_eq!(quota.take(bucket, now), verdict, "{what}");
        }
    }

    #[test]
    fn so_many_are_taken_at_once_and_then_so_many_a_second() {
        assert_eq!(taken(quota(50, 50), [SECOND; 200]), 50);
        assert_eq!(taken(quota(50, 5), [SECOND; 200]), 5);
        // Each millisecond of ten seconds: the burst, and what comes back meanwhile.
        let each_millisecond = (0..10_000).map(|at| SECOND + at * SECOND / 1_000);
        assert_eq!(taken(quota(50, 5), each_millisecond.clone()), 5 + 499);
        assert_eq!(taken(quota(50, 1), each_millisecond.clone()), 500);
        assert_eq!(taken(quota(5_000, 1), each_millisecond), 10_000, "all of them");
        // A pause only fills the bucket.
        assert_eq!(taken(quota(1, 3), [1, 1, 1, 1, 1 + 60 * SECOND].map(|at| at + SECOND)), 4);
    }

    // In any span of time there are at most the burst and the clients that the rate allows
    // in the span.
    #[test]
    fn no_span_has_more_than_its_share() {
        let mut random = 88_172_645_463_325_252_u64;
        let mut draw = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..200 {
            let (count, burst) = (1 + draw(100) as u32, 1 + draw(20) as u32);
            let quota = quota(count, burst);
            let (mut now, mut bucket, mut taken) = (SECOND, 0, Vec::new());
            for _ in 0..500 {
                now += draw(2 * SECOND / u64::from(count));
                if let Some(left) = quota.take(bucket, Moment::from_nanos(now)) {
                    bucket = left;
                    taken.push(now);
                }
            }
            for (at, from) in taken.iter().enumerate() {
                for (later, to) in taken.iter().enumerate().skip(at) {
                    let brought = (to - from) / quota.interval;
                    assert!((later - at) as u64 <= u64::from(burst) + brought, "{quota:?}");
                }
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        for quota in [
            Quota::new(1, Duration::MAX, u32::MAX),
            Quota::new(u32::MAX, Duration::from_nanos(1), 1),
            Quota::new(0, Duration::ZERO, 0),
        ] {
            for bucket in [0, 1, u64::MAX] {
                for now in [0, 1, u64::MAX] {
                    let _ = quota.take(bucket, Moment::from_nanos(now));
                }
            }
        }
    }
}
