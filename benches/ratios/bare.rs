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

use crate::daemon::{Floor, Job, Service};

/// The hidden first argument that makes this executable a bare loop.
pub const ARGUMENT: &str = "--bare";

/// The last argument of a loop that starts its program by vfork.
const VFORK: &str = "vfork";

/// As much as the daemon's default.
const BACKLOG: i32 = 1024;

/// The command that starts the bare loop of `job` at `address`.
pub fn command(job: &Job, address: SocketAddrV4) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(ARGUMENT).arg(address.to_string()).arg(job.workers.to_string());
    if let Service::Exec { program, floor, .. } = &job.service {
        command.arg(program);
        if *floor == Floor::Vfork {
            command.arg(VFORK);
        }
    }
    Ok(command)
}

/// What a bare worker does with a connection.
enum Work {
    Echo,
    Spawn(CString),
    Vfork(CString),
}

/// Runs as the bare master; `arguments` are an address, a number of workers and perhaps a
/// program to run for each connection (else the service is echo), and how to start it.
pub fn main(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let address = arguments.next().and_then(|address| address.parse().ok());
    let workers = arguments.next().and_then(|workers| workers.parse().ok());
    let (Some(address), Some(workers)) = (address, workers) else {
        return ExitCode::from(64);
    };
    let work = match arguments.next().map(CString::new) {
        None => Work::Echo,
        Some(Err(_)) => return ExitCode::from(64),
        Some(Ok(program)) if arguments.any(|floor| floor == VFORK) => Work::Vfork(program),
        Some(Ok(program)) => Work::Spawn(program),
    };
    let reason = keep_workers(address, workers, &work);
    eprintln!("could not keep a bare pool: {reason}");
    ExitCode::from(71)
}

/// The whole of a bare master: fork the workers, then one for each that dies. Comes back
/// only with the error that ended it.
fn keep_workers(address: SocketAddrV4, workers: usize, work: &Work) -> Errno {
    let listener = match listen_at(address) {
        Ok(listener) => listener,
        Err(reason) => return reason,
    };
    let mut missing = workers;
    loop {
        while missing > 0 {
            // SAFETY: this process has one thread, so the child may do whatever it likes.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => serve(&listener, work),
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
fn serve(listener: &OwnedFd, work: &Work) -> ! {
    // The one step in addition to fork, accept, serve and close. Without it a bench that is
    // killed would leave a thousand processes behind.
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        let Ok(connection) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else {
            // SAFETY: _exit ends the process; nothing runs after it.
            unsafe { libc::_exit(1) }
        };
        // SAFETY: accept4 has just made this descriptor, so nobody else owns it.
        let connection = unsafe { OwnedFd::from_raw_fd(connection) };
        match work {
            Work::Echo => echo(connection.as_raw_fd()),
            Work::Spawn(program) => spawn_and_wait(connection.as_raw_fd(), program),
            Work::Vfork(program) => vfork_and_wait(connection.as_raw_fd(), program),
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

/// What the child of a vfork needs to know.
struct Start {
    connection: RawFd,
    program: *const libc::c_char,
    argv: [*const libc::c_char; 2],
}

/// The least that starts a program: the child borrows the memory of this process until it
/// has become the program. By clone(2) on a stack of its own, because no function of Rust can
/// return twice, as that of vfork(2) does.
fn vfork_and_wait(connection: RawFd, program: &CString) {
    // 16 KiB, aligned as a stack is to be.
    static mut STACK: [u128; 1 << 10] = [0; 1 << 10];

    let argv = [program.as_ptr(), ptr::null()];
    let mut start = Start { connection, program: program.as_ptr(), argv };
    // SAFETY: clone(2) wants the top of a stack that nobody else uses: this process has one
    // thread, and CLONE_VFORK suspends it until the child has left the stack by exec or exit.
    // `start` lives through the call. waitpid(2) accepts a null status.
    unsafe {
        let top = (&raw mut STACK).add(1).cast();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let child = libc::clone(become_program, top, flags, (&raw mut start).cast());
        if child > 0 {
            libc::waitpid(child, ptr::null_mut(), 0);
        }
    }
}

/// The child, which shares the memory of its parent.
extern "C" fn become_program(start: *mut libc::c_void) -> libc::c_int {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    // SAFETY: `start` is the one of `vfork_and_wait`, which waits meanwhile. Both arrays end
    // in a null and nothing changes them. dup2, execve and _exit are async-signal-safe.
    unsafe {
        let start = &*start.cast::<Start>();
        libc::dup2(start.connection, 0);
        libc::dup2(start.connection, 1);
        libc::execve(start.program, start.argv.as_ptr(), environ);
        libc::_exit(127)
    }
}
