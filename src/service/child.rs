//! A program that serves a connection: its start, watch, end, and log lines.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use slog::{Level, Logger};

use crate::error::reason;
use crate::log::event::Event;
use crate::log::rate::{HeldBack, Rate};
use crate::sys::clock::Moment;
use crate::sys::handler;
use crate::sys::spawn::{PidVariable, Program, Started, Stdio};
use crate::sys::wait::{Exit, reap, signal_name};

use super::Peer;
use super::success::Success;

/// How many failed programs one worker may log in ten seconds.
const FAILURES_LOGGED: u32 = 100;

/// A running program, the leader of a process group of its own.
///
/// While it exists, the signal handlers know which program to end when the connection is
/// overdue. The master knows which program to end if this process dies.
pub struct Child {
    started: Started,
    since: Moment,
    ending: Ending,
    is_reaped: bool,
}

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pid: Pid,
    exit: Exit,
    elapsed: Duration,
}

impl Ended {
    /// The exit code or the signal.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl Child {
    /// Starts the program for the connection in hand.
    ///
    /// # Errors
    ///
    /// It could not be started or executed; there is no child.
    pub fn start<'e>(
        program: &mut Program,
        environment: impl IntoIterator<Item = &'e CStr>,
        own_pid: Option<&mut PidVariable>,
        stdio: Stdio<'_>,
    ) -> io::Result<Child> {
        let since = Moment::now();
        let started = program.start(environment, own_pid, stdio)?;
        if handler::is_alarmed() {
            // The time ran out before the handler knew the program.
            let _ = killpg(started.pid, Signal::SIGTERM);
        }
        Ok(Child { started, since, ending: Ending::Serving, is_reaped: false })
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.started.pid
    }

    /// The descriptor that becomes readable when the program has ended.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.started.pidfd.as_fd()
    }

    /// Whether its client is still there, as far as this process knows.
    pub fn has_client(&self) -> bool {
        self.ending == Ending::Serving
    }

    /// Takes note that its client has gone: it has `kill_timeout` to notice, or to finish
    /// work that needs no client.
    pub fn client_left(&mut self, now: Moment, kill_timeout: Duration) {
        if self.has_client() {
            self.ending = Ending::Left(now + kill_timeout);
        }
    }

    /// Takes note that its client was sent away: it has had its time.
    pub fn client_sent_away(&mut self, now: Moment) {
        self.client_left(now, Duration::ZERO);
    }

    /// When [`escalate`](Self::escalate) has something to do.
    pub fn deadline(&self) -> Option<Moment> {
        self.ending.deadline()
    }

    /// Goes on with ending a program whose client has gone: SIGTERM, then SIGKILL. Gives
    /// the signal that was sent.
    ///
    /// # Errors
    ///
    /// This process may not kill it, because all its ids have changed.
    pub fn escalate(&mut self, now: Moment, kill_timeout: Duration) -> io::Result<Option<Signal>> {
        let Some((signal, next)) = self.ending.step(now, kill_timeout) else {
            return Ok(None);
        };
        self.ending = next;
        // It is not reaped, so the number is still its group's. A member of the group
        // that can be signalled hides that the program itself cannot.
        let _ = killpg(self.pid(), signal);
        match (kill(self.pid(), signal), signal) {
            (Err(Errno::EPERM), Signal::SIGKILL) => Err(Errno::EPERM.into()),
            _ => Ok(Some(signal)),
        }
    }

    /// Reaps a program that has ended. The rest of its process group stays, unless the time
    /// of its connection is over.
    pub fn reap(mut self) -> io::Result<Ended> {
        let rest = if handler::is_alarmed() { Rest::Ends } else { Rest::Stays };
        let exit = self.finish(rest)?;
        Ok(Ended { pid: self.pid(), exit, elapsed: Moment::now() - self.since })
    }

    fn finish(&mut self, rest: Rest) -> io::Result<Exit> {
        if rest == Rest::Ends {
            // The group is still there, for its leader is not reaped yet.
            let _ = killpg(self.pid(), Signal::SIGKILL);
        }
        handler::forget_program();
        self.is_reaped = true;
        Ok(reap(self.pid())?.exit)
    }
}

/// A fault while a program runs does not leave the program behind. If this process may not
/// kill the program, the master does, which sees it on the page as long as this process
/// lives.
impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_reaped && kill(self.pid(), Signal::SIGKILL) != Err(Errno::EPERM) {
            let _ = self.finish(Rest::Ends);
        }
    }
}

/// What becomes of the process group of a program that has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Stays,
    Ends,
}

impl Ended {
    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether its process group is still there without it.
    pub fn has_left_group(&self) -> bool {
        killpg(self.pid, None) != Err(Errno::ESRCH)
    }
}

