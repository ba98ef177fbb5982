//! How long a slot waits until it is filled again.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sys::clock::Moment;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The back-off of one slot: the first worker that dies young is replaced at
/// once, the next after 100 ms, and each further one after twice the time, up
/// to 30 s. A worker that does not die young ends the back-off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    deaths: u32,
    until: Option<Moment>,
}

impl Throttle {
    /// A worker of this slot died at `now`, young or not. `random` spreads the
    /// delay by a tenth to each side, so that slots do not retry in step.
    ///
    /// Gives the delay, if there is one.
    pub fn died(&mut self, young: bool, now: Moment, random: u64) -> Option<Duration> {
        if !young {
            *self = Throttle::default();
            return None;
        }
        self.deaths = self.deaths.saturating_add(1);
        let doublings = self.deaths.checked_sub(2)?;
        let delay = FIRST_DELAY.saturating_mul(2u32.saturating_pow(doublings)).min(LONGEST_DELAY);
        let delay = delay * (900 + (random % 201) as u32) / 1000;
        self.until = Some(now + delay);
        Some(delay)
    }

    /// How many workers in a row died young.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }

    /// Whether the slot backs off: a second worker in a row died young.
    pub fn is_throttled(&self) -> bool {
        self.until.is_some()
    }

    /// When the slot may be filled, if not at once.
    pub fn until(&self) -> Option<Moment> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_nanos(1_000_000_000);
    /// The number that does not move a delay.
    const MIDDLE: u64 = 100;

    #[test]
    fn the_first_is_replaced_at_once_and_the_next_ever_later() {
        let mut throttle = Throttle::default();
        let delays: Vec<_> = (0..12)
            .map(|_| throttle.died(true, NOW, MIDDLE).map_or(0, |delay| delay.as_millis()))
            .collect();
        assert_eq!(
            delays,
            [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
        assert_eq!(throttle.until(), Some(NOW + LONGEST_DELAY));
    }

    #[test]
    fn one_that_lived_ends_the_back_off() {
        let mut throttle = Throttle::default();
        for _ in 0..9 {
            throttle.died(true, NOW, MIDDLE);
        }
        assert_eq!(throttle.died(false, NOW, MIDDLE), None);
        assert!(!throttle.is_throttled());
        assert_eq!(throttle.died(true, NOW, MIDDLE), None, "as at first");
    }

    #[test]
    fn the_delay_is_spread_by_a_tenth() {
        for (random, millis) in [(0, 90), (200, 110), (u64::MAX, 105)] {
            let mut throttle = Throttle::default();
            throttle.died(true, NOW, random);
            assert_eq!(throttle.died(true, NOW, random), Some(Duration::from_millis(millis)));
        }
    }

    #[test]
    fn a_slot_that_never_gets_anywhere_overflows_nothing() {
        let mut throttle = Throttle { deaths: u32::MAX - 1, until: None };
        for _ in 0..4 {
            assert_eq!(throttle.died(true, NOW, MIDDLE), Some(LONGEST_DELAY));
        }
    }
}
