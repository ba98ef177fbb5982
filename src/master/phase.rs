//! The stages of the master's life.
#![forbid(unsafe_code)]

use std::fmt;

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
    /// Until this moment, workers serve the clients that wait, and finish their
    /// connections.
    Draining(Moment),
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
