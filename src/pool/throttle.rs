//! How long a slot waits until it is filled again.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sys::clock::Moment;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The part of the slot's stock of time that each death costs. A slot whose workers keep
/// dying is refilled at most 50 times a second.
const SPACING: Duration = Duration::from_millis(20);
/// The same for a worker that has served its quota, in a pool with `max_requests`.
const RECYCLED_SPACING: Duration = Duration::from_millis(1);
/// The stock of time that a slot can spend before it must wait.
const STOCK: Duration = Duration::from_secs(1);

/// How the worker of a slot has ended, as far as this matters for its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The worker failed before its first accept, or died idle and young.
    Young,
    /// The worker did not accept within `start_timeout`. Another try would take as long.
    Late,
    /// The worker died while it served a connection.
    AtWork,
    /// The worker had served its quota, and left by itself.
    Recycled,
    /// The worker had lived long enough, had served a connection, or was asked to leave.
    Lived,
}

/// The back-off of one slot, and the bound on how often it is refilled.
///
/// The first worker that dies young is replaced at once, the next after 100 ms, and each
/// further one after twice the time, up to 30 s. A worker that does not die young ends the
/// back-off. A worker's own report can only avoid the back-off: the bound holds for every
/// death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    deaths: u32,
    until: Option<Moment>,
    /// The moment at which the stock is full again.
    whole: Moment,
}

/// The wait of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// For how long.
    pub time: Duration,
    /// After how many deaths in a row.
    pub deaths: u32,
}

impl Throttle {
    /// A worker of this slot has ended at `now`. `random` spreads the delay of a
    /// back-off by a tenth to each side, so that slots do not retry in step.
    ///
    /// Gives the slot's delay, if any.
    pub fn died(&mut self, end: End, now: Moment, random: u64) -> Option<Delay> {
        let cost = match end {
            End::Young | End::Late | End::AtWork | End::Lived => SPACING,
            End::Recycled => RECYCLED_SPACING,
        };
        self.whole = self.whole.max(now) + cost;
        let spent = self.whole - now;
        let paced = spent.saturating_sub(STOCK);
        self.deaths = match end {
            End::Young => self.deaths.saturating_add(1),
            End::Late => self.deaths.saturating_add(1).max(2),
            End::AtWork | End::Recycled | End::Lived => 0,
        };
        let back_off = back_off(self.deaths, random);
        let time = back_off.unwrap_or_default().max(paced);
        self.until = (!time.is_zero()).then(|| now + time);
        let spent_by_deaths = (spent.as_millis() / SPACING.as_millis()) as u32;
        let deaths = if back_off.is_some() { self.deaths } else { spent_by_deaths };
        self.until.map(|_| Delay { time, deaths })
    }

    /// Whether the slot backs off: a second worker in a row died young.
    pub fn backs_off(&self) -> bool {
        back_off(self.deaths, 0).is_some()
    }

    /// The moment from which the slot may be filled, if not at once.
    pub fn until(&self) -> Option<Moment> {
        self.until
    }
}

/// The delay after this many young deaths in a row.
fn back_off(deaths: u32, random: u64) -> Option<Duration> {
    let doublings = deaths.checked_sub(2)?;
    let delay = FIRST_DELAY.saturating_mul(2u32.saturating_pow(doublings)).min(LONGEST_DELAY);
    Some(delay * (900 + (random % 201) as u32) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_nanos(1_000_000_000);
    /// The random number that does not change a delay.
    const MIDDLE: u64 = 100;

    fn young(throttle: &mut Throttle, random: u64) -> Option<Duration> {
        throttle.died(End::Young, NOW, random).map(|delay| delay.time)
    }

    #[test]
    fn the_first_is_replaced_at_once_and_the_next_ever_later() {
        let mut throttle = Throttle::default();
        let delays: Vec<_> = (0..12)
            .map(|_| young(&mut throttle, MIDDLE).map_or(0, |delay| delay.as_millis()))
            .collect();
        assert_eq!(
            delays,
            [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
        assert_eq!(throttle.until(), Some(NOW + LONGEST_DELAY));
    }

    #[test]
    fn one_that_lived_ends_the_back_off() {
        for end in [End::Lived, End::AtWork, End::Recycled] {
            let mut throttle = Throttle::default();
            for _ in 0..9 {
                young(&mut throttle, MIDDLE);
            }
            assert_eq!(throttle.died(end, NOW, MIDDLE), None);
            assert!(!throttle.backs_off());
            assert_eq!(young(&mut throttle, MIDDLE), None, "as at first");
        }
    }

    #[test]
    fn the_delay_is_spread_by_a_tenth() {
        for (random, millis) in [(0, 90), (200, 110), (u64::MAX, 105)] {
            let mut throttle = Throttle::default();
            young(&mut throttle, random);
            assert_eq!(young(&mut throttle, random), Some(Duration::from_millis(millis)));
        }
    }

    #[test]
    fn a_slot_that_never_gets_anywhere_overflows_nothing() {
        let mut throttle = Throttle { deaths: u32::MAX - 1, ..Throttle::default() };
        for _ in 0..4 {
            assert_eq!(young(&mut throttle, MIDDLE), Some(LONGEST_DELAY));
        }
    }

    /// How many workers a slot gets in ten seconds if each ends like this at once.
    fn refills(end: End) -> u32 {
        let mut throttle = Throttle::default();
        let mut now = NOW;
        let mut count = 0;
        while now < NOW + Duration::from_secs(10) {
            count += 1;
            now = now + Duration::from_micros(100);
            if let Some(Delay { time, .. }) = throttle.died(end, now, MIDDLE) {
                now = now + time;
            }
        }
        count
    }

    #[test]
    fn whatever_a_worker_says_of_itself_its_slot_is_refilled_no_more_often() {
        for end in [End::AtWork, End::Lived] {
            assert!((540..=560).contains(&refills(end)), "{end:?}: {}", refills(end));
        }
        assert!(refills(End::Recycled) <= 11_000, "{}", refills(End::Recycled));
        assert!(refills(End::Young) < 10);
    }
}
