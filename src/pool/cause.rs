//! Why a worker ended, as far as the master can know.
#![forbid(unsafe_code)]

use nix::libc;

use crate::scoreboard::Leaving;
use crate::sys::wait::Exit;

/// What the master has asked of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To retire: its pool is reloaded, resized or removed.
    Retire,
    /// To retire: the daemon stops.
    Stop,
    /// Nothing; the worker was killed because its connection took too long.
    TimeOut,
    /// Nothing; the worker was killed because it did not accept within `start_timeout`.
    Late,
    /// Nothing; the worker was killed because somebody had suspended it.
    Suspended,
}

/// The sender of a SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killer {
    /// The master.
    Master,
    /// The kernel, because memory was short.
    Kernel,
    /// Anybody.
    Unknown,
}

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its pool was reloaded, resized or removed.
    Retired,
    /// The worker had served its quota.
    Recycled,
    /// Its connection took too long, and the worker did not end it; or its start took too
    /// long.
    TimedOut,
    /// The daemon stopped.
    Stopped,
    /// A signal had suspended the worker (SIGSTOP), and none resumed it.
    Suspended,
    /// The worker failed.
    Crashed,
    /// The kernel killed the worker because memory was short.
    OutOfMemory,
    /// Somebody else sent a signal to the worker.
    Killed,
    /// The worker exited by itself and gave no reason.
    Unknown,
}

impl Cause {
    /// The cause of the end `exit` of a worker that the master had `asked` for something,
    /// and that had itself reported that it was `leaving`. `killer` is the sender of the
    /// SIGKILL, if that was the end.
    pub fn of(exit: Exit, asked: Option<Asked>, killer: Killer, leaving: Option<Leaving>) -> Cause {
        let asked_for = asked.map(|asked| match asked {
            Asked::Retire => Cause::Retired,
            Asked::Stop => Cause::Stopped,
            Asked::TimeOut | Asked::Late => Cause::TimedOut,
            Asked::Suspended => Cause::Suspended,
        });
        match exit {
            Exit::Code(0) => asked_for.unwrap_or(match leaving {
                Some(Leaving::Recycled | Leaving::LogLost) => Cause::Recycled,
                Some(Leaving::Asked) => Cause::Killed,
                None => Cause::Unknown,
            }),
            Exit::Code(_) => Cause::Crashed,
            Exit::Signal { number: libc::SIGKILL, .. } => match killer {
                Killer::Master => asked_for.unwrap_or(Cause::Stopped),
                Killer::Kernel => Cause::OutOfMemory,
                Killer::Unknown => Cause::Killed,
            },
            Exit::Signal { number, .. } if SENT_BY_PEOPLE.contains(&number) => Cause::Killed,
            Exit::Signal { .. } => Cause::Crashed,
        }
    }

    /// Whether the end was wanted: not a fault of the worker or its service.
    pub fn is_wanted(self) -> bool {
        matches!(self, Cause::Retired | Cause::Recycled | Cause::Stopped)
    }

    /// The word for the cause in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Retired => "retired",
            Cause::Recycled => "recycled",
            Cause::TimedOut => "timed out",
            Cause::Stopped => "stopped",
            Cause::Suspended => "suspended",
            Cause::Crashed => "crashed",
            Cause::OutOfMemory => "out of memory",
            Cause::Killed => "killed",
            Cause::Unknown => "unknown",
        }
    }
}

/// Signals that come from a kill command and not from a fault of the process.
const SENT_BY_PEOPLE: [i32; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_cause() {
        let signal = |number| Exit::Signal { number, core_dumped: false };
        let cases = [
            (
                Exit::Code(0),
                Some(Asked::Retire),
                Killer::Unknown,
                Some(Leaving::Asked),
                Cause::Retired,
            ),
            (Exit::Code(0), Some(Asked::Stop), Killer::Unknown, None, Cause::Stopped),
            (Exit::Code(0), None, Killer::Unknown, Some(Leaving::Recycled), Cause::Recycled),
            (Exit::Code(0), None, Killer::Unknown, Some(Leaving::LogLost), Cause::Recycled),
            (Exit::Code(0), None, Killer::Unknown, Some(Leaving::Asked), Cause::Killed),
            (Exit::Code(0), None, Killer::Unknown, None, Cause::Unknown),
            (Exit::Code(3), Some(Asked::Retire), Killer::Unknown, None, Cause::Crashed),
            (signal(libc::SIGKILL), Some(Asked::TimeOut), Killer::Master, None, Cause::TimedOut),
            (signal(libc::SIGKILL), Some(Asked::Late), Killer::Master, None, Cause::TimedOut),
            (signal(libc::SIGKILL), Some(Asked::Stop), Killer::Master, None, Cause::Stopped),
            (signal(libc::SIGKILL), Some(Asked::Stop), Killer::Unknown, None, Cause::Killed),
            (signal(libc::SIGKILL), None, Killer::Unknown, None, Cause::Killed),
            (signal(libc::SIGSEGV), Some(Asked::Stop), Killer::Master, None, Cause::Crashed),
            (signal(libc::SIGKILL), None, Killer::Kernel, None, Cause::OutOfMemory),
            (signal(libc::SIGABRT), None, Killer::Unknown, None, Cause::Crashed),
            (signal(libc::SIGXCPU), None, Killer::Unknown, None, Cause::Crashed),
        ];
        for (exit, asked, killer, leaving, cause) in cases {
            assert_eq!(
                Cause::of(exit, asked, killer, leaving),
                cause,
                "{exit} {asked:?} {killer:?} {leaving:?}"
            );
        }
    }
}
