//! What programs write to their standard error, on its way to the log.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Pid, pipe2};
use slog::Logger;

use crate::log::event::Event;
use crate::log::rate::Rate;
use crate::service::lines::Lines;
use crate::sys::clock::Moment;

/// How many lines the programs of one worker may log in ten seconds.
const LINES_LOGGED: u32 = 10_000;

/// How much is read at a time.
const READ_BYTES: usize = 4096;

/// How much is read until the worker looks at its program and its client
/// again: as much as the pipe holds, unless somebody has made it larger.
const TURN_BYTES: usize = 64 * 1024;

/// A pipe from the program of a worker to the log, a new one for each program: what one
/// does to its standard error (O_NONBLOCK, F_SETPIPE_SZ of fcntl(2)) is not the next one's,
/// and what one has left running writes no line of another.
///
/// The worker holds both ends until the next program: the end of a program is told by its
/// pidfd and not by the end of this file, which a process that the program
/// left behind could delay for ever.
pub struct LogPipe {
    reader: File,
    writer: OwnedFd,
    lines: Lines,
    rate: Rate,
}

impl LogPipe {
    /// An empty pipe.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = ends()?;
        Ok(LogPipe { reader, writer, lines: Lines::default(), rate: Rate::new(LINES_LOGGED) })
    }

    /// A new pipe for the next program; gives the end that it writes to.
    pub fn renew(&mut self) -> io::Result<BorrowedFd<'_>> {
        (self.reader, self.writer) = ends()?;
        Ok(self.writer.as_fd())
    }

    /// The end that becomes readable when the program has written.
    pub fn reader(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Logs the lines that are in the pipe now, as those of this program. What
    /// is written meanwhile has to wait: whoever writes faster than its lines
    /// are logged would keep us here for ever.
    pub fn take(&mut self, log: &Logger, program: &str, pid: Pid) -> io::Result<()> {
        self.take_up_to(TURN_BYTES, log, program, pid)
    }

    fn take_up_to(&mut self, most: usize, log: &Logger, program: &str, pid: Pid) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        let mut taken = 0;
        while taken < most {
            match self.reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    taken += read;
                    let Self { lines, rate, .. } = self;
                    lines.push(&buffer[..read], |line| log_line(rate, log, program, pid, line));
                    if read < READ_BYTES {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Logs all that an ended program has left, a line without an end included.
    /// A process that got away from it may go on writing; that is not waited for.
    pub fn finish(&mut self, log: &Logger, program: &str, pid: Pid) -> io::Result<()> {
        let capacity = fcntl(&self.reader, FcntlArg::F_GETPIPE_SZ)?;
        self.take_up_to(usize::try_from(capacity).unwrap_or(TURN_BYTES), log, program, pid)?;
        let Self { lines, rate, .. } = self;
        lines.finish(|line| log_line(rate, log, program, pid, line));
        Ok(())
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
