//! The signal handlers of a worker, and their data: the listeners, the log, the connection
//! in hand and the program that serves it.
//!
//! A worker sits in a blocking accept. It cannot test a flag and then call accept: a signal
//! between the two would be lost until the next connection. So the handler takes the
//! listeners away. It makes the listener's number mean a *dead* file, /dev/null. An accept
//! that has not begun fails at once. A sleeping accept is restarted (SA_RESTART) on the
//! dead file, and fails. An accept that already holds a connection returns it.
//!
//! SA_RESTART also keeps a service in the middle of a read or a write from
//! seeing EINTR because of us, except on a socket with a time limit (SO_RCVTIMEO), where
//! [`Connection`](crate::Connection) goes on by itself.
//!
//! The handlers run in the one thread, between any two of its instructions. So they make
//! only calls that signal-safety(7) lists, put errno back, and keep their state in atomics.

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};

use super::clock::Moment;
use super::notice;

// All of them begin as zeroes, so that they share a page, because each page that a worker
// writes is copied.
static LISTENERS: [Descriptor; MOST_LISTENERS] = [const { Descriptor::none() }; MOST_LISTENERS];
static DEAD: Descriptor = Descriptor::none();
static RETIRING: AtomicBool = AtomicBool::new(false);
static ACCEPTING: AtomicBool = AtomicBool::new(false);

static LOG: Descriptor = Descriptor::none();
static LOG_PATH: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());
static LOG_LOST: AtomicBool = AtomicBool::new(false);

/// The number of the connection in hand, 0 while there is none.
static SERIAL: AtomicU64 = AtomicU64::new(0);
/// Its descriptor, none once it is closed.
static CONNECTION: Descriptor = Descriptor::none();
/// The leader of the process group that serves it, 0 if there is none.
static PROGRAM: AtomicI32 = AtomicI32::new(0);
/// Where the master reads it, should this process die.
static PROGRAM_WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// The number of the connection that SIGALRM has come for.
static ALARMED: AtomicU64 = AtomicU64::new(0);
/// Where the handler says that SIGTERM has come.
static ASKED: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// Where the master says that the listeners are to be drained, not taken away.
static DRAINING: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// Where the master writes the number of a connection that is to end if it is unused.
static UNUSED: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// Where the handler writes which connection was ended for that reason.
static CUT: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// Something was transferred over the connection in hand, as far as this process knows.
static USED: AtomicBool = AtomicBool::new(false);
/// When SIGALRM ends this process, and with which exit code; 0 is never.
static LEAVE_AT: AtomicU64 = AtomicU64::new(0);
static LEAVE_CODE: AtomicU8 = AtomicU8::new(0);
/// Where the master writes the number of a connection that is overdue.
static OVERDUE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// How many listeners the handlers can take away.
pub const MOST_LISTENERS: usize = 64;

/// The value that the master writes to a word for yes. A misbehaving worker may have
/// written anything there, and must retire all the same.
pub const YES: u64 = 1;

/// The number of a descriptor, or none. The stored value is the number plus one, so that
/// none is 0.
struct Descriptor(AtomicI32);

impl Descriptor {
    const fn none() -> Self {
        Descriptor(AtomicI32::new(0))
    }

    fn set(&self, number: RawFd) {
        self.0.store(number + 1, Relaxed);
    }

    fn forget(&self) {
        self.0.store(0, Relaxed);
    }

    /// The number; for none it is -1, which no system call takes.
    fn number(&self) -> RawFd {
        self.0.load(Relaxed) - 1
    }
}

/// The descriptors and words that the handlers work on.
pub struct Targets<'a> {
    /// The listeners that are taken away at SIGTERM, [`MOST_LISTENERS`] at most.
    pub listeners: &'a mut dyn Iterator<Item = RawFd>,
    /// The file that replaces them: /dev/null, on which nobody can listen.
    pub dead: BorrowedFd<'a>,
    /// The log, reopened at SIGUSR1 if it is a file.
    pub log: RawFd,
    /// The path of that file.
    pub log_path: Option<&'static CStr>,
    /// Not 0 once SIGTERM has come.
    pub asked: &'static AtomicU64,
    /// [`YES`] once SIGTERM is to leave the listeners where they are: who accepts finds the
    /// ends of their queues.
    pub draining: &'static AtomicU64,
    /// The number of a connection that SIGALRM ends if nothing was transferred over it,
    /// and where the handler says that it did.
    pub unused: [&'static AtomicU64; 2],
    /// The number of the connection that the master finds overdue.
    pub overdue: &'static AtomicU64,
    /// The pid of the program that serves the connection in hand, 0 if there is none.
    pub program: &'static AtomicU64,
}

