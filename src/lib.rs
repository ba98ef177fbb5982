//! preforkd: a prefork worker-pool daemon.
//!
//! A master process preforks N workers that each block in `accept` on one
//! listener; when one dies, the master reaps it, writes down how it died, and
//! forks its successor. This library is the whole daemon: with a service of
//! your own it takes a call of [`main`].
//!
//! ```no_run
//! use std::io::Write;
//! use preforkd::{Connection, Context, Options, Outcome, Problems, Service, Services};
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
//!     preforkd::main(Services::builtin().with("hello", hello))
//! }
//! ```
//!
//! The modules, in the order in which a connection meets them:
#![deny(unsafe_code)]

mod accounts;
pub mod cli;
mod commands;
pub mod config;
mod daemon;
pub mod error;
mod listener;
pub mod log;
mod master;
mod notify;
mod pool;
mod request;
mod scoreboard;
pub mod service;
#[expect(unsafe_code, reason = "the one place for it; see its documentation")]
mod sys;
mod worker;

use std::process::ExitCode;

use cli::Cli;
pub use config::{Fault, Options, Problem, Problems};
use error::Code;
pub use service::{Connection, Context, Credentials, Outcome, Peer, Service, Services};
/// The crate of which [`Context::log`] gives a logger.
pub use slog;
pub use sys::wipe::WipingAllocator;

/// The daemon: reads the command line, and does what it says with these
/// services. Gives the exit code of the process.
pub fn main(services: Services) -> ExitCode {
    match Cli::from_arguments() {
        Ok(cli) => commands::obey(cli, services),
        Err(error) => {
            // There is nothing to do about an output that is gone.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { Code::Usage as u8 } else { 0 })
        }
    }
}
