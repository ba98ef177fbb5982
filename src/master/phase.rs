//! The stages of the master's life.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::pool::Standing;
use crate::sys::clock::Moment;

/// The stages of the master's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first workers start.
    Starting,
    /// The pools serve.
    Running,
    /// The daemon was asked to stop, and the pools still serve until this moment
    /// (`stop_delay`).
    Delaying(Moment),
    /// Workers serve the clients that wait, and finish their connections. Programs are asked
    /// to end at `ask`.
    Draining {
        /// When programs are asked.
        ask: Moment,
        /// When what is left is killed.
        until: Moment,
    },
    /// The same until this moment. Programs were asked to end.
    Asking(Moment),
    /// Workers were asked to end, and are killed at this moment.
    Ending(Moment),
    /// Workers were killed. If the kernel does not release one, the wait ends at this
    /// moment.
    Killing(Moment),
    /// No worker is left.
    Stopped,
    /// No pool could start.
    Failed,
}

impl Phase {
    /// Whether the daemon is stopping.
    pub fn is_stopping(self) -> bool {
        !matches!(self, Phase::Starting | Phase::Running)
    }

    /// Whether the daemon's work is over.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Stopped | Phase::Failed)
    }

    /// Whether vacant slots are filled.
    pub fn fills_slots(self) -> bool {
        matches!(
            self,
            Phase::Starting
                | Phase::Running
                | Phase::Delaying(_)
                | Phase::Draining { .. }
                | Phase::Asking(_)
        )
    }

    /// That of a drain which begins at `now`. Programs get `kill_timeout` of it to end, but
    /// half of it at most: they are to be let be first.
    pub fn draining(now: Moment, stop_timeout: Duration, kill_timeout: Duration) -> Phase {
        let grace = kill_timeout.min(stop_timeout / 2);
        Phase::Draining { ask: now + (stop_timeout - grace), until: now + stop_timeout }
    }

    /// When the phase ends by itself.
    pub fn deadline(self) -> Option<Moment> {
        match self {
            Phase::Delaying(until)
            | Phase::Draining { ask: until, .. }
            | Phase::Asking(until)
            | Phase::Ending(until)
            | Phase::Killing(until) => Some(until),
            _ => None,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Delaying(_) => "delaying",
            Phase::Draining { .. } => "draining",
            Phase::Asking(_) => "asking",
            Phase::Ending(_) => "ending",
            Phase::Killing(_) => "killing",
            Phase::Stopped => "stopped",
            Phase::Failed => "failed",
        })
    }
}

/// The standing of all pools together: they are starting as long as one is, and have failed
/// if all have.
pub fn together(standings: impl Iterator<Item = Standing> + Clone) -> Standing {
    if standings.clone().any(|standing| standing == Standing::Starting) {
        Standing::Starting
    } else if standings.clone().any(|standing| standing == Standing::Ready) {
        Standing::Ready
    } else {
        Standing::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_asked_before_the_end_and_not_at_once() {
        let second = Duration::from_secs(1);
        let at = |millis: u64| Moment::from_nanos(millis * 1_000_000);
        for (stop_timeout, kill_timeout, asked, killed) in [
            (30 * second, 5 * second, 26_000, 31_000),
            (30 * second, 20 * second, 16_000, 31_000),
            (second, 5 * second, 1_500, 2_000),
        ] {
            let expected = Phase::Draining { ask: at(asked), until: at(killed) };
            assert_eq!(Phase::draining(at(1_000), stop_timeout, kill_timeout), expected);
        }
    }

    #[test]
    fn one_pool_that_serves_makes_a_daemon() {
        use Standing::{Failed, Ready, Starting};
        for (standings, expected) in [
            (&[Ready, Ready][..], Ready),
            (&[Ready, Failed], Ready),
            (&[Failed, Failed], Failed),
            (&[Ready, Starting], Starting),
            (&[Failed, Starting], Starting),
        ] {
            assert_eq!(together(standings.iter().copied()), expected, "{standings:?}");
        }
    }
}
