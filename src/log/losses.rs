//! Lines that could not be written, counted until somebody can be told.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static LOST: AtomicU64 = AtomicU64::new(0);

/// Counts a line that could not be written.
pub(super) fn count() {
    LOST.fetch_add(1, Relaxed);
}

/// Forgets those of another process, in its fork.
pub(super) fn forget() {
    LOST.store(0, Relaxed);
}

/// Says how many lines were lost, by way of `tell`, until that is not lost too.
pub fn tell(tell: impl FnOnce(u64)) {
    let lost = LOST.swap(0, Relaxed);
    if lost > 0 {
        tell(lost);
        if LOST.swap(0, Relaxed) > 0 {
            LOST.store(lost, Relaxed);
        }
    }
}
