//! How many connections a worker serves before it is recycled.
#![forbid(unsafe_code)]

use std::num::NonZeroU64;

/// `most` give or take up to `percent` of it, by the number `random`; at least
/// 1.
///
/// Workers that start together and share the load evenly would otherwise all
/// reach the same number at the same moment.
pub fn jittered(most: NonZeroU64, percent: u8, random: u64) -> u64 {
    let most = u128::from(most.get());
    let spread = most * u128::from(percent) / 100;
    let offset = u128::from(random) % (2 * spread + 1);
    u64::try_from((most + offset).saturating_sub(spread)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_stays_within_the_jitter() {
        let jittered = |most, percent, random| {
            super::jittered(NonZeroU64::new(most).unwrap(), percent, random)
        };
        assert_eq!(jittered(1000, 0, 77), 1000);
        assert_eq!((jittered(1000, 10, 0), jittered(1000, 10, 200)), (900, 1100));
        assert_eq!(jittered(1, 100, 0), 1, "a worker serves at least one");
        assert_eq!(jittered(u64::MAX, 100, u64::MAX), u64::MAX);
    }
}
