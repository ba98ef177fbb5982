//! A bound on how many lines of a kind are logged.
#![forbid(unsafe_code)]

use std::time::Duration;

use slog::{KV, Record, Serializer};

use crate::sys::clock::Moment;

/// The span in which lines are counted.
const SPAN: Duration = Duration::from_secs(10);

/// Admits so many lines in each ten seconds, and counts the others.
#[derive(Debug)]
pub struct Limit {
    most: u32,
    began: Option<Moment>,
    admitted: u32,
    held_back: u64,
}

impl Limit {
    /// A limit of `most` lines in ten seconds.
    pub fn new(most: u32) -> Self {
        Limit { most, began: None, admitted: 0, held_back: 0 }
    }

    /// Whether a line may be logged at `now`: the number of lines that were
    /// held back since the last one that was, or None to hold it back too.
    pub fn admit(&mut self, now: Moment) -> Option<u64> {
        if self.began.is_none_or(|began| now - began >= SPAN) {
            self.began = Some(now);
            self.admitted = 0;
        }
        if self.admitted < self.most {
            self.admitted += 1;
            Some(std::mem::take(&mut self.held_back))
        } else {
            self.held_back += 1;
            None
        }
    }
}

/// The field `held_back`: how many lines like this one were not logged. It is
/// left out where that is none.
#[derive(Clone, Copy, Debug)]
pub struct HeldBack(pub u64);

impl KV for HeldBack {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        if self.0 > 0 { serializer.emit_u64("held_back", self.0) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_counted_in_the_next_line() {
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        let mut limit = Limit::new(2);
        let admitted: Vec<_> =
            [0, 0, 1, 9, 10, 10, 10].into_iter().map(|second| limit.admit(at(second))).collect();
        assert_eq!(admitted, [Some(0), Some(0), None, None, Some(2), Some(0), None]);
    }
}
