//! Claims: a worker counts who has a connection, and has a say in it.
//!
//! Two workers may accept from one source at the same moment. Were each to count and then
//! write, both could find room for one. Were each to write and then count, both could see
//! the other and turn their clients away. So claims have an order, as customers of a
//! bakery have numbers (Lamport 1974), and only an earlier claim stands in the way of a
//! later one.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use crate::sys::clock::Moment;

use super::table::Layout;
use super::{Mark, OwnEntry, Quota};

/// The number of a claim whose worker is just about to draw one.
const DRAWING: u64 = 0;
/// The number of a claim that was granted: it is before all others.
const GRANTED: u64 = 1;
/// The first number that is drawn.
const FIRST: u64 = 2;

/// How often to look whether somebody has drawn a number, in one count of the entries. It
/// takes two instructions, unless the kernel stops the worker between them.
const LOOKS: u32 = 200;

/// How long a second look takes at most, and how long it sleeps in between.
const SECOND_LOOK: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_micros(200);
/// How many second looks of all workers of a pool may find no room in a second, and at
/// once. After that there is none, because clients that exceed a limit again and again are
/// not worth the time.
const VAIN_LOOKS: (u32, u32) = (2, 4);

/// How often two workers may take from one bucket at the same moment before one of them
/// goes without.
const TRIES: usize = 1000;

/// How many log lines the workers of a pool may write in ten seconds.
const LINES: u32 = 10;

impl OwnEntry {
    /// Enters a connection from this source, if it has fewer than `limit` of them. Never are
    /// there more, and of several at once the first ones are entered.
    ///
    /// A count may be too high for a moment: a client that has closed one connection and
    /// opens the next may be quicker than the worker that it leaves, or than the master that
    /// reaps one. So a claim that finds no room looks again for a moment, unless that was in
    /// vain too often of late.
    pub fn claim(&self, source: Mark, limit: u32) -> bool {
        let number = self.draw(source);
        let is_granted =
            self.has_room(source, number, limit) || self.look_again(source, number, limit);
        if is_granted {
            self.number().store(GRANTED, SeqCst);
        } else {
            self.entered().store(0, SeqCst);
        }
        is_granted
    }

    /// How many connections this source has now, in all workers.
    pub fn count(&self, source: Mark) -> u32 {
        let highest = self.words[Layout::HIGHEST].load(SeqCst);
        let end = usize::try_from(highest).unwrap_or(usize::MAX).min(Layout::PLACES);
        let is_it = |&place: &usize| self.words[Layout::SOURCES + place].load(SeqCst) == source.0;
        u32::try_from((0..end).filter(is_it).count()).unwrap_or(u32::MAX)
    }

