//! One program after another: start it, watch it, reap it.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use slog::{Level, Logger};

use crate::error::reason;
use crate::log::event::Event;
use crate::log::rate::{HeldBack, Rate};
use crate::service::{Connection, Context};
use crate::sys::clock::Moment;
use crate::sys::handler;
use crate::sys::spawn::{Program, Started, Stdio};
use crate::sys::wait::{Exit, reap, signal_name};

use super::stderr::LogPipe;
use super::{Stderr, variables};

/// How many failed programs one worker may log in ten seconds.
const FAILURES_LOGGED: u32 = 100;

/// What a worker keeps to run its program again and again.
pub struct Runner {
    name: String,
    program: Program,
    environment: Vec<CString>,
    stderr: StderrTo,
    failures: Rate,
}

/// Where the standard error of each program goes.
enum StderrTo {
    Log(LogPipe),
    Socket,
    Null(File),
}

impl Runner {
    /// A runner of the program at `path`, with the environment of this process.
    pub fn new(path: &Path, command: &[CString], stderr: Stderr) -> io::Result<Self> {
        let stderr = match stderr {
            Stderr::Log => StderrTo::Log(LogPipe::new()?),
            Stderr::Socket => StderrTo::Socket,
            Stderr::Null => StderrTo::Null(File::options().write(true).open("/dev/null")?),
        };
        Ok(Runner {
            name: path.display().to_string(),
            program: Program::new(CString::new(path.as_os_str().as_bytes())?, command.to_vec())?,
            environment: variables::inherited()?,
            stderr,
            failures: Rate::new(FAILURES_LOGGED),
        })
    }

    /// Runs the program on `connection` to its end, and logs how it ended.
    pub fn run(&mut self, connection: &Connection, context: &Context) -> io::Result<()> {
        let began = Moment::now();
        let started = match self.start(connection) {
            Ok(started) => started,
            Err(error) => {
                self.log_failed_start(&error, connection, context.log());
                return Err(error);
            }
        };
        handler::set_program(Some(started.pid));
        if handler::is_alarmed() {
            // The time ran out before the handler knew whom to ask.
            let _ = killpg(started.pid, Signal::SIGTERM);
        }
        let watched = self.watch(&started, connection, context);
        // What it left running in its process group would hold the client's
        // socket and count in no pool. The group is still there, for its
        // leader is not reaped yet.
        let _ = killpg(started.pid, Signal::SIGKILL);
        handler::set_program(None);
        let ended = reap(started.pid)?;
        // A process that left the group may still hold the client's socket. Our
        // closing it would not tell the client that there is nothing to come. Only this
        // direction: what the client still sends must not answer it with a reset.
        let _ = connection.shutdown(Shutdown::Write);
        if let StderrTo::Log(pipe) = &mut self.stderr {
            pipe.finish(context.log(), &self.name, started.pid)?;
        }
        self.log_end(ended.exit, started.pid, Moment::now() - began, connection, context.log());
        watched
    }

    fn start(&mut self, connection: &Connection) -> io::Result<Started> {
        let about_connection = variables::of_connection(connection)?;
        let error = match &self.stderr {
            StderrTo::Log(pipe) => pipe.writer(),
            StderrTo::Socket => connection.as_fd(),
            StderrTo::Null(null) => null.as_fd(),
        };
        let environment = self.environment.iter().chain(&about_connection).map(CString::as_c_str);
        self.program.start(
            environment,
            Stdio { input: connection.as_fd(), output: connection.as_fd(), error },
        )
    }

    /// Waits for the end of the program; logs what it writes meanwhile, and
    /// ends it if its client has gone and it does not notice.
    fn watch(
        &mut self,
        started: &Started,
        connection: &Connection,
        context: &Context,
    ) -> io::Result<()> {
        let mut stage = Stage::Serving;
        loop {
            let ready = self.wait(started, connection, stage)?;
            if let (true, StderrTo::Log(pipe)) = (ready.written, &mut self.stderr) {
                pipe.take(context.log(), &self.name, started.pid)?;
            }
            if ready.ended {
                return Ok(());
            }
            stage = stage.next(ready.hung_up, Moment::now(), context.kill_timeout());
            if let Some(signal) = stage.signal() {
                let (pid, program, name) = (started.pid, self.name.clone(), signal.as_str());
                Event::ProgramOutlivesClient { pid, program, signal: name }.tell(context.log());
                // It is not reaped, so the number is still its group's.
                let _ = killpg(started.pid, signal);
                stage = stage.signalled(Moment::now(), context.kill_timeout());
            }
        }
    }

