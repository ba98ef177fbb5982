//! The command line.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::program;

/// Keeps a pool of worker processes behind a listening socket.
#[derive(Debug, Parser)]
#[command(name = program::name(), version = program::this().version, about, max_term_width = 100, subcommand_negates_reqs = true)]
pub struct Cli {
    /// The configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = program::config_file(),
        global = true
    )]
    pub config: PathBuf,

    /// Detach from the terminal; return once the pools accept connections.
    #[arg(long)]
    daemonize: bool,

    #[command(subcommand)]
    command: Option<Subcommands>,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Run the pools (the default).
    Run {
        /// Detach from the terminal; return once the pools accept connections.
        #[arg(long)]
        daemonize: bool,
    },
    /// Check the configuration, and change nothing.
    Check,
    /// Make the running daemon reload its configuration, and tell how that ended.
    Reload {
        /// Only wait for the reload that a signal has asked for; print nothing
        /// unless it failed.
        #[arg(long)]
        result: bool,
    },
    /// Print pools for what inetd.conf or the files of xinetd have.
    Import {
        /// An inetd.conf, an xinetd.conf, a file of xinetd.d, or that folder.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// To run in the foreground.
    Run,
    /// To run in the background.
    Daemonize,
    /// To check the configuration.
    Check,
    /// To reload the configuration of the daemon that runs.
    Reload,
    /// To tell how its last reload has ended.
    LastResult,
    /// To print pools for these files of another superserver.
    Import(Vec<PathBuf>),
}

impl Cli {
    /// What the command line of this process says.
    pub fn from_arguments() -> Result<Cli, clap::Error> {
        Cli::try_parse().map_err(with_meant)?.without_contradiction()
    }

    /// clap cannot tell an option of no command from one of each.
    fn without_contradiction(self) -> Result<Cli, clap::Error> {
        let command = match self.command {
            Some(Subcommands::Check) => "check",
            Some(Subcommands::Reload { .. }) => "reload",
            Some(Subcommands::Import { .. }) => "import",
            Some(Subcommands::Run { .. }) | None => return Ok(self),
        };
        if !self.daemonize {
            return Ok(self);
        }
        let text = format!("the argument '--daemonize' cannot be used with '{command}'");
        Err(<Cli as CommandFactory>::command().error(ErrorKind::ArgumentConflict, text))
    }

    /// What is to be done.
    pub fn command(&self) -> Command {
        match &self.command {
            Some(Subcommands::Import { files }) => Command::Import(files.clone()),
            Some(Subcommands::Check) => Command::Check,
            Some(Subcommands::Reload { result: false }) => Command::Reload,
            Some(Subcommands::Reload { result: true }) => Command::LastResult,
            Some(Subcommands::Run { daemonize: true }) => Command::Daemonize,
            Some(Subcommands::Run { daemonize: false }) | None if self.daemonize => {
                Command::Daemonize
            }
            Some(Subcommands::Run { daemonize: false }) | None => Command::Run,
        }
    }
}

/// Tells how the configuration is named to somebody who has given its path alone.
fn with_meant(error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    if !word.contains(['/', '.']) {
        return error;
    }
    let text = format!(
        "unrecognized subcommand '{word}'\n\n  tip: for a configuration file, write '-c {word}'"
    );
    <Cli as CommandFactory>::command().error(ErrorKind::InvalidSubcommand, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn running_is_the_default() {
        for (arguments, command) in [
            (&[][..], Command::Run),
            (&["run"], Command::Run),
            (&["--daemonize"], Command::Daemonize),
            (&["run", "--daemonize"], Command::Daemonize),
            (&["-c", "x.toml", "check"], Command::Check),
            (&["check", "-c", "x.toml"], Command::Check),
            (&["reload"], Command::Reload),
            (&["reload", "--result"], Command::LastResult),
            (&["import", "a", "b"], Command::Import(vec!["a".into(), "b".into()])),
        ] {
            let cli = Cli::try_parse_from([&["preforkd"], arguments].concat()).unwrap();
            assert_eq!(cli.command(), command, "{arguments:?}");
        }
    }
}
