//! Where the master is in its life.
#![forbid(unsafe_code)]

use std::fmt;

use crate::pool::Standing;
use crate::sys::clock::Moment;

/// Where the master is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first workers are on their way.
    Starting,
    /// The pools serve.
    Running,
    /// The pools serve on before they stop, until then (`stop_delay`).
    Delaying(Moment),
    /// Workers serve those who wait and finish what they have in hand, until then.
    Draining(Moment),
    /// Workers were asked to end, and are killed then.
    Ending(Moment),
    /// Workers were killed; should the kernel not let go of one, that is the
    /// moment not to wait any longer.
    Killing(Moment),
    /// No worker is left.
    Stopped,
    /// No pool could start.
    Failed,
}

impl Phase {
    /// Whether the daemon is on its way out.
    pub fn is_stopping(self) -> bool {
        !matches!(self, Phase::Starting | Phase::Running)
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Stopped | Phase::Failed)
    }

    /// Whether vacant slots are filled.
    pub fn fills_slots(self) -> bool {
        matches!(self, Phase::Starting | Phase::Running | Phase::Delaying(_) | Phase::Draining(_))
    }

    /// When the phase ends by itself.
    pub fn deadline(self) -> Option<Moment> {
        match self {
            Phase::Delaying(until)
            | Phase::Draining(until)
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
            Phase::Draining(_) => "draining",
            Phase::Ending(_) => "ending",
            Phase::Killing(_) => "killing",
            Phase::Stopped => "stopped",
            Phase::Failed => "failed",
        })
    }
}

/// How far the pools have come, taken together: they are starting as long as
/// one is, and have failed if all have.
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
