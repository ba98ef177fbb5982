//! Detaching from the terminal, with the daemonize crate.
//!
//! The command that the user typed stays until the daemon reports. It returns 0 once the
//! pools accept, or the daemon's exit code with the reason on the terminal. The report goes
//! through a pipe. If the pipe ends without a report, the daemon has died.
#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use daemonize::{Daemonize, Outcome, Parent};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getpid, pipe2};

use crate::error::{Code, Error, reason};
use crate::master::Observer;
use crate::sys::descriptor;
use crate::sys::place::Place;

/// Which process this is after detaching.
pub enum Side {
    /// The process that the user started. The daemon has reported; this is the command's
    /// exit code.
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
/// In the command: no pipe or no process could be made. The command itself reports a
/// failure of the daemon.
pub fn detach(pid_file: &Path) -> Result<Side, Error> {
    // Otherwise the daemon would keep a lock of its caller, or the end of a pipe, for ever.
    // The configuration may have come through such a descriptor, and has been read.
    descriptor::close_passed().map_err(|error| Error::system("close descriptors", &error))?;
    let (read, write) =
        pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::system("make pipe", &errno.into()))?;
    // A process can read its umask only by setting it.
    let mask = umask(Mode::empty());
    umask(mask);
    let daemonize = Daemonize::new().umask(mask.bits()).working_directory("/");
    match daemonize.execute() {
        Outcome::Parent(Ok(Parent { .. })) => {
            drop(write);
            Ok(Side::Command(await_report(read.into())))
        }
        Outcome::Parent(Err(error)) => Err(could_not_detach(&error)),
        Outcome::Child(detached) => {
            let mut report = File::from(write);
            let held = detached
                .map_err(|error| could_not_detach(&error))
                .and_then(|_| PidFile::hold(pid_file).map_err(|why| cannot_create(pid_file, &why)));
            match held {
                Ok(pid_file) => Ok(Side::Daemon(Detached { report: Some(report), pid_file })),
                Err(error) => {
                    let _ = send(&mut report, error.code() as u8, &error.to_string());
                    Ok(Side::Command(ExitCode::from(error.code() as u8)))
                }
            }
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
    /// Reports to the command why the daemon ends, if there was no report before. The pid
    /// file is gone by then, so that a new attempt finds none.
    pub fn failed(self, error: &Error) {
        let Detached { report, pid_file } = self;
        drop(pid_file);
        if let Some(mut report) = report {
            let _ = send(&mut report, error.code() as u8, &error.to_string());
        }
    }

    fn send(&mut self, code: u8, text: &str) {
        if let Some(mut report) = self.report.take() {
            // The command may have ended.
            let _ = send(&mut report, code, text);
        }
    }
}

/// A report is the exit code in one byte, and then the text to print.
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

fn could_not_detach(error: &daemonize::Error) -> Error {
    Error::new(Code::Os, format!("could not detach: {}", in_words(&error.to_string())))
}

/// The words for the error number at the end of such a text.
fn in_words(text: &str) -> String {
    let number = text.rsplit_once(", errno ").and_then(|(_, number)| number.parse().ok());
    match number {
        Some(number) => reason(&io::Error::from_raw_os_error(number)),
        None => text.to_owned(),
    }
}

fn cannot_create(pid_file: &Path, error: &io::Error) -> Error {
    let (path, reason) = (pid_file.display(), reason(error));
    let text = format!("could not create pid file \"{path}\": {reason}");
    let told = Error::new(Code::CannotCreate, text);
    match error.kind() {
        io::ErrorKind::PermissionDenied => told.with_hint("see [daemon].pid_file"),
        _ => told,
    }
}

/// The file with the pid of the daemon, locked while the daemon lives and removed at its
/// end.
struct PidFile {
    path: PathBuf,
    file: Flock<File>,
    made_by: Pid,
}

impl PidFile {
    /// Makes the file and its directory, because /run is empty after a boot.
    fn hold(path: &Path) -> io::Result<Self> {
        make_directory(path.parent().unwrap_or(Path::new("/")))?;
        loop {
            // A user who can write to the file can make its reader kill any process.
            let place = Place::of(path)?;
            let file =
                place.open(OFlag::O_RDWR | OFlag::O_CREAT, Mode::from_bits_truncate(0o644))?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((mut file, Errno::EWOULDBLOCK)) => {
                    let mut holder = String::new();
                    let _ = file.read_to_string(&mut holder);
                    let holder = holder.trim();
                    return Err(io::Error::other(format!("a daemon with pid {holder} holds it")));
                }
                Err((_, errno)) => return Err(errno.into()),
            };
            let mut held = PidFile { path: path.to_owned(), file, made_by: getpid() };
            // A daemon that has just ended may have removed the file since it was opened.
            if held.is_in_place() {
                held.file.set_len(0)?;
                writeln!(held.file, "{}", getpid())?;
                return Ok(held);
            }
        }
    }

    /// Whether the path still means this file, and not that of a successor.
    fn is_in_place(&self) -> bool {
        let identity = |file: fs::Metadata| (file.dev(), file.ino());
        let own = self.file.metadata().map(identity);
        matches!((own, fs::symlink_metadata(&self.path).map(identity)), (Ok(own), Ok(found)) if own == found)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if getpid() == self.made_by && self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the missing parts of a directory. This sets their mode itself, because the umask
/// may be 0.
fn make_directory(path: &Path) -> io::Result<()> {
    let Some(first) = path.ancestors().take_while(|path| !path.exists()).last() else {
        return Ok(());
    };
    // Root makes nothing where others could redirect it.
    Place::of(first)?;
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}
