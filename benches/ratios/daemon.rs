//! preforkd as an operator would run it: the built binary, a configuration file, a log file.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A pool to be measured, by the bare loop or by the daemon, or several by the daemon.
pub struct Job {
    /// What a worker does with a connection.
    pub service: Service,
    /// How many workers a pool has.
    pub workers: usize,
    /// How many pools of this kind.
    pub pools: u8,
}

/// The services that are measured.
pub enum Service {
    /// Sends back what it gets.
    Echo,
    /// Runs a program for each connection.
    Exec {
        /// The program's path.
        program: PathBuf,
        /// Where the daemon sends what the program writes to stderr: the configuration's
        /// `stderr`, or its default.
        stderr: Option<&'static str>,
        /// How the bare loop starts it.
        floor: Floor,
    },
}

/// How a bare loop starts a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// By posix_spawn(3), as a program of ordinary care does.
    PosixSpawn,
    /// By vfork(2) and execve(2): the least that the kernel lets anybody do.
    Vfork,
}

impl Job {
    /// A pool of `workers` that echo.
    pub fn echo(workers: usize) -> Job {
        Job { service: Service::Echo, workers, pools: 1 }
    }

    /// How many workers there are in all.
    pub fn size(&self) -> usize {
        self.workers * usize::from(self.pools)
    }
}

/// The command that starts the daemon with the configuration at `path`.
pub fn command(path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preforkd"));
    command.arg("--config").arg(path).arg("run");
    command
}

/// The log file that belongs to the configuration at `path`.
pub fn log_file(path: &Path) -> PathBuf {
    path.with_extension("log")
}

/// Writes the configuration of `job` to `path`, whole or not at all: a reload that came in
/// between would read half a file.
///
/// All other settings stay at their defaults, the log's level too, because users run these.
/// `generation` goes into the workers' environment, so that another number is a changed
/// pool.
pub fn configure(path: &Path, job: &Job, address: SocketAddrV4, generation: u32) -> io::Result<()> {
    let mut text = String::new();
    let _ = writeln!(text, "[log]\nfile = {:?}\n", log_file(path));
    // As the bare loop, which stays who it is; without root this says nothing.
    text.push_str("[daemon]\nuser = \"root\"\n");
    for pool in 0..job.pools {
        // The same port, and an address of their own for all but the first.
        let address = match pool {
            0 => address,
            _ => SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, pool), address.port()),
        };
        describe(&mut text, job, pool, address, generation);
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

/// Adds a pool to the text of a configuration.
fn describe(text: &mut String, job: &Job, pool: u8, address: SocketAddrV4, generation: u32) {
    let _ = writeln!(text, "[pool.bench{pool}]\nlisten = \"{address}\"\nworkers = {}", job.workers);
    let _ = writeln!(text, "env = {{ GENERATION = \"{generation}\" }}");
    match &job.service {
        Service::Echo => text.push_str("service = \"echo\"\n"),
        Service::Exec { program, stderr, floor: _ } => {
            let _ = writeln!(text, "service.exec.command = [{program:?}]");
            if let Some(stderr) = stderr {
                let _ = writeln!(text, "service.exec.stderr = \"{stderr}\"");
            }
        }
    }
}