/// Installs the handlers of a worker.
///
/// SIGTERM retires, SIGUSR1 reopens the log, SIGALRM ends an overdue connection. The
/// master's other signals are ignored, so that only the master obeys a signal to the whole
/// process group (Ctrl-C, `pkill -HUP`).
pub fn install(targets: Targets<'_>) -> io::Result<()> {
    LISTENERS.iter().zip(targets.listeners).for_each(|(place, number)| place.set(number));
    DEAD.set(targets.dead.as_raw_fd());
    LOG.set(targets.log);
    LOG_PATH
        .store(targets.log_path.map_or(ptr::null_mut(), |path| path.as_ptr().cast_mut()), Relaxed);
    ASKED.store(ptr::from_ref(targets.asked).cast_mut(), Relaxed);
    let words = [
        (&DRAINING, targets.draining),
        (&UNUSED, targets.unused[0]),
        (&CUT, targets.unused[1]),
        (&OVERDUE, targets.overdue),
        (&PROGRAM_WORD, targets.program),
    ];
    for (pointer, word) in words {
        pointer.store(ptr::from_ref(word).cast_mut(), Relaxed);
    }

    let handled = HANDLED.map(|(signal, handler)| (signal, handler as libc::sighandler_t));
    let ignored = IGNORED.map(|signal| (signal, libc::SIG_IGN));
    let default = DEFAULT.map(|signal| (signal, libc::SIG_DFL));
    react(handled.into_iter().chain(ignored).chain(default))
}

/// Sets what these signals do.
fn react(reactions: impl Iterator<Item = (Signal, libc::sighandler_t)>) -> io::Result<()> {
    // SAFETY: plain data, of which zeroes are a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: sigfillset writes to the set that it is given, and sigaction reads the action.
    // Each handler makes async-signal-safe calls only and puts errno back.
    unsafe {
        libc::sigfillset(&raw mut action.sa_mask);
        for (signal, reaction) in reactions {
            action.sa_sigaction = reaction;
            Errno::result(libc::sigaction(signal as c_int, &raw const action, ptr::null_mut()))?;
        }
    }
    Ok(())
}

/// What a worker ignores. SIGPIPE is among them so that a write to a client
/// that left is an error and not a death, SIGXFSZ so that a log file
/// larger than the worker's own limit is.
const IGNORED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGPIPE,
    Signal::SIGXFSZ,
];

/// Signals that only the master handles, and those that Rust's runtime handles to report a
/// stack overflow. That handler ignores the first such signal that a person sends. A worker
/// dies of them at once.
const DEFAULT: [Signal; 3] = [Signal::SIGCHLD, Signal::SIGSEGV, Signal::SIGBUS];

/// What a worker handles.
const HANDLED: [(Signal, extern "C" fn(c_int)); 4] = [
    (Signal::SIGTERM, handle_retire),
    (Signal::SIGUSR1, handle_reopen),
    (Signal::SIGALRM, handle_overdue),
    (Signal::SIGUSR2, handle_wake),
];

/// Every signal without its default action after [`install`]. A program that this process
/// starts must get the default actions back.
pub(super) fn changed() -> impl Iterator<Item = Signal> {
    HANDLED.iter().map(|(signal, _)| *signal).chain(IGNORED)
}

/// In the fork of a worker that serves nobody: only SIGUSR1 is obeyed, for the log.
pub fn serve_nobody() -> io::Result<()> {
    LISTENERS.iter().for_each(Descriptor::forget);
    DEAD.forget();
    let ignored = [Signal::SIGTERM, Signal::SIGALRM, Signal::SIGUSR2];
    react(ignored.into_iter().map(|signal| (signal, libc::SIG_IGN)))
}

/// The number of the log's descriptor.
pub fn log_number() -> RawFd {
    LOG.number()
}

