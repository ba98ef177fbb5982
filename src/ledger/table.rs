//! Where in the ledger everything is, and which entries workers have.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ops::Range;

/// Where the words of a ledger are. Each kind begins on a page of its own.
pub struct Layout;

impl Layout {
    /// Written by the master: one more than the place of the last entry that a worker has.
    pub const HIGHEST: usize = 0;
    /// The number of the last claim.
    pub const CLAIMS: usize = 1;
    /// The bucket of all sources together.
    pub const IN_ALL: usize = 2;
    /// The bucket of log lines.
    pub const TOLD: usize = 3;
    /// How many lines were not written since the last one that was.
    pub const HELD_BACK: usize = 4;
    /// The bucket of second looks that found no room.
    pub const VAIN_LOOKS: usize = 5;

    /// The most workers: the most that Linux has by default is half of this.
    pub const PLACES: usize = 1 << 16;
    /// The source of each entry, 0 if it has none.
    pub const SOURCES: usize = PAGE;
    /// The number of each entry's claim.
    pub const NUMBERS: usize = Self::SOURCES + Self::PLACES;

    /// How many sets of buckets there are.
    pub const SETS: usize = 1024;
    /// How many sources share a set, each with a bucket of its own.
    pub const WAYS: usize = 8;
    /// The buckets of sources: for each its source and its content.
    pub const BUCKETS: usize = Self::NUMBERS + Self::PLACES;

    /// All of them.
    pub const WORDS: usize = Self::BUCKETS + Self::SETS * Self::WAYS * 2;
}

/// The words of a page.
const PAGE: usize = 512;

/// Which entries workers have. The lowest one is taken first, so that those in use stay
/// together: a worker looks at all of them.
#[derive(Debug, Default)]
pub struct Places {
    /// Entries that were given back, below `end`.
    vacant: BTreeSet<usize>,
    end: usize,
}

impl Places {
    /// The lowest entry that nobody has.
    pub fn take(&mut self) -> Option<usize> {
        self.vacant.pop_first().or_else(|| {
            let next = Some(self.end).filter(|&next| next < Layout::PLACES)?;
            self.end += 1;
            Some(next)
        })
    }

    /// That entry is nobody's.
    pub fn give_back(&mut self, place: usize) {
        self.vacant.insert(place);
        while self.end > 0 && self.vacant.remove(&(self.end - 1)) {
            self.end -= 1;
        }
    }

    /// One more than the last entry that somebody has.
    pub fn end(&self) -> usize {
        self.end
    }

    /// The entries below [`end`](Self::end) that nobody has, in runs.
    pub fn vacant(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for &place in &self.vacant {
            match runs.last_mut() {
                Some(run) if run.end == place => run.end += 1,
                _ => runs.push(place..place + 1),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_in_use_stay_together() {
        let mut places = Places::default();
        let taken: Vec<_> = (0..6).map_while(|_| places.take()).collect();
        assert_eq!((taken, places.end()), (vec![0, 1, 2, 3, 4, 5], 6));
        for place in [3, 1, 2, 5] {
            places.give_back(place);
        }
        let vacant = |places: &Places| places.vacant().into_iter().flatten().collect::<Vec<_>>();
        assert_eq!((places.end(), vacant(&places)), (5, vec![1, 2, 3]));
        assert_eq!(places.vacant().len(), 1, "in one run");
        assert_eq!(places.take(), Some(1));
        places.give_back(4);
        assert_eq!((places.end(), vacant(&places)), (2, vec![]));
        assert_eq!(places.take(), Some(2));
    }

    #[test]
    fn there_are_no_more_than_there_can_be() {
        let mut places = Places::default();
        assert_eq!((0..).map_while(|_| places.take()).count(), Layout::PLACES);
        places.give_back(7);
        assert_eq!((places.take(), places.take()), (Some(7), None));
    }
}
