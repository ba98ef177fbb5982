//! Detaching from the terminal, with the daemonize crate.
//!
//! The command that the user typed stays until the daemon reports: it returns
//! 0 once the pools accept, or the daemon's exit code with the reason on the
//! terminal. The report goes through a pipe; its end without a report means
//! that the daemon died.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use daemonize::{Daemonize, Outcome, Parent};
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getpid, pipe2};

use crate::error::{Code, Error, reason};
use crate::master::Observer;
use crate::sys::descriptor;

/// Which process this is after detaching.
pub enum Side {
    /// The one that the user started. The daemon has reported; this is the
    /// command's exit code.
    Command(ExitCode),
    /// The daemon.
    Daemon(Detached),
}

/// The daemon's end of the pipe to the command, and its pid file.
pub struct Detached {
    report: Option<File>,
    pid_file: PidFile,
}

/// Detaches. The pid file is locked for as long as the daemon lives.
///
/// # Errors
///
/// In the command: no pipe or no process could be made. What fails in the
/// daemon is reported by the command itself.
pub fn detach(pid_file: &Path) -> Result<Side, Error> {
    // A daemon that kept a lock of its caller, or the end of a pipe, would keep it
    // for ever. The configuration may have come that way, and has been read.
    descriptor::close_passed().map_err(|error| Error::system("close descriptors", &error))?;
    if let Some(directory) = pid_file.parent() {
        // /run is empty after a boot.
        fs::create_dir_all(directory).map_err(|error| cannot_create(pid_file, reason(&error)))?;
    }
    let (read, write) =
        pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::system("make pipe", &errno.into()))?;
    // The umask can only be read by setting it.
    let mask = umask(Mode::empty());
    umask(mask);
    // Who can write to the pid file can have anything killed by its reader.
    let daemonize = Daemonize::new()
        .pid_file(pid_file)
        .umask((mask | Mode::S_IWGRP | Mode::S_IWOTH).bits())
        .working_directory("/");
    match daemonize.execute() {
        Outcome::Parent(Ok(Parent { .. })) => {
            drop(write);
            Ok(Side::Command(await_report(read.into())))
        }
        Outcome::Parent(Err(error)) => {
            Err(Error::new(Code::Os, format!("could not detach: {}", in_words(&error.to_string()))))
        }
        Outcome::Child(Ok(_)) => {
            umask(mask);
            let pid_file = PidFile { path: pid_file.to_owned(), made_by: getpid() };
            Ok(Side::Daemon(Detached { report: Some(write.into()), pid_file }))
        }
        Outcome::Child(Err(error)) => {
            let error = explain(&error, pid_file);
            let _ = send(&mut write.into(), error.code() as u8, &error.to_string());
            // Not ours to clean up after: the file is another daemon's.
            Ok(Side::Command(ExitCode::from(error.code() as u8)))
        }
    }
}

impl Observer for Detached {
    fn ready(&mut self) {
        self.send(0, "");
    }

    fn partly_ready(&mut self, warning: &str) {
        self.send(0, warning);
    }
}

impl Detached {
    /// Tells the command why the daemon ends, if nothing was told before. Whoever
    /// tries again then finds no pid file.
    pub fn failed(self, error: &Error) {
        let Detached { report, pid_file } = self;
        drop(pid_file);
        if let Some(mut report) = report {
            let _ = send(&mut report, error.code() as u8, &error.to_string());
        }
    }

    fn send(&mut self, code: u8, text: &str) {
        if let Some(mut report) = self.report.take() {
            // Nobody may wait for it any more.
            let _ = send(&mut report, code, text);
        }
    }
}

/// A report is the exit code, a byte, and then what to print.
fn send(report: &mut File, code: u8, text: &str) -> io::Result<()> {
    report.write_all(&[code])?;
    report.write_all(text.as_bytes())
}

fn await_report(mut report: File) -> ExitCode {
    let mut bytes = Vec::new();
    let read = report.read_to_end(&mut bytes);
    match (read, bytes.split_first()) {
        (Ok(_), Some((&code, text))) => {
            if !text.is_empty() {
                let _ = writeln!(io::stderr(), "{}", String::from_utf8_lossy(text));
            }
            ExitCode::from(code)
        }
        _ => {
            let _ = writeln!(io::stderr(), "could not start daemon: it ended without a word");
            ExitCode::from(Code::Software as u8)
        }
    }
}

/// What the daemonize crate failed at. It keeps the kind of its errors to
/// itself, so its text has to tell them apart.
fn explain(error: &daemonize::Error, pid_file: &Path) -> Error {
    let text = error.to_string();
    if text.contains("lock pid file") {
        let holder = fs::read_to_string(pid_file).unwrap_or_default();
        cannot_create(pid_file, format!("a daemon with pid {} holds it", holder.trim()))
    } else if text.contains("pid file") {
        cannot_create(pid_file, in_words(&text))
    } else {
        Error::new(Code::Os, format!("could not detach: {}", in_words(&text)))
    }
}

/// The words for the number that such a text ends with.
fn in_words(text: &str) -> String {
    let number = text.rsplit_once(", errno ").and_then(|(_, number)| number.parse().ok());
    match number {
        Some(number) => reason(&io::Error::from_raw_os_error(number)),
        None => text.to_owned(),
    }
}

fn cannot_create(pid_file: &Path, reason: impl std::fmt::Display) -> Error {
    Error::new(
        Code::CannotCreate,
        format!("could not create pid file \"{}\": {reason}", pid_file.display()),
    )
}

/// Removes the pid file when the daemon ends, while it still holds the lock.
struct PidFile {
    path: PathBuf,
    made_by: Pid,
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if getpid() == self.made_by {
            let _ = fs::remove_file(&self.path);
        }
    }
}
