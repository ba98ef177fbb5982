//! The monotonic clock, in a form that two processes can compare.

use std::ops::{Add, Sub};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment of CLOCK_MONOTONIC (clock_gettime(2)).
///
/// `std::time::Instant` is opaque and cannot cross shared memory; this is the
/// count of nanoseconds since boot, the same in every process of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The present moment.
    pub fn now() -> Self {
        // The clock id is a constant that every kernel knows, so this cannot
        // fail; zero would only mean that no deadline has passed yet.
        clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_or(Moment(0), |time| Moment::from_nanos(Duration::from(time).as_nanos() as u64))
    }

    /// The moment `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Moment(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment `span` ago, as seen from this one; boot, if that is later.
    pub fn before(self, span: Duration) -> Moment {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_sub(nanos))
    }

    /// The time from `earlier` to this moment, zero if it is not earlier.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, span: Duration) -> Moment {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Moment) -> Duration {
        self.since(earlier)
    }
}
