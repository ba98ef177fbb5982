//! Where log lines go: a descriptor whose number never changes.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{self, MsgFlags};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::tcgetpgrp;

use crate::config::{self, Format};
use crate::sys::clock::Moment;
use crate::sys::descriptor;
use crate::sys::place::Place;

use super::journal;

/// How long lines may still wait for a reader that is behind, in milliseconds.
static PATIENCE_MS: AtomicU16 = AtomicU16::new(0);

/// The patience of a master in one turn of its loop: more, and whoever reads
/// the log slowly would stop the supervisor.
pub const MASTER_PATIENCE_MS: u16 = 50;
/// The patience of a worker in one connection. It keeps nobody waiting but its
/// own client.
pub const WORKER_PATIENCE_MS: u16 = 2_000;

/// Sets how long lines may wait from here on, all together.
pub fn have_patience(millis: u16) {
    PATIENCE_MS.store(millis, Relaxed);
}

/// In a worker: counts its own losses only.
pub fn settle() {
    LOST.store(0, Relaxed);
    have_patience(WORKER_PATIENCE_MS);
}

/// Lines that could not be written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Counts a line that could not be written.
pub(super) fn count_lost() {
    LOST.fetch_add(1, Relaxed);
}

/// Says how many lines were lost, by way of `tell`, until that is not lost too.
pub fn tell_lost(tell: impl FnOnce(u64)) {
    let lost = LOST.swap(0, Relaxed);
    if lost > 0 {
        tell(lost);
        if LOST.swap(0, Relaxed) > 0 {
            LOST.store(lost, Relaxed);
        }
    }
}

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
/// it. Where that is not allowed, as for a pipe of another user, a copy.
fn own_standard_error() -> io::Result<OwnedFd> {
    const STDERR: &str = "/proc/self/fd/2";
    let stderr = io::stderr();
    let open = |path| {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        File::options().append(true).custom_flags(flags).open(path)
    };
    let is_fifo = std::fs::metadata(STDERR)?.file_type().is_fifo();
    let own = match is_fifo || stderr.is_terminal() {
        true => open(STDERR).ok(),
        false => None,
    };
    // The terminal of the session may belong to another user, as after
    // `sudo -u`, and can yet be opened by this name (tty(4)). It is that of the
    // session if one may ask which group is in its foreground.
    let own = own.or_else(|| tcgetpgrp(&stderr).ok().and_then(|_| open("/dev/tty").ok()));
    own.map_or_else(|| stderr.as_fd().try_clone_to_owned(), |own| Ok(own.into()))
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

/// What a terminal has room for when it has any: a pseudo-terminal counts its
/// room in 256 bytes, another has more if less than 256 bytes wait to leave it; and
/// the end of a line becomes two bytes.
const TERMINAL_ROOM_BYTES: usize = 128;

/// How a call is kept from waiting, once there is any room.
#[derive(Clone, Copy, Debug)]
enum Means {
    /// It never waits: it takes as much as there is room for, or it is to a file.
    Whole,
    /// It writes no more than these bytes, for which there is room then.
    Parts(usize),
    /// A flag, which sockets know (send(2)).
    Flag,
}

impl Means {
    fn of(target: &OwnedFd) -> Means {
        let mode = fstat(target).map_or(0, |file| file.st_mode);
        let flags = fcntl(target, FcntlArg::F_GETFL).unwrap_or(0);
        let may_wait = flags & libc::O_NONBLOCK == 0;
        match mode & libc::S_IFMT {
            libc::S_IFSOCK => Means::Flag,
            libc::S_IFIFO if may_wait => Means::Parts(libc::PIPE_BUF),
            _ if may_wait && target.is_terminal() => Means::Parts(TERMINAL_ROOM_BYTES),
            _ => Means::Whole,
        }
    }

    fn write(self, target: &OwnedFd, bytes: &[u8]) -> nix::Result<usize> {
        match self {
            Means::Whole => nix::unistd::write(target, bytes),
            Means::Parts(most) => nix::unistd::write(target, &bytes[..bytes.len().min(most)]),
            Means::Flag => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                socket::send(target.as_raw_fd(), bytes, flags)
            }
        }
    }
}

/// Collects a record and writes it with one call when it is flushed.
#[derive(Debug)]
pub struct LineWriter {
    target: Arc<OwnedFd>,
    line: Vec<u8>,
    /// The last line was only written in part.
    torn: bool,
    means: Means,
}

