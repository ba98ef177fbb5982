//! What each command does, from its configuration to its exit code.
#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::config::{self, Config, Format};
use crate::daemon;
use crate::error::{Code, Error};
use crate::import;
use crate::listener::Inherited;
use crate::log::event::Event;
use crate::log::{journal, mirror};
use crate::master::{self, Master, Observer};
use crate::notify::{self, Notifier};
use crate::request::{self, Action, Reply, Request};
use crate::service::Services;
use crate::sys::identity::{Privacy, set_privacy};

/// Does what the command line asks for. Gives the exit code of the process.
pub fn obey(cli: Cli, services: Services) -> ExitCode {
    let command = cli.command();
    let is_start = command == Command::Run;
    let done = catch_unwind(AssertUnwindSafe(|| match command {
        Command::Check => check(cli.config, &services),
        Command::Run => run(cli.config, services),
        Command::Daemonize => daemonize(cli.config, services),
        Command::Reload => reload(&cli.config, Action::Reload),
        Command::LastResult => reload(&cli.config, Action::LastResult),
        Command::Import(files) => print_pools(&files),
    }));
    match done {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            let is_told = is_start && tell_journal(&error);
            if !is_told {
                // There is nothing to do about an output that is gone.
                let _ = writeln!(io::stderr(), "{error}");
            }
            ExitCode::from(error.code() as u8)
        }
        // A bug of ours. The panic has printed its message.
        Err(_) => ExitCode::from(Code::Software as u8),
    }
}

/// Tells the journal why the daemon did not start, if standard error leads there: an entry
/// has fields, and a line has none.
fn tell_journal(error: &Error) -> bool {
    if error.is_logged() {
        return journal::is_standard_error();
    }
    mirror::tell_journal(&Event::CouldNotStart { reason: error.to_string() })
}

/// Set where systemd has started the check in the place of the service, with all sockets
/// that the service would get.
const AS_SERVICE: &str = "PREFORKD_AS_SERVICE";

fn check(file: PathBuf, services: &Services) -> Result<ExitCode, Error> {
    let passed = env::var_os(AS_SERVICE).map(|_| notify::inherited()).transpose()?;
    master::check(config::load(&file)?, services, passed.as_deref())?;
    for stray in config::strays(&file) {
        let name = stray.display();
        let _ = writeln!(
            io::stderr(),
            "warning: file \"{name}\" is not included: no pattern of include matches its name"
        );
    }
    let _ = writeln!(io::stdout(), "{}: ok", file.display());
    Ok(ExitCode::SUCCESS)
}

fn run(file: PathBuf, services: Services) -> Result<ExitCode, Error> {
    close_to_others()?;
    let config = config::load(&file)?;
    let inherited = notify::inherited()?;
    match Notifier::from_environment(&inherited) {
        Some(mut notifier) => supervise(file, config, services, inherited, &mut notifier),
        None => supervise(file, config, services, inherited, &mut Nobody),
    }
}

/// The warning to the user of a daemon without a log.
const NO_LOG: &str = "warning: the log goes to /dev/null, for a daemon has no standard error; \
                      set \"file\" in [log]";

fn daemonize(file: PathBuf, services: Services) -> Result<ExitCode, Error> {
    // The daemon works in the root directory.
    let file = std::path::absolute(&file).unwrap_or(file);
    close_to_others()?;
    let config = config::load(&file)?;
    let has_log = config.log.file.is_some() || config.log.format == Format::Journal;
    match daemon::detach(&config.daemon.pid_file)? {
        daemon::Side::Command(code) => {
            if code == ExitCode::SUCCESS && !has_log {
                let _ = writeln!(io::stderr(), "{NO_LOG}");
            }
            Ok(code)
        }
        daemon::Side::Daemon(mut detached) => {
            let ended = supervise(file, config, services, Vec::new(), &mut detached);
            match &ended {
                // After a report of success this one is not sent.
                Ok(_) => detached.failed(&Error::new(
                    Code::Unavailable,
                    "could not start daemon: it was stopped before it was ready",
                )),
                Err(error) => detached.failed(error),
            }
            ended
        }
    }
}

/// Asks the daemon that runs with this configuration.
fn reload(file: &Path, action: Action) -> Result<ExitCode, Error> {
    let socket = config::control(file)?;
    let mut waiting = Waiting { socket: &socket, file, told: String::new() };
    let request = Request::new(action, file);
    let Reply { code, text } = request::ask(&socket, &request, || waiting.tell())?;
    // There is nothing to do about an output that is gone.
    let _ = match code {
        0 if action == Action::LastResult => Ok(()),
        0 => writeln!(io::stdout(), "{text}"),
        _ => writeln!(io::stderr(), "{text}"),
    };
    Ok(ExitCode::from(code))
}

/// Where the ports of services are.
const SERVICES: &str = "/etc/services";

/// Prints pools for what another superserver has.
fn print_pools(files: &[PathBuf]) -> Result<ExitCode, Error> {
    let originals = import::gather(files)?;
    // Without it, only services with numbers for their ports can be imported.
    let services = fs::read_to_string(SERVICES).unwrap_or_default();
    let pools = import::import(&originals, &services)?;
    write!(io::stdout(), "{pools}").map_err(|error| Error::system("print the pools", &error))?;
    Ok(ExitCode::SUCCESS)
}

/// A command that waits for the end of a reload.
struct Waiting<'a> {
    socket: &'a Path,
    file: &'a Path,
    told: String,
}

impl Waiting<'_> {
    /// Tells what it waits for, where that is something new, and goes on waiting.
    fn tell(&mut self) -> ControlFlow<()> {
        let request = Request::new(Action::Awaited, self.file);
        let text = match request::ask(self.socket, &request, || ControlFlow::Break(())) {
            Ok(Reply { code: 0, text }) => text,
            // A daemon of an older version does not know the question.
            Ok(_) => String::new(),
            Err(_) => "waiting until the daemon answers".to_owned(),
        };
        if !text.is_empty() && text != self.told {
            let _ = writeln!(io::stderr(), "{text}");
            self.told = text;
        }
        ControlFlow::Continue(())
    }
}

/// Keeps the programs of a pool, which may be of the same user, out of the master's
/// memory and descriptors. It comes before anything secret is read.
fn close_to_others() -> Result<(), Error> {
    set_privacy(Privacy::Closed)
        .map_err(|error| Error::system("close the process to others", &error))
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
