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

pub mod cli;
pub mod config;
mod daemon;
pub mod error;
mod listener;
pub mod log;
mod master;
mod notify;
mod pool;
mod scoreboard;
pub mod service;
#[expect(unsafe_code, reason = "the one place for it; see its documentation")]
mod sys;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use config::Config;
pub use config::{Fault, Options, Problem, Problems};
use error::{Code, Error};
use listener::Inherited;
use master::{Master, Observer};
use notify::Notifier;
pub use service::{Connection, Context, Credentials, Outcome, Peer, Service, Services};

/// The daemon: reads the command line, and does what it says with these
/// services. Gives the exit code of the process.
pub fn main(services: Services) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // There is nothing to do about an output that is gone.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Code::Usage as u8 } else { 0 });
        }
    };
    let done = match cli.command() {
        Command::Check => check(cli.config, &services),
        Command::Run => run(cli.config, services),
        Command::Daemonize => daemonize(cli.config, services),
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(error.code() as u8)
    })
}

fn check(file: PathBuf, services: &Services) -> Result<ExitCode, Error> {
    master::check(config::load(&file)?, services)?;
    println!("{}: ok", file.display());
    Ok(ExitCode::SUCCESS)
}

fn run(file: PathBuf, services: Services) -> Result<ExitCode, Error> {
    let config = config::load(&file)?;
    let inherited = notify::inherited()?;
    match Notifier::from_environment(&inherited) {
        Some(mut notifier) => supervise(file, config, services, inherited, &mut notifier),
        None => supervise(file, config, services, inherited, &mut Nobody),
    }
}

fn daemonize(file: PathBuf, services: Services) -> Result<ExitCode, Error> {
    // The daemon works in the root directory.
    let file = std::path::absolute(&file).unwrap_or(file);
    let config = config::load(&file)?;
    match daemon::detach(&config.daemon.pid_file)? {
        daemon::Side::Command(code) => Ok(code),
        daemon::Side::Daemon(mut detached) => {
            supervise(file, config, services, Vec::new(), &mut detached)
                .inspect_err(|error| detached.failed(error))
        }
    }
}

fn supervise(
    file: PathBuf,
    config: Config,
    services: Services,
    inherited: Vec<Inherited>,
    observer: &mut dyn Observer,
) -> Result<ExitCode, Error> {
    Master::new(file, config, services, inherited, observer)?.run()?;
    Ok(ExitCode::SUCCESS)
}

/// In the foreground the log says it all.
struct Nobody;

impl Observer for Nobody {}

impl Observer for daemon::Detached {
    fn ready(&mut self) {
        daemon::Detached::ready(self, None);
    }

    fn partly_ready(&mut self, warning: &str) {
        daemon::Detached::ready(self, Some(warning));
    }
}