/// From here on the end of a child ends a sleep, if SIGCHLD is let in there. Elsewhere it is
/// blocked.
pub fn watch_children() -> io::Result<()> {
    let handler = handle_wake as extern "C" fn(c_int);
    react([(Signal::SIGCHLD, handler as libc::sighandler_t)].into_iter())?;
    SigSet::from(Signal::SIGCHLD).thread_block().map_err(io::Error::from)
}

/// From now on there may be a connection in hand. Until then SIGTERM ends the process at
/// once: nothing is lost by that, and its preparation may never end.
pub fn begin_accepting() {
    ACCEPTING.store(true, Relaxed);
}

/// Whether this process must not accept further connections.
pub fn retiring() -> bool {
    RETIRING.load(Relaxed)
}

/// Whether this process is to leave when the connection in hand has ended. A process that
/// drains its listener still accepts others until the queue is empty.
pub fn is_asked_to_leave() -> bool {
    retiring() || read(&ASKED) != 0
}

/// From now on SIGALRM ends this process with exit code `code`, if it comes at `until` or
/// later. An earlier signal was meant for a connection.
pub fn leave_at(until: Moment, code: u8) {
    LEAVE_CODE.store(code, Relaxed);
    LEAVE_AT.store(until.as_nanos(), Relaxed);
}

/// Whether the log could not be reopened at SIGUSR1, which retires the
/// process: its successor inherits the new log from the master.
pub fn log_lost() -> bool {
    LOG_LOST.load(Relaxed)
}

/// Tells the handlers which connection is in hand. `serial` is never 0.
pub fn begin_connection(serial: u64, connection: RawFd) {
    USED.store(false, Relaxed);
    CONNECTION.set(connection);
    SERIAL.store(serial, Relaxed);
}

/// Tells the handlers that something was transferred over the connection in hand, or may
/// be without this process knowing.
pub fn note_transfer() {
    USED.store(true, Relaxed);
}

/// Tells the handlers that the descriptor of the connection is about to close,
/// and that its number may soon mean something else.
pub fn forget_descriptor() {
    CONNECTION.forget();
}

/// Tells the handlers that no connection is in hand.
pub fn end_connection() {
    SERIAL.store(0, Relaxed);
    CONNECTION.forget();
}

/// The number of the connection in hand, 0 while there is none.
pub(super) fn serial() -> u64 {
    SERIAL.load(Relaxed)
}

/// Whether SIGALRM has come for the connection in hand.
pub fn is_alarmed() -> bool {
    let serial = SERIAL.load(Relaxed);
    serial != 0 && ALARMED.load(Relaxed) == serial
}

/// Tells the handlers, and by the page the master, which process group serves the
/// connection in hand. The program itself does this before it execs, on the memory that it
/// borrows: from then on nobody can miss it.
pub(super) fn set_program(leader: libc::pid_t) {
    PROGRAM.store(leader, Relaxed);
    // SAFETY: the pointer is null or came from a 'static reference.
    if let Some(word) = unsafe { PROGRAM_WORD.load(Relaxed).as_ref() } {
        word.store(u64::try_from(leader).unwrap_or(0), Relaxed);
    }
}

/// Tells them that the program has ended, before it is reaped.
pub fn forget_program() {
    set_program(0);
}

extern "C" fn handle_retire(_: c_int) {
    keep_errno(|| {
        write(&ASKED, 1);
        notice::give_attached();
        // A worker leaves at once before its first accept, draining or not.
        if read(&DRAINING) != YES || !ACCEPTING.load(Relaxed) {
            retire();
        }
    });
}

/// Reads a word that is shared with the master, 0 if there is none.
fn read(pointer: &AtomicPtr<AtomicU64>) -> u64 {
    // SAFETY: the pointer is null or came from a 'static reference.
    unsafe { pointer.load(Relaxed).as_ref() }.map_or(0, |word| word.load(Relaxed))
}

fn write(pointer: &AtomicPtr<AtomicU64>, value: u64) {
    // SAFETY: as above.
    if let Some(word) = unsafe { pointer.load(Relaxed).as_ref() } {
        word.store(value, Relaxed);
    }
}

