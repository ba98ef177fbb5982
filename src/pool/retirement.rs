//! What happens when a worker that was asked to retire does not leave.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::scoreboard::InHand;
use crate::sys::clock::Moment;

/// A retirement that a worker was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retirement {
    since: Moment,
    /// Since when the worker was seen without a connection; None while it has one.
    idle: Option<Moment>,
    next: Moment,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the worker has a connection in hand.
    Wait,
    /// This connection has had its time.
    Cut(InHand),
    /// The worker has nothing in hand and has not left.
    Kill,
}

/// The time limits of a retirement.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For a worker with nothing in hand.
    pub kill: Duration,
    /// For a worker with a connection in hand; None is for ever.
    pub retire: Option<Duration>,
}

impl Retirement {
    /// The worker was asked at `now`, with this connection in hand.
    pub fn begin(in_hand: Option<InHand>, now: Moment, bounds: Bounds) -> Self {
        let first = bounds.retire.map_or(bounds.kill, |retire| retire.min(bounds.kill));
        Retirement { since: now, idle: in_hand.is_none().then_some(now), next: now + first }
    }

    /// When to look at the worker next.
    pub fn deadline(self) -> Moment {
        self.next
    }

    /// The time since the worker was asked.
    pub fn elapsed(self, now: Moment) -> Duration {
        now - self.since
    }

    /// The step at `now`; None if it is not time to look.
    ///
    /// A worker that was asked no longer accepts, so an idle worker stays idle. The pause
    /// between two looks grows with the time that has passed, so that a connection of hours
    /// does not wake the master every few seconds.
    pub fn step(&mut self, in_hand: Option<InHand>, now: Moment, bounds: Bounds) -> Option<Step> {
        if now < self.next {
            return None;
        }
        let elapsed = self.elapsed(now);
        let cut_at = bounds.retire.map(|retire| self.since + retire);
        self.next = now + elapsed.max(bounds.kill);
        let Some(connection) = in_hand else {
            // Its service may have work to finish, and gets the same time for that.
            let kill_at = *self.idle.get_or_insert(now) + bounds.kill;
            self.next = kill_at;
            return Some(if kill_at > now { Step::Wait } else { Step::Kill });
        };
        self.idle = None;
        match cut_at {
            Some(cut_at) if cut_at <= now => Some(Step::Cut(connection)),
            Some(cut_at) => {
                self.next = self.next.min(cut_at);
                Some(Step::Wait)
            }
            None => Some(Step::Wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: Duration = Duration::from_secs(5);
    const CONNECTION: InHand = InHand { serial: 1, began: Moment::from_nanos(1) };

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    fn begun(retire: Option<u64>) -> (Retirement, Bounds) {
        let bounds = Bounds { kill: KILL, retire: retire.map(Duration::from_secs) };
        (Retirement::begin(None, at(10), bounds), bounds)
    }

    #[test]
    fn one_with_nothing_in_hand_is_killed_after_kill_timeout() {
        let (mut retirement, bounds) = begun(None);
        assert_eq!(retirement.step(None, at(14), bounds), None, "not before its time");
        assert_eq!(retirement.step(None, at(15), bounds), Some(Step::Kill));
    }

    #[test]
    fn one_with_a_connection_is_looked_at_ever_more_seldom() {
        let (mut retirement, bounds) = begun(None);
        let mut looks = Vec::new();
        for _ in 0..5 {
            let next = retirement.deadline();
            looks.push((next - at(10)).as_secs());
            assert_eq!(retirement.step(Some(CONNECTION), next, bounds), Some(Step::Wait));
        }
        assert_eq!(looks, [5, 10, 20, 40, 80]);
    }

    #[test]
    fn one_whose_connection_has_ended_gets_the_time_to_leave() {
        let (mut retirement, bounds) = begun(None);
        assert_eq!(retirement.step(Some(CONNECTION), at(15), bounds), Some(Step::Wait));
        assert_eq!(retirement.step(None, at(20), bounds), Some(Step::Wait));
        assert_eq!(retirement.deadline(), at(25));
        assert_eq!(retirement.step(None, at(25), bounds), Some(Step::Kill));
        let mut retirement = Retirement::begin(Some(CONNECTION), at(10), bounds);
        assert_eq!(retirement.step(None, at(15), bounds), Some(Step::Wait));
        assert_eq!(retirement.step(None, at(20), bounds), Some(Step::Kill));
    }

    #[test]
    fn retire_timeout_bounds_the_connection() {
        for (retire, looks) in [(7, &[5, 7][..]), (3, &[3]), (5, &[5])] {
            let (mut retirement, bounds) = begun(Some(retire));
            let mut seen = Vec::new();
            loop {
                let next = retirement.deadline();
                seen.push((next - at(10)).as_secs());
                if retirement.step(Some(CONNECTION), next, bounds) == Some(Step::Cut(CONNECTION)) {
                    break;
                }
            }
            assert_eq!(seen, looks);
        }
        let (mut retirement, bounds) = begun(Some(3));
        assert_eq!(retirement.step(None, at(13), bounds), Some(Step::Wait), "still in time to go");
        assert_eq!(retirement.deadline(), at(15));
        assert_eq!(retirement.step(None, at(15), bounds), Some(Step::Kill));
    }
}
