//! What a service may want to know of its surroundings.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slog::Logger;

use crate::config::Leftovers;
use crate::sys::handler;
use crate::sys::notice::Notice;

/// What a service may want to know of its surroundings.
pub struct Context<'a> {
    root: &'a Logger,
    pool: &'a str,
    slot: u32,
    /// Made when the first line is logged. Most workers never log a line, and a logger
    /// would be memory of their own.
    log: OnceLock<Logger>,
    kill_timeout: Duration,
    leftovers: Leftovers,
    asked: Asked,
    /// Made for the first wait.
    notice: OnceLock<Notice>,
}

/// The source of the request to leave.
enum Asked {
    /// The signal handlers of the process.
    Worker,
    /// A test.
    Test(AtomicBool),
}

impl<'a> Context<'a> {
    /// The context of a worker.
    pub(crate) fn new(root: &'a Logger, pool: &'a str, slot: u32, kill_timeout: Duration) -> Self {
        let (log, notice) = (OnceLock::new(), OnceLock::new());
        let (leftovers, asked) = (Leftovers::Leave, Asked::Worker);
        Context { root, pool, slot, log, kill_timeout, leftovers, asked, notice }
    }

    /// The same context of a pool that says this of what programs leave running.
    pub(crate) fn with_leftovers(self, leftovers: Leftovers) -> Self {
        Context { leftovers, ..self }
    }

    /// What becomes of the processes that a program leaves running.
    pub(crate) fn leftovers(&self) -> Leftovers {
        self.leftovers
    }

    /// A context without a worker, for the test of a service. [`Context::ask_to_leave`] does
    /// what a reload would do.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use preforkd::slog::{Discard, Logger, o};
    /// use preforkd::{Connection, Context, Outcome, Service};
    ///
    /// struct Hello;
    ///
    /// impl Service for Hello {
    ///     fn serve(&mut self, mut connection: Connection, _: &Context) -> Outcome {
    ///         connection.write_all(b"hello\n").into()
    ///     }
    /// }
    ///
    /// let log = Logger::root(Discard, o!());
    /// let (connection, mut client) = Connection::pair()?;
    /// let outcome = Hello.serve(connection, &Context::for_test("hello", 0, &log));
    /// assert!(matches!(outcome, Outcome::Served));
    /// let mut reply = String::new();
    /// client.read_to_string(&mut reply)?;
    /// assert_eq!(reply, "hello\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn for_test(pool: &'a str, slot: u32, log: &'a Logger) -> Self {
        let asked = Asked::Test(AtomicBool::new(false));
        Context { asked, ..Context::new(log, pool, slot, Duration::from_secs(5)) }
    }

    /// The name of the pool.
    pub fn pool(&self) -> &str {
        self.pool
    }

    /// The worker's place in the pool, from 0.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// The log, with the pool and the slot in each line. Its type is from the crate slog,
    /// available as [`preforkd::slog`](crate::slog):
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

    /// Whether the worker is asked to leave, by a reload, a smaller pool or a stop. The
    /// worker leaves when the connection that it serves has ended.
    pub fn is_asked_to_leave(&self) -> bool {
        match &self.asked {
            Asked::Worker => handler::is_asked_to_leave(),
            Asked::Test(asked) => asked.load(Ordering::SeqCst),
        }
    }

    /// A descriptor that is readable once the worker is asked to leave, for a service that
    /// waits by poll(2) or epoll(7). A service only waits for the descriptor, and does not
    /// read from it. [`Connection::wait`](crate::Connection::wait) does that.
    ///
    /// # Errors
    ///
    /// There is no descriptor left (eventfd(2)). The descriptor is made at the first call.
    pub fn leave_descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        let notice = match self.notice.get() {
            Some(notice) => notice,
            None => {
                let notice = Notice::new()?;
                self.notice.get_or_init(|| notice)
            }
        };
        if matches!(self.asked, Asked::Worker) {
            notice.attach();
        }
        // A request to leave from before the notice was attached did not reach it.
        if self.is_asked_to_leave() {
            notice.give();
        }
        Ok(notice.as_fd())
    }

    /// Asks to leave in a test: see [`Context::for_test`]. In a worker this does nothing,
    /// because only the daemon asks a worker to leave.
    pub fn ask_to_leave(&self) {
        if let Asked::Test(asked) = &self.asked {
            asked.store(true, Ordering::SeqCst);
            self.notice.get().into_iter().for_each(Notice::give);
        }
    }
}
