//! Lines that could not be written, counted until the count can be logged.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static LOST: AtomicU64 = AtomicU64::new(0);

/// Counts a line that could not be written.
pub(super) fn count() {
    LOST.fetch_add(1, Relaxed);
}

/// How many losses nobody knows of yet.
pub fn pending() -> u64 {
    LOST.load(Relaxed)
}

/// Forgets the losses of the parent, after a fork.
pub(super) fn forget() {
    LOST.store(0, Relaxed);
}

/// Reports the number of lost lines through `tell`, again and again until the report itself
/// is not lost.
pub fn tell(tell: impl FnOnce(u64)) {
    let lost = LOST.swap(0, Relaxed);
    if lost > 0 {
        tell(lost);
        if LOST.swap(0, Relaxed) > 0 {
            LOST.store(lost, Relaxed);
        }
    }
}