impl LineWriter {
    pub(super) fn new(target: Arc<OwnedFd>) -> Self {
        let means = Means::of(&target);
        LineWriter { target, line: Vec::new(), torn: false, means }
    }
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        if self.torn {
            // What follows half a line must not be taken for its other half.
            self.line.insert(0, b'\n');
        }
        let written = write_patiently(&self.target, &self.line, self.means);
        if written < self.line.len() {
            // A full disk, a reader that is gone or asleep. There is no place to
            // say so, and nothing to stop for; it is counted.
            count_lost();
        }
        if written > 0 {
            self.torn = written < self.line.len();
        }
        self.line.clear();
        Ok(())
    }
}

/// Writes, without waiting for long: a reader that sleeps must not stop a
/// supervisor. Gives how much was written: a pipe takes a long line in parts, as it
/// has room.
fn write_patiently(target: &OwnedFd, line: &[u8], means: Means) -> usize {
    let mut written = 0;
    while written < line.len() && await_room(target).is_ok() {
        match means.write(target, &line[written..]) {
            Ok(count) => written += count,
            // Another process has taken the room that there was.
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => break,
        }
    }
    written
}

/// Waits until something can be written, as long as there is patience left.
pub(super) fn await_room(target: &OwnedFd) -> io::Result<()> {
    if has_room(target, 0)? {
        return Ok(());
    }
    let patience = PATIENCE_MS.load(Relaxed);
    let began = Moment::now();
    let has_room = has_room(target, patience)?;
    let waited = (Moment::now() - began).as_millis();
    PATIENCE_MS.store(patience.saturating_sub(u16::try_from(waited).unwrap_or(u16::MAX)), Relaxed);
    if has_room { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Whether something can be written within this time.
fn has_room(target: &OwnedFd, patience_ms: u16) -> io::Result<bool> {
    let mut room = [PollFd::new(target.as_fd(), PollFlags::POLLOUT)];
    loop {
        match poll(&mut room, patience_ms) {
            Ok(_) => return Ok(room[0].any() == Some(true)),
            // A worker's signals; each of them comes a few times at most.
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use nix::unistd::pipe2;

    use super::*;

    fn pipe() -> (File, LineWriter) {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        (reader.into(), LineWriter::new(Arc::new(writer)))
    }

    /// What the pipe holds now.
    fn drain(reader: &mut File) -> String {
        let mut text = Vec::new();
        let end = reader.read_to_end(&mut text);
        assert!(end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        String::from_utf8(text).unwrap()
    }

    // One test, for the patience is one for the process.
    #[test]
    fn a_long_line_is_written_in_parts_while_there_is_patience() {
        let line = "x".repeat(50_000) + "\n";
        have_patience(60_000);
        let (mut reader, mut writer) = pipe();
        writer.write_all(line.as_bytes()).unwrap();
        writer.flush().unwrap();
        let full = Arc::clone(&writer.target);
        // It reads when the pipe has taken a part of the second line and no more.
        let reading = thread::spawn(move || {
            while has_room(&full, 0).unwrap() {
                thread::yield_now();
            }
            drop(full);
            let mut text = String::new();
            while text.len() < 2 * 50_001 {
                text += &drain(&mut reader);
                thread::yield_now();
            }
            text
        });
        writer.write_all(line.as_bytes()).unwrap();
        writer.flush().unwrap();
        assert_eq!(reading.join().unwrap(), line.repeat(2));
        tell_lost(|count| panic!("{count} lines lost"));

        // A pipe on which a call could wait takes no more than it has room for.
        have_patience(0);
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut writer = LineWriter::new(Arc::new(writer));
        for _ in 0..3 {
            writer.write_all(line.as_bytes()).unwrap();
            writer.flush().unwrap();
        }
        assert!(drain(&mut File::from(reader)).len() >= 50_001);
        let mut lost = 0;
        tell_lost(|count| lost = count);
        assert_eq!(lost, 2);

        // Without patience the rest is lost, and the next line begins a new one.
        have_patience(0);
        let (mut reader, mut writer) = pipe();
        for _ in 0..3 {
            writer.write_all(line.as_bytes()).unwrap();
            writer.flush().unwrap();
        }
        let text = drain(&mut reader);
        let whole = text.strip_prefix(&line).unwrap();
        assert!(!whole.is_empty() && whole.bytes().all(|byte| byte == b'x'), "{}", whole.len());
        writer.write_all(b"next\n").unwrap();
        writer.flush().unwrap();
        assert_eq!(drain(&mut reader), "\nnext\n");
        let mut lost = 0;
        tell_lost(|count| lost = count);
        assert_eq!(lost, 2);
    }
}
