//! The bare prefork loops: the least that can serve the same connections.
//!
//! The bench starts them by running itself again with [`ARGUMENT`], so that the bare master
//! is a process that has done nothing else and its children inherit next to nothing. There
//! is no log, no scoreboard, no retirement, and a signal may lose a connection: this is what
//! the daemon is measured against, not what anybody should run.

use std::ffi::CString;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command, ExitCode};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrIn, accept4, bind, listen, recv,
    send, setsockopt, socket, sockopt,
};
use nix::sys::wait::wait;
use nix::unistd::{ForkResult, fork};

use crate::daemon::{Job, Service};

/// The hidden first argument that makes this executable a bare loop.
pub const ARGUMENT: &str = "--bare";

/// As much as the daemon's default.
const BACKLOG: i32 = 1024;

/// The command that starts the bare loop of `job` at `address`.
pub fn command(job: &Job, address: SocketAddrV4) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(ARGUMENT).arg(address.to_string()).arg(job.workers.to_string());
    if let Service::Exec { program, .. } = &job.service {
        command.arg(program);
    }
    Ok(command)
}

/// Runs as the bare master; `arguments` are an address, a number of workers and perhaps a
/// program to run for each connection (else the service is echo).
pub fn main(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let address = arguments.next().and_then(|address| address.parse().ok());
    let workers = arguments.next().and_then(|workers| workers.parse().ok());
    let (Some(address), Some(workers)) = (address, workers) else {
        return ExitCode::from(64);
    };
    let program = arguments.next().map(CString::new).transpose();
    match program {
        Ok(program) => {
            let reason = keep_workers(address, workers, program.as_ref());
            eprintln!("could not keep a bare pool: {reason}");
            ExitCode::from(71)
        }
        Err(_) => ExitCode::from(64),
    }
}

/// The whole of a bare master: fork the workers, then one for each that dies. Comes back
/// only with the error that ended it.
fn keep_workers(address: SocketAddrV4, workers: usize, program: Option<&CString>) -> Errno {
    let listener = match listen_at(address) {
        Ok(listener) => listener,
        Err(reason) => return reason,
    };
    let mut missing = workers;
    loop {
        while missing > 0 {
            // SAFETY: this process has one thread, so the child may do whatever it likes.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => serve(&listener, program),
                Ok(ForkResult::Parent { .. }) => missing -= 1,
                Err(reason) => return reason,
            }
        }
        match wait() {
            Ok(_) => missing += 1,
            Err(reason) => return reason,
        }
    }
}

fn listen_at(address: SocketAddrV4) -> nix::Result<OwnedFd> {
    let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&listener, sockopt::ReuseAddr, &true)?;
    bind(listener.as_raw_fd(), &SockaddrIn::from(address))?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener)
}

/// The whole of a bare worker.
fn serve(listener: &OwnedFd, program: Option<&CString>) -> ! {
    // The one thing beside fork, accept, serve and close: without it a bench that is killed
    // would leave a thousand processes behind.
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        let Ok(connection) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else {
            // SAFETY: _exit ends the process; nothing runs after it.
            unsafe { libc::_exit(1) }
        };
        // SAFETY: accept4 has just made this descriptor, so nobody else owns it.
        let connection = unsafe { OwnedFd::from_raw_fd(connection) };
        match program {
            None => echo(connection.as_raw_fd()),
            Some(program) => spawn_and_wait(connection.as_raw_fd(), program),
        }
    }
}

/// By `recv` and `send`, which are about a fiftieth cheaper than `read` and `write` on a
/// socket: the bare loop is to be as hard to reach as it can be.
fn echo(connection: RawFd) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = recv(connection, &mut buffer, MsgFlags::empty()) {
        if send(connection, &buffer[..count], MsgFlags::empty()) != Ok(count) {
            return;
        }
    }
}

/// What a worker of the exec service does in its simplest form: `posix_spawn` with the
/// connection as stdin and stdout, then wait.
fn spawn_and_wait(connection: RawFd, program: &CString) {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    let argv = [program.as_ptr().cast_mut(), ptr::null_mut()];
    let mut child = 0;
    // SAFETY: posix_spawn(3) wants initialised file actions and null-terminated arrays of
    // strings that live through the call. `actions` is initialised by the first call and
    // destroyed by the last; `argv` ends in a null and borrows from `program`; `environ` is
    // the C library's own and nothing in this single-threaded process changes it. waitpid(2)
    // accepts a null status.
    unsafe {
        let mut actions = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&raw mut actions);
        libc::posix_spawn_file_actions_adddup2(&raw mut actions, connection, 0);
        libc::posix_spawn_file_actions_adddup2(&raw mut actions, connection, 1);
        let failed = libc::posix_spawn(
            &raw mut child,
            program.as_ptr(),
            &raw const actions,
            ptr::null(),
            argv.as_ptr(),
            environ,
        );
        if failed == 0 {
            libc::waitpid(child, ptr::null_mut(), 0);
        }
        libc::posix_spawn_file_actions_destroy(&raw mut actions);
    }
}
