//! The standard error of programs, on its way to the log.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, pipe2};
use slog::Logger;

use crate::log::event::Event;
use crate::log::rate::Rate;
use crate::log::{losses, patience};
use crate::service::lines::Lines;
use crate::sys::clock::Moment;

/// How many lines the programs of one worker may log in ten seconds.
const LINES_LOGGED: u32 = 10_000;

/// The same for what one program has left running.
const LINES_FOLLOWED: u32 = 1_000;

/// How long the reader of such a process pauses after each read, once it has written more.
const FOLLOWER_PAUSE_MS: u16 = 200;

/// How much is read at a time.
const READ_BYTES: usize = 4096;

/// How much is read until the worker looks at its program and its client
/// again: as much as the pipe holds, unless somebody has made it larger.
const TURN_BYTES: usize = 64 * 1024;

/// A pipe from the program of a worker to the log, a new one for each program: what one
/// does to its standard error (O_NONBLOCK, F_SETPIPE_SZ of fcntl(2)) is not the next one's,
/// and what one has left running writes no line of another.
///
/// While the program runs, the worker holds both ends. The pidfd reports the end of a
/// program. The end of this file would not: a process that the program left behind could
/// delay it for ever.
pub struct LogPipe {
    reader: File,
    /// None once the program has ended: the end of the file is then the end of all that the
    /// program has left running.
    writer: Option<OwnedFd>,
    lines: Lines,
    rate: Rate,
}

/// Whether more can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Open,
    Ended,
}

impl LogPipe {
    /// An empty pipe.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = ends()?;
        let (lines, rate) = (Lines::default(), Rate::new(LINES_LOGGED));
        Ok(LogPipe { reader, writer: Some(writer), lines, rate })
    }

    /// A new pipe for the next program; gives the end that it writes to.
    pub fn renew(&mut self) -> io::Result<BorrowedFd<'_>> {
        let (reader, writer) = ends()?;
        self.reader = reader;
        self.lines = Lines::default();
        let writer: &OwnedFd = self.writer.insert(writer);
        Ok(writer.as_fd())
    }

    /// The end that becomes readable when the program has written.
    pub fn reader(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Logs the lines that are in the pipe now, as those of this program. Lines that are
    /// written meanwhile must wait. Otherwise a program that writes faster than its lines
    /// are logged would keep the worker here for ever.
    pub fn take(&mut self, log: &Logger, program: &str, pid: Pid) -> io::Result<Stream> {
        self.take_up_to(TURN_BYTES, log, program, pid)
    }

    fn take_up_to(
        &mut self,
        most: usize,
        log: &Logger,
        program: &str,
        pid: Pid,
    ) -> io::Result<Stream> {
        let mut buffer = [0; READ_BYTES];
        let mut taken = 0;
        while taken < most {
            match self.reader.read(&mut buffer) {
                Ok(0) => {
                    let Self { lines, rate, .. } = self;
                    lines.finish(|line| log_line(rate, log, program, pid, line));
                    return Ok(Stream::Ended);
                }
                Ok(read) => {
                    taken += read;
                    let Self { lines, rate, .. } = self;
                    lines.push(&buffer[..read], |line| log_line(rate, log, program, pid, line));
                    // While there is a writer of ours, no end can follow.
                    if read < READ_BYTES && self.writer.is_some() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Stream::Open)
    }

    /// Logs all that an ended program has left, a line without an end included. If the
    /// stream is still open, something that the program has left running may go on writing,
    /// and may have begun the last line.
    pub fn finish(&mut self, log: &Logger, program: &str, pid: Pid) -> io::Result<Stream> {
        self.writer = None;
        let capacity = fcntl(&self.reader, FcntlArg::F_GETPIPE_SZ)?;
        // One byte more, to see the end.
        let most = usize::try_from(capacity).unwrap_or(TURN_BYTES) + 1;
        self.take_up_to(most, log, program, pid)
    }

    /// Logs the lines until the end of the stream, in a process that does nothing else. A
    /// program that writes more than may be logged is slowed down.
    pub fn follow(&mut self, log: &Logger, program: &str, pid: Pid) -> io::Result<()> {
        self.rate = Rate::new(LINES_FOLLOWED);
        loop {
            patience::renew(patience::WORKER_MS);
            losses::tell(|count| Event::LogLinesLost { count }.tell(log));
            if self.take_up_to(READ_BYTES, log, program, pid)? == Stream::Ended {
                return Ok(());
            }
            let mut written = [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)];
            match poll(&mut written, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if self.rate.holds_back() {
                let _ = poll(&mut [], FOLLOWER_PAUSE_MS);
            }
        }
    }
}

/// Reading never blocks; writing does, which slows down a program that writes faster than
/// its lines are logged.
fn ends() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader.into(), writer))
}

fn log_line(rate: &mut Rate, log: &Logger, program: &str, pid: Pid, line: &[u8]) {
    if let Some(held_back) = rate.admit(Moment::now()) {
        let (program, line) = (program.to_owned(), String::from_utf8_lossy(line).into_owned());
        Event::ProgramStderr { pid, program, line, held_back }.tell(log);
    }
}