/// How far the ending of a program has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Its client is there.
    Serving,
    /// Its client is gone; SIGTERM is due then.
    Left(Moment),
    /// SIGTERM was sent; SIGKILL is due then.
    Asked(Moment),
    /// SIGKILL was sent; the kernel does the rest.
    Killed,
}

impl Ending {
    /// The signal that is due, and what comes after it.
    fn step(self, now: Moment, kill_timeout: Duration) -> Option<(Signal, Ending)> {
        match self {
            Ending::Left(until) if now >= until => {
                Some((Signal::SIGTERM, Ending::Asked(now + kill_timeout)))
            }
            Ending::Asked(until) if now >= until => Some((Signal::SIGKILL, Ending::Killed)),
            _ => None,
        }
    }

    fn deadline(self) -> Option<Moment> {
        match self {
            Ending::Left(until) | Ending::Asked(until) => Some(until),
            Ending::Serving | Ending::Killed => None,
        }
    }
}

/// The log lines of one worker about its programs. Lines that clients can cause have a
/// limit.
pub struct Teller {
    name: String,
    success: Rc<Success>,
    failures: Rate,
    leftovers: Rate,
}

impl Teller {
    /// One for the program of this name, and what of its ends is no failure.
    pub fn new(name: String, success: Rc<Success>) -> Self {
        Teller {
            name,
            success,
            failures: Rate::new(FAILURES_LOGGED),
            leftovers: Rate::new(FAILURES_LOGGED),
        }
    }

    /// The name of the program.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells that a program could not be started.
    pub fn not_started(&mut self, error: &io::Error, peer: Peer, log: &Logger) {
        if let Some(held_back) = self.failures.admit(Moment::now()) {
            let (program, peer) = (self.name.clone(), peer.to_string());
            Event::ProgramNotStarted { program, peer, reason: reason(error), held_back }.tell(log);
        }
    }

    /// Tells that a program without a client was sent this signal.
    pub fn signalled(&self, child: &Child, signal: Signal, log: &Logger) {
        let (pid, program, signal) = (child.pid(), self.name.clone(), signal.as_str());
        Event::ProgramOutlivesClient { pid, program, signal }.tell(log);
    }

    /// Tells that a program has left processes running.
    pub fn left_running(&self, pid: Pid, peer: Peer, log: &Logger) {
        let (program, peer) = (self.name.clone(), peer.to_string());
        Event::ProgramLeftRunning { pid, program, peer }.tell(log);
    }

    /// Tells that nobody reads what the leftovers of a program write.
    pub fn not_followed(&mut self, pid: Pid, error: &io::Error, log: &Logger) {
        if let Some(held_back) = self.leftovers.admit(Moment::now()) {
            let (program, reason) = (self.name.clone(), reason(error));
            Event::CouldNotFollow { pid, program, reason, held_back }.tell(log);
        }
    }

    /// Tells how many processes that a program had left running were ended.
    pub fn leftovers_ended(&mut self, pid: Pid, count: usize, peer: Peer, log: &Logger) {
        if let Some(held_back) = self.leftovers.admit(Moment::now()) {
            let (program, peer) = (self.name.clone(), peer.to_string());
            Event::LeftoversEnded { pid, program, count, peer, held_back }.tell(log);
        }
    }

    /// Tells how a program ended.
    pub fn ended(&mut self, ended: Ended, peer: Peer, log: &Logger) {
        let Ended { pid, exit, elapsed: elapsed_ms } = ended;
        let (level, held_back) = match self.success.includes(exit) {
            true => (Level::Debug, Some(HeldBack::NONE)),
            false => (Level::Warning, self.failures.admit(Moment::now())),
        };
        let Some(held_back) = held_back else { return };
        let (program, peer) = (self.name.clone(), peer.to_string());
        let event = match exit {
            Exit::Code(code) => {
                Event::ProgramExited { level, pid, program, code, elapsed_ms, peer, held_back }
            }
            Exit::Signal { number, core_dumped } => {
                let signal = signal_name(number);
                Event::ProgramKilled {
                    level,
                    pid,
                    program,
                    signal,
                    core_dumped,
                    elapsed_ms,
                    peer,
                    held_back,
                }
            }
        };
        event.tell(log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_client_is_asked_and_then_killed() {
        let second = Duration::from_secs(1);
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        assert_eq!(Ending::Serving.step(at(1), second), None);
        let left = Ending::Left(at(2));
        assert_eq!(left.deadline(), Some(at(2)));
        assert_eq!(left.step(at(1), second), None, "not before its time");
        let asked = Ending::Asked(at(3));
        assert_eq!(left.step(at(2), second), Some((Signal::SIGTERM, asked)));
        assert_eq!(asked.step(at(2), second), None);
        assert_eq!(asked.step(at(3), second), Some((Signal::SIGKILL, Ending::Killed)));
        assert_eq!(Ending::Killed.deadline(), None);
    }
}