    /// The word that names the source of the connection in hand, and is 0 if there is none.
    pub fn entered(&self) -> &'static AtomicU64 {
        &self.words[Layout::SOURCES + self.place]
    }

    /// Takes a token of this source; false if it has none.
    pub fn spend(&self, source: Mark, quota: Quota) -> bool {
        spend(self.bucket_of(source), quota)
    }

    /// Takes a token of all sources together.
    pub fn spend_in_all(&self, quota: Quota) -> bool {
        spend(&self.words[Layout::IN_ALL], quota)
    }

    /// Whether to write a line about a client that was turned away: how many were not
    /// written about since the last such line of any worker, or None not to.
    pub fn admit_line(&self) -> Option<u64> {
        let held_back = &self.words[Layout::HELD_BACK];
        if spend(&self.words[Layout::TOLD], Quota::new(LINES, Duration::from_secs(10), LINES)) {
            Some(held_back.swap(0, SeqCst))
        } else {
            held_back.fetch_add(1, SeqCst);
            None
        }
    }

    /// Draws the number of a claim. The source is written first, so every claim with a
    /// later number sees the source.
    fn draw(&self, source: Mark) -> u64 {
        self.number().store(DRAWING, SeqCst);
        self.entered().store(source.0, SeqCst);
        let number = self.words[Layout::CLAIMS].fetch_add(1, SeqCst).wrapping_add(FIRST);
        // Only a worker gone wild can have written what comes round.
        let number = number.max(FIRST);
        self.number().store(number, SeqCst);
        number
    }

    fn number(&self) -> &'static AtomicU64 {
        &self.words[Layout::NUMBERS + self.place]
    }

    /// Whether fewer than `limit` claims of this source are before this one.
    fn has_room(&self, source: Mark, number: u64, limit: u32) -> bool {
        let highest = self.words[Layout::HIGHEST].load(SeqCst);
        let end = usize::try_from(highest).unwrap_or(usize::MAX).min(Layout::PLACES);
        let mut looks = LOOKS;
        let before = (0..end)
            .filter(|&place| place != self.place)
            .filter(|&place| self.words[Layout::SOURCES + place].load(SeqCst) == source.0)
            .filter(|&place| self.is_before(place, source, number, &mut looks));
        before.take(limit as usize).count() < limit as usize
    }

    /// Whether the claim of that place comes before this one. A claim that still has no
    /// number after a bounded wait does, because its worker was stopped or has died.
    fn is_before(&self, place: usize, source: Mark, number: u64, looks: &mut u32) -> bool {
        loop {
            let other = self.words[Layout::NUMBERS + place].load(SeqCst);
            if other != DRAWING {
                return (other, place) < (number, self.place);
            }
            if self.words[Layout::SOURCES + place].load(SeqCst) != source.0 {
                return false;
            }
            let Some(left) = looks.checked_sub(1) else { return true };
            *looks = left;
            thread::yield_now();
        }
    }

    fn look_again(&self, source: Mark, number: u64, limit: u32) -> bool {
        let (count, burst) = VAIN_LOOKS;
        let quota = Quota::new(count, Duration::from_secs(1), burst);
        let vain_looks = &self.words[Layout::VAIN_LOOKS];
        let began = Moment::now();
        if quota.take(vain_looks.load(SeqCst), began).is_none() {
            return false;
        }
        while Moment::now() < began + SECOND_LOOK {
            thread::sleep(PAUSE);
            if self.has_room(source, number, limit) {
                return true;
            }
        }
        spend(vain_looks, quota);
        false
    }

    /// The bucket of a source. If there are too many sources, it is that of another one,
    /// which is the next to be full again.
    fn bucket_of(&self, source: Mark) -> &'static AtomicU64 {
        let set = source.0 as usize % Layout::SETS * Layout::WAYS * 2;
        let set = &self.words[Layout::BUCKETS + set..][..Layout::WAYS * 2];
        let ways = || set.chunks_exact(2).map(|way| (&way[0], &way[1]));
        for _ in 0..LOOKS {
            // Chosen before the source is looked for: should another worker enter the source
            // meanwhile, either this finds it, or the exchange fails.
            let next = ways().min_by_key(|(_, bucket)| bucket.load(SeqCst));
            let (name, bucket) = next.unwrap_or((&set[0], &set[1]));
            let before = name.load(SeqCst);
            if let Some((_, bucket)) = ways().find(|(name, _)| name.load(SeqCst) == source.0) {
                return bucket;
            }
            if name.compare_exchange(before, source.0, SeqCst, SeqCst).is_ok() {
                return bucket;
            }
        }
        &set[1]
    }
}

