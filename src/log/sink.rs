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

/// What a log is written to.
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
    /// What these settings write to.
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

/// An open log. Master and workers share what it means to reopen it: another
/// file is put behind the same number, so that nobody has to be told.
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

    /// Opens the file again by its name, after somebody has renamed it, or
    /// connects to the journal again. Standard error stays what it is.
    ///
    /// # Errors
    ///
    /// The file cannot be opened; the old one stays in use. Or there is no journal.
    pub fn reopen(&self) -> io::Result<()> {
        match &self.kind {
            Kind::File(path) => descriptor::replace(open_file(path)?, self.number()),
            Kind::Journal => journal::connect(&self.target),
            Kind::StandardError => Ok(()),
        }
    }

    /// Goes over to what `other` has open, under the number of this one.
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

    /// What it is written to.
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

    /// A writer that sends each record off in one piece.
    pub fn writer(&self) -> LineWriter {
        LineWriter::new(Arc::clone(&self.target))
    }
}

/// Standard error, opened anew if it is a pipe or a terminal, so that writing
/// to it can be made never to wait without changing that for others who have
/// it. Where that is not allowed, as for a pipe or terminal of another user, a copy.
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

/// A signal handler may need the path at any time, so it is never freed. It is
/// made anew only when the log moves, and here, so that a child need not.
fn leak_c_string(path: &Path) -> io::Result<&'static CStr> {
    Ok(Box::leak(CString::new(path.as_os_str().as_bytes())?.into_boxed_c_str()))
}

/// The file of a log: appended to, so that the lines of several processes do
/// not overwrite each other; not readable for others, since lines may quote
/// what clients sent.
fn open_file(path: &Path) -> io::Result<File> {
    let place = Place::of(path)?;
    let is_fifo = place.look()?.is_some_and(|file| file.st_mode & libc::S_IFMT == libc::S_IFIFO);
    // A FIFO that nobody reads yet would make us wait for its reader.
    let access = if is_fifo { OFlag::O_RDWR } else { OFlag::O_WRONLY };
    // It may be a terminal, too; a file does not mind.
    let flags = access | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOCTTY;
    place.open(flags, Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP)
}