fn retire() {
    if !ACCEPTING.load(Relaxed) {
        super::fork::leave(0);
    }
    RETIRING.store(true, Relaxed);
    for listener in LISTENERS.iter().map(Descriptor::number).take_while(|&number| number >= 0) {
        // SAFETY: integers; dup3 is the system call, like dup2. The owner of the listener
        // still owns the number. The number is closed only if dup3 refuses it, because it
        // is beyond limits.nofile. Then nothing can get that number again, and its owner is
        // an object of the parent, which is never dropped here.
        unsafe {
            if libc::dup3(DEAD.number(), listener, libc::O_CLOEXEC) < 0 {
                libc::close(listener);
            }
        }
    }
}

extern "C" fn handle_reopen(_: c_int) {
    keep_errno(|| {
        let path = LOG_PATH.load(Relaxed);
        if path.is_null() {
            return;
        }
        // Non-blocking for a FIFO, whose reader may sleep; a file does not mind.
        let flags = libc::O_WRONLY
            | libc::O_APPEND
            | libc::O_CREAT
            | libc::O_NOFOLLOW
            | libc::O_CLOEXEC
            | libc::O_NOCTTY
            | libc::O_NONBLOCK;
        // SAFETY: the path is a C string that lives as long as the process
        // (`Targets::log_path` is 'static); open, dup3 and close are
        // async-signal-safe, and the new descriptor is nobody else's.
        let reopened = unsafe {
            let fd = libc::open(path, flags, 0o640);
            let done = fd >= 0 && libc::dup3(fd, LOG.number(), libc::O_CLOEXEC) >= 0;
            if fd >= 0 {
                libc::close(fd);
            }
            done
        };
        if !reopened {
            // Our user may not open the file. This process still writes to the old file, so
            // nothing is lost; a successor gets the new one.
            LOG_LOST.store(true, Relaxed);
            notice::give_attached();
            retire();
        }
    });
}

/// The master has written something that this process sleeps for. An ignored signal
/// would not end the sleep.
extern "C" fn handle_wake(_: c_int) {}

extern "C" fn handle_overdue(_: c_int) {
    keep_errno(|| {
        let leave_at = LEAVE_AT.load(Relaxed);
        if leave_at != 0 && Moment::now().as_nanos() >= leave_at {
            super::fork::leave(LEAVE_CODE.load(Relaxed));
        }
        let serial = SERIAL.load(Relaxed);
        // The signal may come after its connection has ended. The next connection must not
        // suffer for it.
        if serial != 0 && serial == read(&UNUSED) && serial != read(&OVERDUE) {
            end_unused(serial);
        }
        if serial == 0 || serial != read(&OVERDUE) {
            return;
        }
        // The second time for the same connection, kill instead of asking.
        let signal =
            if ALARMED.swap(serial, Relaxed) == serial { libc::SIGKILL } else { libc::SIGTERM };
        let (connection, program) = (CONNECTION.number(), PROGRAM.load(Relaxed));
        // SAFETY: integers; shutdown and kill are async-signal-safe. The
        // descriptor is open, for it is forgotten before it closes; the group
        // exists, for its leader is forgotten before it is reaped.
        unsafe {
            if connection >= 0 {
                libc::shutdown(connection, libc::SHUT_RDWR);
            }
            if program > 0 {
                libc::kill(-program, signal);
            }
        }
    });
}

/// Ends the connection in hand, if nothing was transferred over it.
fn end_unused(serial: u64) {
    let connection = CONNECTION.number();
    if connection < 0 || read(&CUT) == serial {
        return;
    }
    let is_unused = match super::socket::has_transferred(connection) {
        Some(has_transferred) => !has_transferred,
        // Not TCP: only this process knows.
        None => !USED.load(Relaxed),
    };
    if is_unused {
        write(&CUT, serial);
        // SAFETY: integers; shutdown is async-signal-safe, and the descriptor is open,
        // for it is forgotten before it closes.
        unsafe { libc::shutdown(connection, libc::SHUT_RDWR) };
    }
}

/// Runs `body` and puts errno back: the code that was interrupted may be just
/// about to read it.
fn keep_errno(body: impl FnOnce()) {
    // SAFETY: the C library gives a pointer to this thread's own errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: see above; it is valid for reads and writes.
    let saved = unsafe { *errno };
    body();
    // SAFETY: see above.
    unsafe { *errno = saved };
}
