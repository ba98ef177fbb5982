//! The signals of a process that waits for them: flags, and one ppoll.
//!
//! The signals are blocked from [`Waiting::begin`] on, except inside [`Waiting::wait`]. So
//! a flag is only ever set there. A signal that comes while the loop works stays pending
//! until the loop waits again: no signal can come between the test of a flag and the sleep.

use std::ffi::c_int;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, ppoll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::time::TimeSpec;

/// Bit n is set when signal n has come.
static RECEIVED: AtomicU64 = AtomicU64::new(0);

/// The handler: it stores, and nothing else.
extern "C" fn handle_signal(number: c_int) {
    RECEIVED.fetch_or(1 << number, Ordering::Relaxed);
}

/// A set of signals that have come.
#[derive(Clone, Copy, Debug)]
pub struct Received(u64);

impl Received {
    /// Takes the signals that have come so far; later signals are for the next call.
    pub fn take() -> Self {
        Received(RECEIVED.swap(0, Ordering::Relaxed))
    }

    /// Whether `signal` is in the set.
    pub fn has(self, signal: Signal) -> bool {
        self.0 & (1 << signal as c_int) != 0
    }
}

/// A process whose signals are blocked except while it waits.
pub struct Waiting {
    while_waiting: SigSet,
}

impl Waiting {
    /// Blocks the signals `wanted` and installs the handler that flags them;
    /// the signals `ignored` are ignored.
    pub fn begin(wanted: &[Signal], ignored: &[Signal]) -> io::Result<Self> {
        reset_ignored()?;
        let wanted: SigSet = wanted.iter().copied().collect();
        let mut while_waiting = wanted.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        for signal in &wanted {
            // The parent may have blocked the signal, which must reach this process.
            while_waiting.remove(signal);
            let action =
                SigAction::new(SigHandler::Handler(handle_signal), SaFlags::empty(), SigSet::all());
            // SAFETY: the handler does one atomic store, which is
            // async-signal-safe (signal-safety(7)).
            unsafe { sigaction(signal, &action) }?;
        }
        for &signal in ignored {
            set_disposition(signal, SigHandler::SigIgn)?;
        }
        Ok(Waiting { while_waiting })
    }

    /// Lets in pending signals: a wait that a descriptor has ended may have left some.
    pub fn let_in(&self) {
        // Each ppoll lets in one signal, because the handler runs with the others blocked.
        // If ppoll fails otherwise, the signals stay pending until the next wait.
        let at_once = Some(TimeSpec::from(Duration::ZERO));
        while ppoll(&mut [], at_once, Some(self.while_waiting)) == Err(Errno::EINTR) {}
    }

    /// Sleeps until a signal comes, a descriptor is ready or `timeout` is over
    /// (ppoll(2)); `None` waits for ever.
    pub fn wait(
        &self,
        descriptors: &mut [PollFd<'_>],
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        match ppoll(descriptors, timeout.map(TimeSpec::from), Some(self.while_waiting)) {
            // EINTR means that the expected signal has come.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Gives the default action back to every signal that was ignored when this process
/// started. An ignored signal stays ignored over an exec, and programs are promised the
/// defaults.
///
/// The system call is made directly, because the C library hides the signals that it
/// reserves for itself, and its own posix_spawn leaves these ignored.
fn reset_ignored() -> io::Result<()> {
    /// The action as the kernel has it: the handler comes first everywhere, and
    /// all zeroes are the default action.
    type Action = [usize; 8];
    const MASK_BYTES: usize = size_of::<u64>();
    let change = |number: c_int, new: *const Action, old: *mut Action| {
        // SAFETY: each pointer is null or to a live array that is larger than
        // the kernel's struct. The only action ever set is the default one.
        Errno::result(unsafe {
            libc::syscall(libc::SYS_rt_sigaction, number, new, old, MASK_BYTES)
        })
    };
    for number in (1..=libc::SIGRTMAX()).filter(|it| !matches!(*it, libc::SIGKILL | libc::SIGSTOP))
    {
        let mut action: Action = [0; 8];
        change(number, ptr::null(), &mut action)?;
        if action[0] == libc::SIG_IGN {
            change(number, &[0; 8], ptr::null_mut())?;
        }
    }
    Ok(())
}

/// Sets a signal to be ignored or to have its default action.
fn set_disposition(signal: Signal, disposition: SigHandler) -> nix::Result<()> {
    debug_assert!(matches!(disposition, SigHandler::SigIgn | SigHandler::SigDfl));
    let action = SigAction::new(disposition, SaFlags::empty(), SigSet::empty());
    // SAFETY: no function of ours is installed, so none can run in a handler.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Unblocks one signal in this process.
pub fn unblock(signal: Signal) -> io::Result<()> {
    SigSet::from(signal).thread_unblock().map_err(io::Error::from)
}

/// Unblocks every signal in this process.
pub fn unblock_all() -> io::Result<()> {
    SigSet::empty().thread_set_mask().map_err(io::Error::from)
}

/// Sleeps until a signal with a handler has come and `is_over` is true. The state that
/// `is_over` tests must change before the signal comes, or in its handler.
pub fn sleep_until(is_over: impl Fn() -> bool) -> io::Result<()> {
    // Blocked between the test and the sleep, so that no signal is missed there.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    while !is_over() {
        match ppoll(&mut [], None, Some(before)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                before.thread_set_mask()?;
                return Err(errno.into());
            }
        }
    }
    before.thread_set_mask().map_err(io::Error::from)
}
