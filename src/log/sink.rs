//! Where log lines go: a descriptor whose number never changes.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;

use crate::config::{self, Format};
use crate::sys::descriptor;
use crate::sys::place::Place;

use super::journal;
use super::writer::LineWriter;

/// The target of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard error.
    StandardError,
    /// The file of this name.
    File(PathBuf),
    /// The journal, as native entries.
    Journal,
}

impl Kind {
    /// The target of these settings.
    pub fn of(settings: &config::Log) -> Kind {
        match (settings.format, &settings.file) {
            (Format::Journal, _) => Kind::Journal,
            (_, Some(path)) => Kind::File(path.clone()),
            (Format::Auto, None) if journal::is_standard_error() => Kind::Journal,
            (_, None) => Kind::StandardError,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::StandardError => f.write_str("standard error"),
            Kind::File(path) => write!(f, "{}", path.display()),
            Kind::Journal => f.write_str("journal"),
        }
    }
}

/// An open log. To reopen it, the master and each worker put another file behind the same
/// number. So no other code must learn a new number.
#[derive(Debug)]
pub struct Sink {
    target: Arc<OwnedFd>,
    kind: Kind,
    c_path: Option<&'static CStr>,
}

impl Sink {
    /// Opens the log.
    pub fn open(kind: Kind) -> io::Result<Self> {
        let target = match &kind {
            Kind::File(path) => open_file(path)?.into(),
            Kind::StandardError => own_standard_error()?,
            Kind::Journal => journal::open()?,
        };
        let c_path = match &kind {
            Kind::File(path) => Some(leak_c_string(path)?),
            Kind::StandardError | Kind::Journal => None,
        };
        Ok(Sink { target: Arc::new(target), kind, c_path })
    }

    /// Opens the file again by its name, after somebody has renamed it, or connects to the
    /// journal again. Standard error stays unchanged.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, and the old file stays in use. Or there is no journal.
    pub fn reopen(&self) -> io::Result<()> {
        match &self.kind {
            Kind::File(path) => descriptor::replace(open_file(path)?, self.number()),
            Kind::Journal => journal::connect(&self.target),
            Kind::StandardError => Ok(()),
        }
    }

    /// Switches to the target of `other`, under the number of this log.
    pub fn become_like(&mut self, other: Sink) -> io::Result<()> {
        descriptor::replace(&*other.target, self.number())?;
        self.kind = other.kind;
        self.c_path = other.c_path;
        Ok(())
    }

    /// The number of the descriptor.
    pub fn number(&self) -> RawFd {
        self.target.as_raw_fd()
    }

    /// The target.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The path of the log file, for a signal handler.
    pub fn c_path(&self) -> Option<&'static CStr> {
        self.c_path
    }

    /// The descriptor, for a writer of its own.
    pub fn target(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.target)
    }

    /// A writer that writes each record in one piece.
    pub fn writer(&self) -> LineWriter {
        LineWriter::new(Arc::clone(&self.target))
    }
}

/// Standard error, opened again if it is a pipe or a terminal. So its writes can be made
/// non-blocking without a change for other processes that have it. If that is not allowed,
/// as for a pipe or terminal of another user, this is a copy.
fn own_standard_error() -> io::Result<OwnedFd> {
    const STDERR: &str = "/proc/self/fd/2";
    let stderr = io::stderr();
    if std::fs::metadata(STDERR)?.file_type().is_fifo() || stderr.is_terminal() {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        if let Ok(own) = File::options().append(true).custom_flags(flags).open(STDERR) {
            return Ok(own.into());
        }
    }
    stderr.as_fd().try_clone_to_owned()
}

/// A signal handler may need the path at any time, so the path is never freed. The master
/// makes a new one only when the log moves, so that no child has to.
fn leak_c_string(path: &Path) -> io::Result<&'static CStr> {
    Ok(Box::leak(CString::new(path.as_os_str().as_bytes())?.into_boxed_c_str()))
}

/// The file of a log. Writes append, so that the lines of several processes do not
/// overwrite each other. Others cannot read the file, because lines may quote what clients
/// sent.
fn open_file(path: &Path) -> io::Result<File> {
    let place = Place::of(path)?;
    let is_fifo = place.look()?.is_some_and(|file| file.st_mode & libc::S_IFMT == libc::S_IFIFO);
    // A FIFO that nobody reads yet would make us wait for its reader.
    let access = if is_fifo { OFlag::O_RDWR } else { OFlag::O_WRONLY };
    // The path may be a terminal, too; for a file the flag has no effect.
    let flags = access | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOCTTY;
    place.open(flags, Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP)
}
