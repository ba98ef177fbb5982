//! Starting a program: vfork's sharing of memory, on a stack of its own.
//!
//! fork copies the page tables of a process that is about to throw them away;
//! posix_spawn(3) avoids that, but maps and unmaps a stack and reads the
//! action of every signal each time. Here the stack is mapped once, and only
//! the signals that [`handler::install`](super::handler::install) changed are
//! put back.
//!
//! While the child runs on the shared memory the parent is suspended
//! (CLONE_VFORK) and all signals are blocked in both, so the child is alone
//! with the memory until it execs or exits. It calls nothing that allocates,
//! locks or unwinds.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::Pid;

use super::family::{Mark, hard_limit};
use super::handler;

/// Room for the child between clone and exec, with a page below it that traps.
const STACK_BYTES: NonZeroUsize = NonZeroUsize::new(64 * 1024).expect("not zero");
const GUARD_BYTES: usize = 4096;

/// A program that can be started again and again.
pub struct Program {
    path: CString,
    /// Keeps alive what `argv` points to.
    _arguments: Vec<CString>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// Of what carries the mark of a connection.
    hard_limit: libc::rlim_t,
    stack: NonNull<c_void>,
}

/// The first three descriptors of a started program.
#[derive(Clone, Copy)]
pub struct Stdio<'a> {
    /// Its standard input.
    pub input: BorrowedFd<'a>,
    /// Its standard output.
    pub output: BorrowedFd<'a>,
    /// Its standard error.
    pub error: BorrowedFd<'a>,
}

/// A variable whose value is the pid of the program that has it. The pid is known first in
/// the child, so the child writes it.
pub struct PidVariable {
    /// `NAME=`, room for the digits, and a NUL.
    text: Vec<u8>,
    digits: usize,
}

impl PidVariable {
    /// The variable of this name.
    pub fn named(name: &str) -> Self {
        let mut text = format!("{name}=").into_bytes();
        let digits = text.len();
        text.resize(digits + MOST_DIGITS + 1, 0);
        PidVariable { text, digits }
    }

    /// Writes the pid. It calls nothing.
    fn write(&mut self, pid: libc::pid_t) {
        let mut digits = [0; MOST_DIGITS];
        let (mut rest, mut count) = (pid.unsigned_abs(), 0);
        while count < MOST_DIGITS && (rest > 0 || count == 0) {
            digits[count] = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
        }
        let written = digits.iter().take(count).rev().chain([&0]);
        for (place, &digit) in self.text.iter_mut().skip(self.digits).zip(written) {
            *place = digit;
        }
    }
}

/// The digits of the largest number of 32 bits.
const MOST_DIGITS: usize = 10;

/// A program that was started, the leader of a process group of its own.
///
/// The program is a child of this process. The holder of this value reaps it.
#[derive(Debug)]
pub struct Started {
    /// Its pid, which is its process group's number too.
    pub pid: Pid,
    /// A descriptor that is readable once it has ended (pidfd_open(2)).
    pub pidfd: OwnedFd,
}

/// The inputs of the child, and the place for the error of a failed step.
struct Orders<'a> {
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    own_pid: Option<&'a mut PidVariable>,
    stdio: Stdio<'a>,
    parent: libc::pid_t,
    mark: libc::rlimit,
    mask: SigSet,
    errno: c_int,
}

impl Program {
    /// The program at `path`, called with `arguments` (the first is its name).
    pub fn new(path: CString, arguments: Vec<CString>) -> io::Result<Self> {
        let argv =
            arguments.iter().map(|argument| argument.as_ptr()).chain([ptr::null()]).collect();
        // SAFETY: a new mapping at an address of the kernel's choice touches
        // no memory that anybody holds.
        let stack = unsafe {
            mmap_anonymous(
                None,
                STACK_BYTES,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK,
            )
        }?;
        let program = Program {
            path,
            _arguments: arguments,
            argv,
            envp: Vec::new(),
            hard_limit: hard_limit(),
            stack,
        };
        // SAFETY: the lowest page of our own mapping; nothing is in it yet.
        unsafe { mprotect(stack, GUARD_BYTES, ProtFlags::PROT_NONE) }?;
        Ok(program)
    }

