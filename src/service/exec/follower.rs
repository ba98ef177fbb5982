//! A process that reads what the leftovers of one program write to their standard error.
//!
//! The worker goes on to its next client, and may leave. Its fork stays as long as somebody
//! can write, so that nothing that was left running dies of SIGPIPE or loses a line.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use nix::unistd::Pid;
use slog::Logger;

use crate::sys::fork::{self, Fork, fork};
use crate::sys::wait::{Exit, reap};
use crate::sys::{descriptor, handler};

use super::stderr::LogPipe;

/// Leaves the pipe of this program, which has ended, to a process of its own. The process is
/// a child of the master, because its parent ends at once.
///
/// # Errors
///
/// That of fork(2).
pub fn follow(pipe: &mut LogPipe, log: &Logger, program: &str, pid: Pid) -> io::Result<()> {
    match fork()? {
        Fork::Parent(between) => match reap(between)?.exit {
            Exit::Code(0) => Ok(()),
            exit => Err(io::Error::other(format!("its process {exit}"))),
        },
        Fork::Child => match fork() {
            Ok(Fork::Parent(_)) => fork::leave(0),
            Err(_) => fork::leave(1),
            Ok(Fork::Child) => {
                let done = live(pipe, log, program, pid);
                fork::leave(u8::from(done.is_err()))
            }
        },
    }
}

fn live(pipe: &mut LogPipe, log: &Logger, program: &str, pid: Pid) -> io::Result<()> {
    handler::serve_nobody()?;
    let mut kept = [pipe.reader().as_raw_fd(), handler::log_number()];
    kept.sort_unstable();
    descriptor::close_all_but(&kept)?;
    pipe.follow(log, program, pid)
}
