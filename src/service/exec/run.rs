//! One program after another, each for a connection.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use slog::{Drain, Level};

use crate::config::Leftovers;
use crate::error::reason;
use crate::service::child::{Child, Ended, Teller};
use crate::service::idle::IdleWatch;
use crate::service::success::Success;
use crate::service::{Connection, Context, Outcome, Peer};
use crate::sys::clock::Moment;
use crate::sys::handler;
use crate::sys::spawn::{PidVariable, Program, Stdio};

use super::follower::follow;
use super::rest::{self, Rest};
use super::stderr::{LogPipe, Stream};
use super::{EndOfStream, Stderr, variables};

/// The data of a worker for running its program again and again.
pub struct Runner {
    program: Program,
    environment: Vec<CString>,
    /// The name of this host, for connections over TCP.
    hostname: Option<CString>,
    /// For connections on a Unix socket.
    own_pid: PidVariable,
    stderr: StderrTo,
    teller: Teller,
    end_of_stream: EndOfStream,
    /// What its programs leave running becomes the worker's.
    adopts: bool,
}

/// Where the standard error of each program goes.
enum StderrTo {
    Log(LogPipe),
    Socket,
    Null(File),
}

impl Runner {
    /// A runner of the program at `path`, with the environment of this process.
    pub fn new(
        path: &Path,
        command: &[CString],
        stderr: Stderr,
        end_of_stream: EndOfStream,
        success: Rc<Success>,
    ) -> io::Result<Self> {
        let stderr = match stderr {
            Stderr::Log => StderrTo::Log(LogPipe::new()?),
            Stderr::Socket => StderrTo::Socket,
            Stderr::Null => StderrTo::Null(File::options().write(true).open("/dev/null")?),
        };
        let (environment, hostname) = variables::inherited()?;
        Ok(Runner {
            program: Program::new(CString::new(path.as_os_str().as_bytes())?, command.to_vec())?,
            environment,
            hostname,
            own_pid: PidVariable::named("UNIXLOCALPID"),
            stderr,
            teller: Teller::new(path.display().to_string(), success),
            end_of_stream,
            adopts: false,
        })
    }

    /// Runs the program on `connection` to its end, and logs how it ended.
    pub fn run(&mut self, connection: Connection, context: &Context) -> Outcome {
        if let Err(error) = self.adopt(context.leftovers()) {
            return error.into();
        }
        let (child, outcome) = match self.run_to_end(&connection, context) {
            Ok(done) => done,
            Err(outcome) => return outcome,
        };
        let finished = match context.leftovers() {
            Leftovers::Leave => self.leave(child, connection, context),
            Leftovers::Wait | Leftovers::Kill => self.await_rest(child, connection, context),
        };
        match finished {
            Ok(()) => outcome,
            Err(error) if rest::is_stuck(&error) => self.broken(&error),
            Err(error) => error.into(),
        }
    }

    /// Makes sure that what programs leave running becomes this process's, if it waits for
    /// that.
    fn adopt(&mut self, leftovers: Leftovers) -> io::Result<()> {
        if leftovers != Leftovers::Leave && !self.adopts {
            rest::adopt()?;
            self.adopts = true;
        }
        Ok(())
    }

    /// Runs the program to its end, and gives how its connection ended. Where there is none
    /// to be reaped, gives that alone.
    fn run_to_end(
        &mut self,
        connection: &Connection,
        context: &Context,
    ) -> Result<(Child, Outcome), Outcome> {
        let mut idle = IdleWatch::begin(connection).map_err(Outcome::from)?;
        let mut child = match self.start(connection) {
            Ok(child) => child,
            Err(error) => {
                self.teller.not_started(&error, connection.peer(), context.log());
                return Err(error.into());
            }
        };
        if self.end_of_stream == EndOfStream::Close {
            // Without it the stream ends with the program, as by default.
            let _ = connection.release();
        }
        let outcome = self.watch(&mut child, &mut idle, connection, context)?;
        Ok((child, outcome))
    }

