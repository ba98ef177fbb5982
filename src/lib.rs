//! preforkd: a prefork worker-pool daemon.
//!
//! A master process preforks N workers that each block in `accept` on one listener. When a
//! worker dies, the master reaps it, logs how it died, and forks its successor. This
//! library is the whole daemon. To run a service of your own, make a [`Daemon`] with it.
//!
//! ```no_run
//! use std::io::Write;
//! use preforkd::{Connection, Context, Daemon, Options, Outcome, Problems, Service};
//!
//! struct Hello;
//!
//! impl Service for Hello {
//!     fn serve(&mut self, mut connection: Connection, _: &Context) -> Outcome {
//!         connection.write_all(b"hello\n").into()
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     let hello = |_: &Options| -> Result<Hello, Problems> { Ok(Hello) };
//!     Daemon::new("greeter", env!("CARGO_PKG_VERSION")).service("hello", hello).main()
//! }
//! ```
//!
//! The modules, in the order in which a connection meets them:
#![deny(unsafe_code)]

// The command line, and what it calls. A blank line keeps rustfmt from sorting on.
mod cli;
mod commands;
mod embed;
mod program;

// 1. Configuration.
mod config;

// Moving over from another superserver: from its files to ours.
mod import;

// 2. Listeners, and the users whom their files belong to.
mod accounts;
mod listener;

// 3. The master.
mod master;

// 4. Pools, the pages on which their workers tell what they do, and what the workers of
// one pool know of each other.
mod ledger;
mod pool;
mod scoreboard;

// 5. Workers.
mod worker;

// 6. Services.
mod service;

// The kernel, for all of these.
#[expect(unsafe_code, reason = "the one place for it; see its documentation")]
mod sys;

// The ways out: terminal, exit codes, log, service manager, control socket.
mod daemon;
mod error;
mod log;
mod notify;
mod request;
mod unit;

/// Not for an embedding program. `packaging/manual.rs` makes the manual page and the
/// completions from it, and a test sees only public items.
#[doc(hidden)]
pub use cli::Cli;
pub use config::{Fault, Options, Problem, Problems};
pub use embed::{Daemon, main};
pub use error::Code;
/// The crate by which the options of a service are read. With
/// `#[serde(crate = "preforkd::serde")]` a program needs no other.
pub use serde;
pub use service::{
    Connection, Context, Credentials, Failure, Outcome, Peer, Service, Services, Wake,
};
/// The crate of which [`Context::log`] gives a logger.
pub use slog;
pub use sys::wipe::WipingAllocator;
