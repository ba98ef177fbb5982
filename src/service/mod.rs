//! Services: what a worker does with a connection.
//!
//! A service knows neither worker nor pool: it gets a connection and gives
//! back an outcome. The built-in ones stand in the same registry and implement
//! the same trait as those of an embedding program.
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

/// Where programs are looked for that are named without a path, and the PATH of a
/// worker where the daemon has none.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable of a worker with the name of this host, if the pool says one.
pub(crate) const LOCAL_HOST: &str = "TCPLOCALHOST";

/// What a worker does with each connection it accepts.
///
/// The master makes one from the configuration, which is the time to find
/// fault with its options, and forks it into the workers: each worker has a
/// copy of its own and serves one connection at a time.
///
/// Signals: SIGTERM, SIGUSR1 and SIGALRM have handlers with SA_RESTART while a
/// service runs. The reads and writes of a [`Connection`] never fail with EINTR;
/// those on its bare descriptor may, see there. A
/// service that starts threads does it in [`start`](Self::start), in the worker, and
/// blocks all signals in these; the master must have none, since a fork copies none.
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

    /// Serves one connection to its end. Dropping the connection closes it; if the client
    /// has sent what was not read, it is given 5 s (or a shorter `idle_timeout`) to get the
    /// reply.
    ///
    /// A worker that is asked to leave meanwhile is not interrupted; one whose
    /// connection is overdue (`request_timeout`) finds it shut down.
    ///
    /// A client that stays connected keeps a worker past a reload. A service whose clients
    /// do so asks [`Context::is_asked_to_leave`] after each reply, or waits for the next
    /// request by [`Connection::wait`].
    fn serve(&mut self, connection: Connection, context: &Context) -> Outcome;

    /// Ends what [`start`](Self::start) has begun: the worker leaves, because it was asked
    /// to or has served its quota. It has no connection, and takes none.
    ///
    /// It may take `kill_timeout`, and ends the worker then. It is not called in a worker
    /// that is killed, that panics, or whose outcome was [`Outcome::Broken`].
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
    /// It was served.
    Served,
    /// It broke off.
    Failed(Failure),
    /// The worker cannot go on, for this reason: it ends, with all that it has started for
    /// the connection, and is replaced.
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
    /// A failure that its client has caused, or may have. It is logged at level debug.
    pub fn new(reason: io::Error) -> Self {
        Failure { reason, level: Level::Debug }
    }

    /// The same failure, logged at this level. Above debug each worker logs ten of them in
    /// ten seconds at most, because a client may be able to repeat what it has caused.
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
