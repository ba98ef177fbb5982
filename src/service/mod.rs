//! Services: what a worker does with a connection.
//!
//! A service knows neither worker nor pool: it gets a connection and gives back an outcome.
//! Built-in services stand in the same registry and implement the same trait as those of an
//! embedding program.
#![forbid(unsafe_code)]

mod child;
mod connection;
mod context;
mod echo;
mod exec;
mod idle;
mod interpreter;
mod lines;
mod linger;
pub(crate) mod panic;
mod record;
mod registry;
mod success;

use std::io;

use slog::Level;

pub use connection::{Connection, Credentials, Peer, Wake};
pub use context::Context;
pub(crate) use record::{Record, SharedRecord};
pub use registry::Services;

/// The search path for programs that are named without a path. It is also the PATH of a
/// worker if the daemon has none.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable of a worker with the name of this host, if the pool sets one.
pub(crate) const LOCAL_HOST: &str = "TCPLOCALHOST";

/// What a worker does with each connection it accepts.
///
/// The master makes a service from the configuration, and reports faults of its options
/// then. The fork gives each worker its own copy, which serves one connection at a time.
///
/// Signals: SIGTERM, SIGUSR1 and SIGALRM have handlers with SA_RESTART while a service
/// runs. The reads and writes of a [`Connection`] never fail with EINTR; those on its bare
/// descriptor may, see there. A service must start its threads in [`start`](Self::start),
/// in the worker, and block all signals in them. The master must have no threads, because a
/// fork copies none.
pub trait Service {
    /// Prepares the worker, after it has its user, its limits and its
    /// directory and before it accepts.
    ///
    /// # Errors
    ///
    /// An error ends the worker; the slot is tried again after a delay.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The program that it runs for each connection, as the log names it; None if it runs
    /// none.
    fn program(&self) -> Option<String> {
        None
    }

    /// Serves one connection to its end. Dropping the connection closes it. If bytes of the
    /// client are unread, the client gets 5 s (or a shorter `idle_timeout`) to receive the
    /// reply.
    ///
    /// A worker that is asked to leave meanwhile is not interrupted. A connection that is
    /// overdue (`request_timeout`) is shut down.
    ///
    /// A client that stays connected keeps a worker past a reload. A service for such
    /// clients should check [`Context::is_asked_to_leave`] after each reply, or wait for
    /// the next request by [`Connection::wait`].
    fn serve(&mut self, connection: Connection, context: &Context) -> Outcome;

    /// Ends what [`start`](Self::start) has begun. The worker leaves because it was asked
    /// to, or has served its quota. The worker has no connection, and accepts none.
    ///
    /// After `kill_timeout` the worker is ended. This is not called in a worker that is
    /// killed, that panics, or whose outcome was [`Outcome::Broken`].
    ///
    /// # Errors
    ///
    /// An error is logged with the end of the worker.
    fn stop(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum Outcome {
    /// The connection was served.
    Served,
    /// The connection broke off.
    Failed(Failure),
    /// The worker cannot go on, for this reason. The worker and all that it has started for
    /// the connection end, and another worker replaces it.
    Broken(io::Error),
}

/// Why a connection broke off, and how much that matters.
///
/// ```
/// use std::io;
/// use preforkd::{Failure, Outcome, slog::Level};
///
/// let disk_is_full = io::Error::from(io::ErrorKind::StorageFull);
/// let outcome = Outcome::Failed(Failure::new(disk_is_full).at(Level::Error));
/// ```
#[derive(Debug)]
pub struct Failure {
    pub(crate) reason: io::Error,
    pub(crate) level: Level,
}

impl Failure {
    /// A failure that the client may have caused. The log has it at level debug.
    pub fn new(reason: io::Error) -> Self {
        Failure { reason, level: Level::Debug }
    }

    /// The same failure, logged at this level. Above debug each worker logs at most ten
    /// failures in ten seconds, because a client may be able to repeat its failure.
    #[must_use]
    pub fn at(self, level: Level) -> Self {
        Failure { level, ..self }
    }

    /// Why the connection broke off.
    pub fn reason(&self) -> &io::Error {
        &self.reason
    }

    /// The level at which it is logged.
    pub fn level(&self) -> Level {
        self.level
    }
}

impl From<io::Error> for Failure {
    fn from(reason: io::Error) -> Self {
        Failure::new(reason)
    }
}

impl From<io::Error> for Outcome {
    fn from(reason: io::Error) -> Self {
        Outcome::Failed(reason.into())
    }
}

impl From<io::Result<()>> for Outcome {
    fn from(result: io::Result<()>) -> Self {
        result.map_or_else(Outcome::from, |()| Outcome::Served)
    }
}
