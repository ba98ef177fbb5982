//! The secret values of a pool.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

/// A text that is kept for comparing alone, in memory of the caller's choice: a worker is
/// a copy of the master, and must not find there what another pool says.
#[derive(Clone, Default)]
pub(super) struct Sealed(Option<Rc<Memory>>);

type Memory = dyn Deref<Target = [u8]>;

impl Sealed {
    /// What this memory holds.
    pub fn new(memory: impl Deref<Target = [u8]> + 'static) -> Self {
        Sealed(Some(Rc::new(memory)))
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => ***one == ***other,
            (None, None) => true,
            _ => false,
        }
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}
