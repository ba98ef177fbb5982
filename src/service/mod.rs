//! Services: what a worker does with a connection.
//!
//! A service knows neither worker nor pool: it gets a connection and gives
//! back an outcome. The built-in ones stand in the same registry and implement
//! the same trait as those of an embedding program.
#![forbid(unsafe_code)]

mod child;
mod connection;
mod echo;
mod exec;
mod idle;
mod lines;
mod linger;
pub(crate) mod panic;
mod registry;
mod success;

use std::cell::OnceCell;
use std::io;
use std::time::Duration;

use slog::Logger;

pub use connection::{Connection, Credentials, Peer};
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

    /// Serves one connection to its end. Dropping the connection closes it; if the client
    /// has sent what was not read, it is given 5 s (or a shorter `idle_timeout`) to get the
    /// reply.
    ///
    /// A worker that is asked to leave meanwhile is not interrupted; one whose
    /// connection is overdue (`request_timeout`) finds it shut down.
    fn serve(&mut self, connection: Connection, context: &Context) -> Outcome;
}

/// What a service may want to know of its surroundings.
pub struct Context<'a> {
    root: &'a Logger,
    pool: &'a str,
    slot: u32,
    /// Made when the first line is logged: most workers never log one, and it
    /// would be memory of their own.
    log: OnceCell<Logger>,
    kill_timeout: Duration,
}

impl<'a> Context<'a> {
    /// The context of a worker.
    pub(crate) fn new(root: &'a Logger, pool: &'a str, slot: u32, kill_timeout: Duration) -> Self {
        Context { root, pool, slot, log: OnceCell::new(), kill_timeout }
    }

    /// The log, with the pool and the slot in each line. It is of the crate slog,
    /// which is here as [`preforkd::slog`](crate::slog):
    ///
    /// ```
    /// use preforkd::{Connection, Context, Outcome, Service};
    ///
    /// struct Quiet;
    ///
    /// impl Service for Quiet {
    ///     fn serve(&mut self, connection: Connection, context: &Context) -> Outcome {
    ///         preforkd::slog::debug!(context.log(), "came"; "peer" => %connection.peer());
    ///         Outcome::Served
    ///     }
    /// }
    /// ```
    pub fn log(&self) -> &Logger {
        let fields = || slog::o!("pool" => self.pool.to_owned(), "slot" => self.slot);
        self.log.get_or_init(|| self.root.new(fields()))
    }

    /// How long a process that was asked to end may take until it is killed.
    pub fn kill_timeout(&self) -> Duration {
        self.kill_timeout
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was served.
    Served,
    /// It broke off, for this reason. Clients cause this, so it is logged at
    /// level debug.
    Failed(io::Error),
    /// The worker cannot go on, for this reason: it ends, with all that it has started for
    /// the connection, and is replaced.
    Broken(io::Error),
}

impl From<io::Result<()>> for Outcome {
    fn from(result: io::Result<()>) -> Self {
        match result {
            Ok(()) => Outcome::Served,
            Err(error) => Outcome::Failed(error),
        }
    }
}
