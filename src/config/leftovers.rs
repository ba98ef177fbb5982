//! What becomes of the processes that a program leaves running.
#![forbid(unsafe_code)]

use std::fmt;

use toml::Spanned;

use super::fault::Fault;
use super::units::{Unit, not};

/// What becomes of the processes that a program leaves running when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They go on running, without a worker.
    Leave,
    /// The worker waits for their end.
    Wait,
    /// The worker ends them.
    Kill,
}

impl Leftovers {
    /// The default, which was written nowhere.
    pub(super) fn leave() -> Spanned<Self> {
        Spanned::new(0..0, Leftovers::Leave)
    }
}

impl Unit for Leftovers {
    type Value = Leftovers;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"one of "leave", "wait" and "kill""#)
    }

    fn text(text: &str) -> Result<Leftovers, Fault> {
        match text {
            "leave" => Ok(Leftovers::Leave),
            "wait" => Ok(Leftovers::Wait),
            "kill" => Ok(Leftovers::Kill),
            // The word that other daemons have for it.
            "keep" => Err(not::<Self>(r#""keep""#).with_hint(r#"did you mean "leave"?"#)),
            _ => Err(not::<Self>(format_args!("{text:?}"))),
        }
    }
}
