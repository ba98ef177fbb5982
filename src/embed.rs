//! The daemon of an embedding program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use crate::cli::Cli;
use crate::commands;
use crate::config::{Options, Problems};
use crate::error::Code;
use crate::program::{self, Program};
use crate::service::{Service, Services};

/// A daemon under a name of its own, with services of its own.
///
/// The name and the version stand in `--help` and `--version`. The name stands in the
/// default paths, too: `/etc/NAME/NAME.toml`, `/run/NAME/control.sock` and
/// `/run/NAME/NAME.pid`. In the journal it is the identifier.
///
/// ```no_run
/// use std::io::Write;
/// use preforkd::{Connection, Context, Daemon, Options, Outcome, Problems, Service};
///
/// struct Hello;
///
/// impl Service for Hello {
///     fn serve(&mut self, mut connection: Connection, _: &Context) -> Outcome {
///         connection.write_all(b"hello\n").into()
///     }
/// }
///
/// fn main() -> std::process::ExitCode {
///     let hello = |_: &Options| -> Result<Hello, Problems> { Ok(Hello) };
///     Daemon::new("greeter", env!("CARGO_PKG_VERSION")).service("hello", hello).main()
/// }
/// ```
pub struct Daemon {
    program: Program,
    services: Services,
}

impl Daemon {
    /// A daemon of this name and version, with the services that are built in.
    ///
    /// # Panics
    ///
    /// The name is not 1 to 64 characters from A-Z a-z 0-9 _ - and the dot, or begins
    /// with a dot.
    pub fn new(name: &'static str, version: &'static str) -> Self {
        assert!(program::is_name(name), "{name:?} is not a name for a daemon");
        Daemon { program: Program { name, version }, services: Services::builtin() }
    }

    /// The same daemon with one more service, which `factory` makes from its options: see
    /// [`Services::with`].
    #[must_use]
    pub fn service<S, F>(mut self, name: &'static str, factory: F) -> Self
    where
        S: Service + 'static,
        F: Fn(&Options) -> Result<S, Problems> + 'static,
    {
        self.services = self.services.with(name, factory);
        self
    }

    /// The same daemon with only these services.
    #[must_use]
    pub fn services(mut self, services: Services) -> Self {
        self.services = services;
        self
    }

    /// Reads the command line and carries it out. Gives the exit code of the process.
    pub fn main(self) -> ExitCode {
        self.program.settle();
        match Cli::from_arguments() {
            Ok(cli) => commands::obey(cli, self.services),
            Err(error) => {
                // There is nothing to do about an output that is gone.
                let _ = error.print();
                ExitCode::from(if error.use_stderr() { Code::Usage as u8 } else { 0 })
            }
        }
    }
}

/// The daemon under its own name with these services. Reads the command line and carries it
/// out. Gives the exit code of the process.
///
/// A program with a name of its own uses [`Daemon`].
pub fn main(services: Services) -> ExitCode {
    let Program { name, version } = program::PREFORKD;
    Daemon::new(name, version).services(services).main()
}
