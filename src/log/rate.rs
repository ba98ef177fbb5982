//! A bound on how many lines of a kind are logged.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sys::clock::Moment;

/// The span in which lines are counted.
const SPAN: Duration = Duration::from_secs(10);

/// Admits this many lines in each ten seconds, and counts the others.
#[derive(Debug)]
pub struct Rate {
    most: u32,
    began: Option<Moment>,
    admitted: u32,
    held_back: u64,
}

/// How many lines of this kind were not logged since the last logged one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBack(pub u64);

impl HeldBack {
    /// No line was held back.
    pub const NONE: HeldBack = HeldBack(0);
}

impl Rate {
    /// A rate of `most` lines in ten seconds.
    pub fn new(most: u32) -> Self {
        Rate { most, began: None, admitted: 0, held_back: 0 }
    }

    /// Whether the last line was held back.
    pub fn holds_back(&self) -> bool {
        self.held_back > 0
    }

    /// Whether a line may be logged at `now`. If so, gives the number of lines that were
    /// held back since the last logged one; None holds this line back, too.
    pub fn admit(&mut self, now: Moment) -> Option<HeldBack> {
        if self.began.is_none_or(|began| now - began >= SPAN) {
            self.began = Some(now);
            self.admitted = 0;
        }
        if self.admitted < self.most {
            self.admitted += 1;
            Some(HeldBack(std::mem::take(&mut self.held_back)))
        } else {
            self.held_back += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_counted_in_the_next_line() {
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        let mut rate = Rate::new(2);
        let admitted: Vec<_> = [0, 0, 1, 9, 10, 10, 10]
            .into_iter()
            .map(|second| rate.admit(at(second)).map(|HeldBack(count)| count))
            .collect();
        assert_eq!(admitted, [Some(0), Some(0), None, None, Some(2), Some(0), None]);
    }
}