/// Takes a token of a bucket that others may take from at the same moment.
fn spend(bucket: &AtomicU64, quota: Quota) -> bool {
    for _ in 0..TRIES {
        let seen = bucket.load(SeqCst);
        // The time comes after the load, so that it is not before that of who stored it.
        let Some(left) = quota.take(seen, Moment::now()) else { return false };
        if bucket.compare_exchange(seen, left, SeqCst, SeqCst).is_ok() {
            return true;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Entry, Ledger};
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;

    fn entries(count: usize) -> (Vec<Entry>, Vec<OwnEntry>) {
        let entries = Ledger::new().unwrap().entries(count).0;
        let own = entries.iter().map(|entry| entry.map().unwrap()).collect();
        (entries, own)
    }

    const SOURCE: Mark = Mark(77);
    const OTHER: Mark = Mark(78);

    #[test]
    fn a_source_has_no_more_than_its_limit() {
        let (mut kept, own) = entries(6);
        assert!(own[0].claim(SOURCE, 2) && own[3].claim(SOURCE, 2));
        assert!(!own[1].claim(SOURCE, 2), "a third one");
        assert!(own[1].claim(OTHER, 2), "that is another's");
        assert!(own[2].claim(SOURCE, 3), "a reload has raised the limit");
        own[0].entered().store(0, SeqCst);
        assert!(!own[4].claim(SOURCE, 2), "it has lowered it");
        own[3].entered().store(0, SeqCst);
        assert!(own[4].claim(SOURCE, 2));
        // A worker dies with its connection.
        assert!(!own[5].claim(SOURCE, 2));
        drop(kept.remove(4));
        assert!(own[5].claim(SOURCE, 2));
    }

    #[test]
    fn a_claim_that_nobody_finishes_counts() {
        let (_kept, own) = entries(3);
        own[2].draw(SOURCE);
        own[2].number().store(DRAWING, SeqCst);
        assert!(!own[0].claim(SOURCE, 1), "after a bounded wait");
        own[2].entered().store(0, SeqCst);
        assert!(own[0].claim(SOURCE, 1));
    }

    #[test]
    fn whatever_is_written_the_verdict_comes() {
        let (_kept, own) = entries(3);
        for rubbish in [u64::MAX, SOURCE.0, DRAWING, 1 << 20] {
            for word in &own[1].words[..Layout::SOURCES] {
                word.store(rubbish, SeqCst);
            }
            own[0].claim(SOURCE, 2);
            own[0].spend(SOURCE, Quota::new(1, Duration::from_secs(1), 1));
            own[0].admit_line();
        }
        for word in own[1].words {
            word.store(SOURCE.0, SeqCst);
        }
        assert!(!own[0].claim(SOURCE, 4));
    }

    // Two that see each other must not both go, in whatever order they count.
    #[test]
    fn of_claims_that_see_each_other_the_first_ones_have_room() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (_kept, own) = entries(3);
            let numbers = [2, 0, 1].map(|place: usize| (place, own[place].draw(SOURCE)));
            let number = |place| numbers.iter().find(|(at, _)| *at == place).unwrap().1;
            let mut granted: Vec<_> = order
                .into_iter()
                .filter(|&place| own[place].has_room(SOURCE, number(place), 2))
                .collect();
            granted.sort_unstable();
            assert_eq!(granted, [0, 2], "those that drew first, in the order {order:?}");
        }
    }

    /// Runs `turn` of each of so many threads at the same moments, again and again, and
    /// gives what `look` found after each of them. It judges nothing: a panic in between would
    /// leave the threads waiting.
    fn race<T>(
        turns: usize,
        threads: usize,
        turn: impl Fn(usize) + Sync,
        mut look: impl FnMut() -> T,
    ) -> Vec<T> {
        let (start, end) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
        thread::scope(|scope| {
            for at in 0..threads {
                let (start, end, turn) = (&start, &end, &turn);
                scope.spawn(move || {
                    for _ in 0..turns {
                        start.wait();
                        turn(at);
                        end.wait();
                    }
                });
            }
            let turns = (0..turns).map(|_| {
                start.wait();
                end.wait();
                look()
            });
            turns.collect()
        })
    }

    // Neither more than the limit, nor fewer: two that see each other must not both go.
    #[test]
    fn of_claims_at_the_same_moment_as_many_as_there_is_room_for_are_granted() {
        for limit in [1, 2, 3] {
            let (_kept, own) = entries(5);
            let granted = AtomicU32::new(0);
            let claim = |at: usize| {
                if own[at].claim(SOURCE, limit) {
                    granted.fetch_add(1, SeqCst);
                }
            };
            let found = race(2_000, own.len(), claim, || {
                own.iter().for_each(|entry| entry.entered().store(0, SeqCst));
                granted.swap(0, SeqCst)
            });
            assert!(found.iter().all(|&it| it == limit), "{limit}: {found:?}");
        }
    }

    #[test]
    fn of_tokens_at_the_same_moment_as_many_as_there_are_are_taken() {
        let (_kept, own) = entries(4);
        let quota = Quota::new(1, Duration::from_secs(3600), 3);
        let taken = AtomicU32::new(0);
        let source = AtomicU64::new(1);
        let spend = |at: usize| {
            if own[at].spend(Mark(source.load(SeqCst)), quota) {
                taken.fetch_add(1, SeqCst);
            }
        };
        let found = race(1_000, own.len(), spend, || {
            source.fetch_add(1, SeqCst);
            taken.swap(0, SeqCst)
        });
        assert!(found.iter().all(|&it| it == 3), "{found:?}");
    }

    #[test]
    fn more_sources_than_buckets_end_nothing() {
        let (_kept, own) = entries(1);
        let quota = Quota::new(1, Duration::from_secs(3600), 1);
        let sources = (Layout::SETS * Layout::WAYS) as u64;
        // All of one set first: the ninth takes the bucket of the first.
        let of_a_set = |at: u64| Mark(1 + at * Layout::SETS as u64);
        assert!((0..8).all(|at| own[0].spend(of_a_set(at), quota)));
        assert!((0..8).all(|at| !own[0].spend(of_a_set(at), quota)));
        assert!(!own[0].spend(of_a_set(8), quota), "with what that one owes");
        let spent = (1..4 * sources).filter(|&source| own[0].spend(Mark(source), quota)).count();
        assert!(spent < sources as usize, "as many as there are buckets at most");
    }

    #[test]
    fn lines_are_counted_for_all_workers_together() {
        let (_kept, own) = entries(2);
        let told = (0..40).filter(|at| own[at % 2].admit_line().is_some()).count();
        assert_eq!(told, 10);
        own[1].words[Layout::TOLD].store(0, SeqCst);
        assert_eq!((own[0].admit_line(), own[1].admit_line()), (Some(30), Some(0)));
    }
}