    fn start(&mut self, connection: &Connection) -> io::Result<Child> {
        let about_connection = variables::of_connection(connection)?;
        let error = match &mut self.stderr {
            StderrTo::Log(pipe) => pipe.renew()?,
            StderrTo::Socket => connection.socket(),
            StderrTo::Null(null) => File::as_fd(null),
        };
        let (hostname, own_pid) = match connection.peer() {
            Peer::Internet(_) => (self.hostname.as_ref(), None),
            Peer::Unix => (None, Some(&mut self.own_pid)),
        };
        let environment = self.environment.iter().chain(&about_connection).chain(hostname);
        let stdio = Stdio { input: connection.socket(), output: connection.socket(), error };
        Child::start(&mut self.program, environment.map(CString::as_c_str), own_pid, stdio)
    }

    /// Waits for the end of the program; logs what it writes meanwhile, and
    /// ends it if its client has gone and it does not notice, or is idle for too long. An
    /// error means that it cannot be watched any longer, and still runs.
    fn watch(
        &mut self,
        child: &mut Child,
        idle: &mut IdleWatch<'_>,
        connection: &Connection,
        context: &Context,
    ) -> Result<Outcome, Outcome> {
        loop {
            let ready = self.wait(child, idle, connection)?;
            let taken = match (ready.written, &mut self.stderr) {
                (true, StderrTo::Log(pipe)) => {
                    pipe.take(context.log(), self.teller.name(), child.pid()).map(drop)
                }
                _ => Ok(()),
            };
            if ready.ended {
                return Ok(taken.map_or_else(Outcome::from, |()| idle.outcome()));
            }
            taken?;
            let (now, kill_timeout) = (Moment::now(), context.kill_timeout());
            if ready.hung_up {
                child.client_left(now, kill_timeout);
            }
            if child.has_client() && idle.ends_connection(now) {
                child.client_sent_away(now);
            }
            match child.escalate(now, kill_timeout) {
                Ok(None) => {}
                Ok(Some(signal)) => self.teller.signalled(child, signal, context.log()),
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    /// The program, or what it has left running, may not be ended by this process.
    fn broken(&self, error: &io::Error) -> Outcome {
        let (name, reason) = (self.teller.name(), reason(error));
        let text = format!("could not end program \"{name}\": {reason}");
        Outcome::Broken(io::Error::new(error.kind(), text))
    }

    /// Reaps the program, lets its client know, and logs the rest. Leftovers of the program
    /// are left to the master.
    fn leave(&mut self, child: Child, connection: Connection, context: &Context) -> io::Result<()> {
        let (log, peer) = (context.log(), connection.peer());
        let ended = reap(child, &connection)?;
        let lingering = close(&ended, connection);
        let stream = self.end_stream(ended.pid(), context)?;
        self.teller.ended(ended, peer, log);
        // The leftovers of an overdue connection end with it.
        if let (Stream::Open, StderrTo::Log(pipe)) = (stream, &mut self.stderr)
            && !handler::is_alarmed()
            && let Err(error) = follow(pipe, log, self.teller.name(), ended.pid())
        {
            self.teller.not_followed(ended.pid(), &error, log);
        }
        // If such lines are not logged, the system call is not needed.
        if log.is_enabled(Level::Debug) && (stream == Stream::Open || ended.has_left_group()) {
            self.teller.left_running(ended.pid(), peer, log);
        }
        drop(lingering);
        Ok(())
    }

    /// The same, but waits until nothing is left of the program, which it ends if the pool
    /// says so.
    fn await_rest(
        &mut self,
        child: Child,
        connection: Connection,
        context: &Context,
    ) -> io::Result<()> {
        let (log, peer) = (context.log(), connection.peer());
        let (leftovers, kill_timeout) = (context.leftovers(), context.kill_timeout());
        let ended = reap(child, &connection)?;
        let lingering = match leftovers {
            // Processes that are about to end would keep the client waiting.
            Leftovers::Kill => shut(connection),
            Leftovers::Wait | Leftovers::Leave => close(&ended, connection),
        };
        let mut stream = self.end_stream(ended.pid(), context)?;
        self.teller.ended(ended, peer, log);
        let mut rest = Rest::begin(ended.pid(), leftovers, kill_timeout)?;
        drop(lingering);
        loop {
            let pipe = match &self.stderr {
                StderrTo::Log(pipe) if stream == Stream::Open => Some(pipe.reader()),
                StderrTo::Log(_) | StderrTo::Socket | StderrTo::Null(_) => None,
            };
            let is_there = rest.goes_on(pipe)?;
            if stream == Stream::Open {
                stream = self.end_stream(ended.pid(), context)?;
            }
            if !is_there {
                break;
            }
        }
        if rest.asked > 0 {
            self.teller.leftovers_ended(ended.pid(), rest.asked, peer, log);
        }
        Ok(())
    }

    /// Logs what there is of the standard error of a program that has ended.
    fn end_stream(&mut self, pid: Pid, context: &Context) -> io::Result<Stream> {
        match &mut self.stderr {
            StderrTo::Log(pipe) => pipe.finish(context.log(), self.teller.name(), pid),
            StderrTo::Socket | StderrTo::Null(_) => Ok(Stream::Ended),
        }
    }

    /// Sleeps until there is something to do for the running program.
    fn wait(
        &self,
        child: &Child,
        idle: &IdleWatch<'_>,
        connection: &Connection,
    ) -> io::Result<Ready> {
        let ended = PollFd::new(child.end(), PollFlags::POLLIN);
        // A descriptor that is not to be watched is replaced by the child's.
        let nothing = PollFd::new(child.end(), PollFlags::empty());
        let written = match &self.stderr {
            StderrTo::Log(pipe) => PollFd::new(pipe.reader(), PollFlags::POLLIN),
            StderrTo::Socket | StderrTo::Null(_) => nothing.clone(),
        };
        let hung_up = match child.has_client() {
            true => connection.hang_up(),
            false => nothing,
        };
        let mut descriptors = [ended, written, hung_up];
        let idle = idle.deadline().filter(|_| child.has_client());
        let deadline = child.deadline().into_iter().chain(idle).min();
        let timeout = deadline.map(|deadline| TimeSpec::from(deadline - Moment::now()));
        // Of a child that the program has left behind SIGCHLD tells, which is blocked elsewhere.
        let mask = self.adopts.then(SigSet::empty);
        match ppoll(&mut descriptors, timeout, mask) {
            Ok(_) => {}
            // Nothing was looked at, so nothing is known to be ready.
            Err(Errno::EINTR) => {
                if self.adopts {
                    rest::reap_strays(Some(child.pid()))?;
                }
                return Ok(Ready::default());
            }
            Err(errno) => return Err(errno.into()),
        }
        let [ended, written, hung_up] =
            descriptors.map(|descriptor| descriptor.any() == Some(true));
        Ok(Ready { ended, written, hung_up })
    }
}

/// Reaps a program that has ended, and takes note of that for its connection.
fn reap(child: Child, connection: &Connection) -> io::Result<Ended> {
    let ended = child.reap()?;
    connection.note_program(ended.pid(), ended.exit());
    connection.note_end();
    Ok(ended)
}

/// Closes the connection of a program that has ended, as its own end was closed. If a reset
/// could cut the reply and no other process goes on with it, this shuts down the sending
/// side and gives the connection back.
fn close(ended: &Ended, connection: Connection) -> Option<Connection> {
    let connection = connection.close_if_safe()?;
    // An overdue connection is already shut down.
    if !handler::is_alarmed() && rest::may_hold(ended, &connection) {
        connection.abandon();
        return None;
    }
    shut(connection)
}

/// Tells the client that nothing is to come. Only this direction: what it still sends must
/// not answer it with a reset.
fn shut(connection: Connection) -> Option<Connection> {
    let _ = connection.shutdown(Shutdown::Write);
    Some(connection)
}

/// What a wait has found.
#[derive(Clone, Copy, Default)]
struct Ready {
    ended: bool,
    written: bool,
    hung_up: bool,
}
