//! Numbers by chance, the same again from the same seed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct Random(u64);

impl Random {
    /// Seeded by the time of day, or by the variable `PREFORKD_TEST_SEED`; the
    /// seed is printed, so that a test that fails can be run as it was.
    pub fn new() -> Self {
        let seed = match std::env::var("PREFORKD_TEST_SEED") {
            Ok(text) => text.parse().expect("PREFORKD_TEST_SEED is a number"),
            Err(_) => {
                SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
            }
        };
        eprintln!("PREFORKD_TEST_SEED={seed}");
        Random(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    /// One of `all`, which is not empty.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Puts `all` into an order by chance.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for end in (1..all.len()).rev() {
            all.swap(end, self.below(end + 1));
        }
    }

    /// Lets up to `most` pass: the moments are what a test varies with it.
    pub fn pause(&mut self, most: Duration) {
        let nanos = self.below(most.as_nanos() as usize);
        std::thread::sleep(Duration::from_nanos(nanos as u64));
    }
}
