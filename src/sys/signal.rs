//! The signals of a process that waits for them: flags, and one ppoll.
//!
//! The signals are blocked from [`Waiting::begin`] on, but for the inside of
//! [`Waiting::wait`]. So a flag is only ever set there, and a signal that
//! comes while the loop works stays pending until the loop waits again: the
//! test of a flag and the sleep cannot be torn apart.

use std::ffi::c_int;
use std::io;
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
    /// Takes what has come so far; what comes from now on is for the next call.
    pub fn take() -> Self {
        Received(RECEIVED.swap(0, Ordering::Relaxed))
    }

    /// Whether `signal` is among them.
    pub fn has(self, signal: Signal) -> bool {
        self.0 & (1 << signal as c_int) != 0
    }
}

/// A process whose signals are blocked but for when it waits.
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
            // Whoever started us may have blocked it; it must reach us.
            while_waiting.remove(signal);
            let action = SigAction::new(
                SigHandler::Handler(handle_signal),
                SaFlags::SA_NOCLDSTOP,
                SigSet::all(),
            );
            // SAFETY: the handler does one atomic store, which is
            // async-signal-safe (signal-safety(7)).
            unsafe { sigaction(signal, &action) }?;
        }
        for &signal in ignored {
            set_disposition(signal, SigHandler::SigIgn)?;
        }
        Ok(Waiting { while_waiting })
    }

    /// Sleeps until a signal comes, a descriptor is ready or `timeout` is over
    /// (ppoll(2)); `None` waits for ever.
    pub fn wait(
        &self,
        descriptors: &mut [PollFd<'_>],
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        match ppoll(descriptors, timeout.map(TimeSpec::from), Some(self.while_waiting)) {
            // EINTR is the signal that we wait for.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Gives the default action back to every signal that whoever started this
/// process had set to be ignored: an ignored signal stays so over an exec, and
/// the programs that we start are promised the defaults.
fn reset_ignored() -> io::Result<()> {
    for number in
        (1..=libc::SIGRTMAX()).filter(|number| !matches!(*number, libc::SIGKILL | libc::SIGSTOP))
    {
        // SAFETY: sigaction is pointers and integers, for which zeroes are a
        // value; with no new action given the call only reads the old one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live local of the right type.
        let read = unsafe { libc::sigaction(number, std::ptr::null(), &mut action) };
        if read == 0 && action.sa_sigaction == libc::SIG_IGN {
            action.sa_sigaction = libc::SIG_DFL;
            // SAFETY: SIG_DFL runs no code of ours.
            Errno::result(unsafe { libc::sigaction(number, &action, std::ptr::null_mut()) })?;
        }
    }
    Ok(())
}

/// Sets a signal to be ignored or to have its default action.
pub(super) fn set_disposition(signal: Signal, disposition: SigHandler) -> nix::Result<()> {
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
