//! A service that panics.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

thread_local! {
    /// The message and the place of the last panic.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Whether this process keeps what a panic says.
static KEEPS: AtomicBool = AtomicBool::new(false);

/// Makes it possible that the children of this process [keep](keep_panics) their panics: one
/// hook for all of them.
pub fn prepare() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(
        move |panic| {
            if KEEPS.load(Relaxed) { keep(panic) } else { print(panic) }
        },
    ));
}

/// From here on this process keeps what a panic says, in place of printing it on standard
/// error, which may be nowhere. Its parent has [prepared](prepare) that.
pub fn keep_panics() {
    KEEPS.store(true, Relaxed);
}

fn keep(panic: &PanicHookInfo<'_>) {
    // `panic!` gives either, depending on whether it has arguments.
    let literal = panic.payload().downcast_ref::<&str>().copied();
    let formatted = panic.payload().downcast_ref::<String>().map(String::as_str);
    let reason = literal.or(formatted).unwrap_or("no reason given");
    let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
    LAST.set(Some(format!("{reason}{place}")));
}

/// Calls `body`; gives what it says if it panics.
pub fn catch<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body))
        .map_err(|_| LAST.take().unwrap_or_else(|| "no reason given".to_owned()))
}

/// The same in a process that prints panics. This panic is not printed, because the caller
/// reports it.
pub fn catch_quietly<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(keep));
    let done = catch(body);
    panic::set_hook(hook);
    done
}