    /// Sleeps until there is something to do for the running program.
    fn wait(&self, started: &Started, connection: &Connection, stage: Stage) -> io::Result<Ready> {
        let ended = PollFd::new(started.pidfd.as_fd(), PollFlags::POLLIN);
        // A descriptor that is not to be watched is replaced by the pidfd.
        let nothing = PollFd::new(started.pidfd.as_fd(), PollFlags::empty());
        let written = match &self.stderr {
            StderrTo::Log(pipe) => PollFd::new(pipe.reader(), PollFlags::POLLIN),
            StderrTo::Socket | StderrTo::Null(_) => nothing.clone(),
        };
        let hung_up = match stage {
            // No event is asked for: the kernel tells a hang-up unasked. A
            // client that closed only its sending side has not hung up.
            Stage::Serving => PollFd::new(connection.as_fd(), PollFlags::empty()),
            _ => nothing,
        };
        let mut descriptors = [ended, written, hung_up];
        let timeout = stage.deadline().map(|deadline| TimeSpec::from(deadline - Moment::now()));
        match ppoll(&mut descriptors, timeout, None) {
            Ok(_) => {}
            // Nothing was looked at, so nothing is known to be ready.
            Err(Errno::EINTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno.into()),
        }
        let [ended, written, hung_up] =
            descriptors.map(|descriptor| descriptor.any() == Some(true));
        Ok(Ready { ended, written, hung_up })
    }

    fn log_failed_start(&mut self, error: &io::Error, connection: &Connection, log: &Logger) {
        if let Some(held_back) = self.failures.admit(Moment::now()) {
            let (program, peer) = (self.name.clone(), connection.peer().to_string());
            Event::ProgramNotStarted { program, peer, reason: reason(error), held_back }.tell(log);
        }
    }

    fn log_end(
        &mut self,
        exit: Exit,
        pid: Pid,
        elapsed_ms: Duration,
        connection: &Connection,
        log: &Logger,
    ) {
        let held_back = match exit {
            Exit::Code(0) => Some(HeldBack::NONE),
            _ => self.failures.admit(Moment::now()),
        };
        let Some(held_back) = held_back else { return };
        let (program, peer) = (self.name.clone(), connection.peer().to_string());
        let event = match exit {
            Exit::Code(code) => {
                let level = if code == 0 { Level::Debug } else { Level::Warning };
                Event::ProgramExited { level, pid, program, code, elapsed_ms, peer, held_back }
            }
            Exit::Signal { number, core_dumped } => {
                let signal = signal_name(number);
                Event::ProgramKilled {
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

/// What a wait has found.
#[derive(Clone, Copy, Default)]
struct Ready {
    ended: bool,
    written: bool,
    hung_up: bool,
}

/// How far the ending of a program has come whose client has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its client is there.
    Serving,
    /// Its client is gone; it has until then to notice, or to finish work that
    /// needs no client.
    Left(Moment),
    /// SIGTERM is due.
    Ask,
    /// SIGTERM was sent; it has until then.
    Asked(Moment),
    /// SIGKILL is due.
    Kill,
    /// SIGKILL was sent; the kernel does the rest.
    Killed,
}

impl Stage {
    fn next(self, hung_up: bool, now: Moment, kill_timeout: Duration) -> Stage {
        match self {
            Stage::Serving if hung_up => Stage::Left(now + kill_timeout),
            Stage::Left(until) if now >= until => Stage::Ask,
            Stage::Asked(until) if now >= until => Stage::Kill,
            stage => stage,
        }
    }

    fn signalled(self, now: Moment, kill_timeout: Duration) -> Stage {
        match self {
            Stage::Ask => Stage::Asked(now + kill_timeout),
            Stage::Kill => Stage::Killed,
            stage => stage,
        }
    }

    fn signal(self) -> Option<Signal> {
        match self {
            Stage::Ask => Some(Signal::SIGTERM),
            Stage::Kill => Some(Signal::SIGKILL),
            _ => None,
        }
    }

    fn deadline(self) -> Option<Moment> {
        match self {
            Stage::Left(until) | Stage::Asked(until) => Some(until),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_client_is_asked_and_then_killed() {
        let second = Duration::from_secs(1);
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        let stage = Stage::Serving.next(false, at(1), second);
        assert_eq!(stage, Stage::Serving);
        let stage = stage.next(true, at(1), second);
        assert_eq!(stage.deadline(), Some(at(2)));
        assert_eq!(stage.next(false, at(1), second), stage, "not before its time");
        let stage = stage.next(false, at(2), second);
        assert_eq!(stage.signal(), Some(Signal::SIGTERM));
        let stage = stage.signalled(at(2), second).next(false, at(3), second);
        assert_eq!(stage.signal(), Some(Signal::SIGKILL));
        assert_eq!(stage.signalled(at(3), second), Stage::Killed);
    }
}