    /// Starts it with this environment, if there is `own_pid` with that too, and these descriptors, its signals at
    /// their defaults and unblocked, in a process group of its own; the kernel
    /// kills it when the calling process dies (PR_SET_PDEATHSIG of prctl(2)), unless it has
    /// changed its user. The leader of a process group can make no session of its own and
    /// so get no terminal; a session would cost as much as a third of the start, where
    /// the scheduler groups by session (sched(7), autogroup).
    ///
    /// It carries the [`Mark`] of the connection in hand.
    ///
    /// The handlers know of the program until [`handler::forget_program`] is called.
    ///
    /// # Errors
    ///
    /// That of clone(2), or that of execve(2): a program that cannot be
    /// executed is reported here, and no child is left.
    pub fn start<'e>(
        &mut self,
        environment: impl IntoIterator<Item = &'e CStr>,
        own_pid: Option<&mut PidVariable>,
        stdio: Stdio<'_>,
    ) -> io::Result<Started> {
        self.envp.clear();
        self.envp.extend(environment.into_iter().map(CStr::as_ptr));
        self.envp.extend(own_pid.iter().map(|variable| variable.text.as_ptr().cast()));
        self.envp.push(ptr::null());
        let parent = nix::unistd::getpid();
        let mut orders = Orders {
            path: self.path.as_ptr(),
            argv: self.argv.as_ptr(),
            envp: self.envp.as_ptr(),
            own_pid,
            stdio,
            parent: parent.as_raw(),
            mark: Mark::of(parent, handler::serial()).as_limit(self.hard_limit),
            mask: SigSet::empty(),
            errno: 0,
        };
        let mut pidfd: c_int = -1;
        // A handler that ran in the child would run in our memory.
        let unblocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the stack is ours, used by one child at a time since we are
        // suspended until it has exec'd or exited; its top is aligned, being
        // that of a page. `orders` outlives that time for the same reason.
        // The kernel stores the pidfd where the fifth argument points.
        let pid = Errno::result(unsafe {
            libc::clone(
                become_program,
                self.stack.byte_add(STACK_BYTES.get()).as_ptr(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD,
                ptr::from_mut(&mut orders).cast(),
                ptr::from_mut(&mut pidfd),
            )
        });
        unblocked.thread_set_mask()?;
        let pid = Pid::from_raw(pid?);
        // SAFETY: clone succeeded, so this is a new descriptor of ours. The
        // volatile read is of what another process wrote.
        let (pidfd, errno) =
            unsafe { (OwnedFd::from_raw_fd(pidfd), ptr::read_volatile(&raw const orders.errno)) };
        if errno != 0 {
            handler::forget_program();
            super::wait::reap(pid)?;
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(Started { pid, pidfd })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no child is on it: `start` returns
        // only after its child has left it.
        let _ = unsafe { munmap(self.stack, STACK_BYTES.get()) };
    }
}

/// The child: from clone to exec, on the parent's memory.
extern "C" fn become_program(orders: *mut c_void) -> c_int {
    // SAFETY: the parent passed its `Orders` and is suspended, so this is the
    // only reference.
    let orders = unsafe { &mut *orders.cast::<Orders<'_>>() };
    let error = follow(orders);
    // SAFETY: as above. Volatile, for the reader is another process.
    unsafe { ptr::write_volatile(&raw mut orders.errno, error as c_int) };
    super::fork::leave(127)
}

/// Does what the orders say, and returns only if something failed.
fn follow(orders: &mut Orders<'_>) -> Errno {
    // SAFETY: from here on only async-signal-safe system calls on integers and
    // on pointers that the parent prepared: C strings and null-terminated
    // arrays of them, alive while it is suspended.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in handler::changed() {
            if libc::sigaction(signal as Signal as c_int, &default, ptr::null_mut()) < 0 {
                return Errno::last();
            }
        }
        if libc::setpgid(0, 0) < 0 {
            return Errno::last();
        }
        let pid = libc::getpid();
        handler::set_program(pid);
        if let Some(variable) = &mut orders.own_pid {
            variable.write(pid);
        }
        // Where the hard limit is too low for a mark there is none.
        libc::setrlimit(libc::RLIMIT_LOCKS, &raw const orders.mark);
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
            return Errno::last();
        }
        // The parent may have died before that took effect.
        if libc::getppid() != orders.parent {
            return Errno::ESRCH;
        }
        let Stdio { input, output, error } = orders.stdio;
        for (source, target) in [(input, 0), (output, 1), (error, 2)] {
            if libc::dup2(source.as_raw_fd(), target) < 0 {
                return Errno::last();
            }
        }
        if libc::sigprocmask(libc::SIG_SETMASK, orders.mask.as_ref(), ptr::null_mut()) < 0 {
            return Errno::last();
        }
        libc::execve(orders.path, orders.argv, orders.envp);
        Errno::last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_written_in_digits() {
        let mut variable = PidVariable::named("P");
        for (pid, text) in
            [(4_194_304, "P=4194304"), (libc::pid_t::MAX, "P=2147483647"), (1, "P=1")]
        {
            variable.write(pid);
            let written = CStr::from_bytes_until_nul(&variable.text).unwrap();
            assert_eq!(written.to_str().unwrap(), text);
        }
    }
}
