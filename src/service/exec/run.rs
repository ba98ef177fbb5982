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
use nix::sys::time::TimeSpec;

use crate::error::reason;
use crate::service::child::{Child, Teller};
use crate::service::idle::IdleWatch;
use crate::service::success::Success;
use crate::service::{Connection, Context, Outcome, Peer};
use crate::sys::clock::Moment;
use crate::sys::spawn::{PidVariable, Program, Stdio};

use super::stderr::LogPipe;
use super::{Stderr, variables};

/// What a worker keeps to run its program again and again.
pub struct Runner {
    program: Program,
    environment: Vec<CString>,
    /// The name of this host, for connections over TCP.
    hostname: Option<CString>,
    /// For connections on a Unix socket.
    own_pid: PidVariable,
    stderr: StderrTo,
    teller: Teller,
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
        })
    }

    /// Runs the program on `connection` to its end, and logs how it ended.
    pub fn run(&mut self, connection: &Connection, context: &Context) -> Outcome {
        let mut idle = match IdleWatch::begin(connection) {
            Ok(idle) => idle,
            Err(error) => return error.into(),
        };
        let mut child = match self.start(connection) {
            Ok(child) => child,
            Err(error) => {
                self.teller.not_started(&error, connection.peer(), context.log());
                return error.into();
            }
        };
        let outcome = self.watch(&mut child, &mut idle, connection, context);
        if matches!(outcome, Outcome::Broken(_)) {
            return outcome;
        }
        self.finish(child, connection, context).map_or_else(Outcome::from, |()| outcome)
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
    /// ends it if its client has gone and it does not notice, or is idle for too long.
    fn watch(
        &mut self,
        child: &mut Child,
        idle: &mut IdleWatch<'_>,
        connection: &Connection,
        context: &Context,
    ) -> Outcome {
        loop {
            let ready = match self.wait(child, idle, connection) {
                Ok(ready) => ready,
                Err(error) => return error.into(),
            };
            if let (true, StderrTo::Log(pipe)) = (ready.written, &mut self.stderr)
                && let Err(error) = pipe.take(context.log(), self.teller.name(), child.pid())
            {
                return error.into();
            }
            if ready.ended {
                return idle.outcome();
            }
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
                Err(error) => {
                    let (name, reason) = (self.teller.name(), reason(&error));
                    let text = format!("could not end program \"{name}\": {reason}");
                    return Outcome::Broken(io::Error::new(error.kind(), text));
                }
            }
        }
    }

    /// Reaps the program, lets its client know, and logs the rest.
    fn finish(
        &mut self,
        child: Child,
        connection: &Connection,
        context: &Context,
    ) -> io::Result<()> {
        let pid = child.pid();
        let ended = child.reap()?;
        connection.note_program(pid, ended.exit());
        connection.note_end();
        // A process that left the group may still hold the client's socket. Our
        // closing it would not tell the client that there is nothing to come. Only this
        // direction: what the client still sends must not answer it with a reset.
        let _ = connection.shutdown(Shutdown::Write);
        if let StderrTo::Log(pipe) = &mut self.stderr {
            pipe.finish(context.log(), self.teller.name(), pid)?;
        }
        self.teller.ended(ended, connection.peer(), context.log());
        Ok(())
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
        // No event is asked for: the kernel tells a hang-up unasked. A
        // client that closed only its sending side has not hung up.
        let hung_up = match child.has_client() {
            true => PollFd::new(connection.socket(), PollFlags::empty()),
            false => nothing,
        };
        let mut descriptors = [ended, written, hung_up];
        let idle = idle.deadline().filter(|_| child.has_client());
        let deadline = child.deadline().into_iter().chain(idle).min();
        let timeout = deadline.map(|deadline| TimeSpec::from(deadline - Moment::now()));
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
}

/// What a wait has found.
#[derive(Clone, Copy, Default)]
struct Ready {
    ended: bool,
    written: bool,
    hung_up: bool,
}
