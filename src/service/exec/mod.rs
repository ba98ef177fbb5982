//! The service `exec`: a program for each connection.
#![forbid(unsafe_code)]

mod follower;
mod rest;
mod run;
mod stderr;
mod variables;

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::unistd::{AccessFlags, eaccess};
use serde::Deserialize;

use crate::config::{self, Options, Problems};
use crate::error::reason;
use crate::unit::{self, Refused};

use super::success::Success;
use super::{Connection, Context, Outcome, SEARCH_PATH, Service, interpreter};
use run::Runner;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecOptions {
    command: Vec<String>,
    argv0: Option<String>,
    #[serde(default)]
    stderr: Stderr,
    #[serde(default)]
    end_of_stream: EndOfStream,
    #[serde(default)]
    success: Success,
}

/// Where the standard error of the program goes.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Stderr {
    #[default]
    Log,
    Socket,
    Null,
}

/// When the client gets the end of its stream, if nothing else has the connection.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum EndOfStream {
    /// When the program has ended. A reply is whole then, although its request was not read.
    #[default]
    Exit,
    /// When the program has closed the connection. If there is something unread, the kernel
    /// resets the connection, and the end of the reply may be lost.
    Close,
}

/// Runs a program for each connection, with the socket as its standard input
/// and output, and waits for it.
pub struct Exec {
    path: PathBuf,
    command: Vec<CString>,
    stderr: Stderr,
    end_of_stream: EndOfStream,
    success: Rc<Success>,
    /// Made in the worker, by `start`.
    runner: Option<Runner>,
}

impl Exec {
    /// The service with these options: `command`, the program and its
    /// arguments; `argv0`, what the program has as its own name; `stderr`, where its standard
    /// error goes; `end_of_stream`, when its client gets the end of the stream; `success`,
    /// which of its ends are no failure.
    pub fn from_options(options: &Options) -> Result<Self, Problems> {
        let ExecOptions { mut command, argv0, stderr, end_of_stream, success } = options.parse()?;
        let problem = |message: String| Problems::from(options.problem("command", message));
        let Some(name) = command.first().filter(|name| !name.is_empty()) else {
            return Err(problem("the command is empty".to_owned()));
        };
        let path =
            find_program(name).map_err(|reason| not_found(options, &command, name, &reason))?;
        if let Some(argv0) = argv0 {
            if argv0.contains('\0') {
                return Err(options.problem("argv0", "the name holds a NUL byte").into());
            }
            command[0] = argv0;
        }
        let command = command
            .iter()
            .map(|argument| CString::new(argument.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|_| problem("an argument of the command holds a NUL byte".to_owned()))?;
        let success = Rc::new(success);
        Ok(Exec { path, command, stderr, end_of_stream, success, runner: None })
    }
}

fn not_found(options: &Options, command: &[String], name: &str, reason: &str) -> Problems {
    let message = format!("could not execute program \"{name}\": {reason}");
    let problem = options.problem("command", message);
    if name.contains(char::is_whitespace) {
        let rest = command.get(1..).unwrap_or_default();
        return problem.with_hint(format!("write {}", config::command_of(name, rest))).into();
    }
    let path = Path::new(name);
    let hint = path.metadata().err().and_then(|error| unit::hint(Refused::Read(path), &error));
    Problems::from(match hint {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    })
}

/// Looks for an executable file; a name without a slash is searched for in
/// [`SEARCH_PATH`], as execvp(3) would.
fn find_program(name: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        if !path.is_absolute() {
            return Err("the path is not absolute".to_owned());
        }
        return check_program(&path).map(|()| path);
    }
    SEARCH_PATH
        .split(':')
        .map(|directory| Path::new(directory).join(name))
        .find(|path| check_program(path).is_ok())
        .ok_or_else(|| format!("not found in {SEARCH_PATH}"))
}

fn check_program(path: &Path) -> Result<(), String> {
    let file = path.metadata().map_err(|error| reason(&error))?;
    if !file.is_file() {
        return Err("not a regular file".to_owned());
    }
    eaccess(path, AccessFlags::X_OK).map_err(|errno| reason(&errno.into()))?;
    interpreter::check(path)
}

impl Service for Exec {
    fn start(&mut self) -> io::Result<()> {
        let Exec { path, command, stderr, end_of_stream, success, .. } = self;
        let runner = Runner::new(path, command, *stderr, *end_of_stream, Rc::clone(success))?;
        self.runner = Some(runner);
        Ok(())
    }

    fn program(&self) -> Option<String> {
        Some(self.path.display().to_string())
    }

    fn serve(&mut self, connection: Connection, context: &Context) -> Outcome {
        match &mut self.runner {
            Some(runner) => runner.run(connection, context),
            None => io::Error::other("the service was not started").into(),
        }
    }
}
