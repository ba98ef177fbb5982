//! How many connections a worker serves before it is recycled.
#![forbid(unsafe_code)]

/// `most` give or take up to `percent` of it, by the number `random`; at least
/// 1, and None (no end) if `most` is 0.
///
/// Workers that start together and share the load evenly would otherwise all
/// reach the same number at the same moment.
pub fn jittered(most: u64, percent: u8, random: u64) -> Option<u64> {
    if most == 0 {
        return None;
    }
    let spread = u128::from(most) * u128::from(percent) / 100;
    let offset = u128::from(random) % (2 * spread + 1);
    let served = (u128::from(most) + offset).saturating_sub(spread);
    Some(u64::try_from(served).unwrap_or(u64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_stays_within_the_jitter() {
        assert_eq!(jittered(0, 10, 5), None);
        assert_eq!(jittered(1000, 0, 77), Some(1000));
        assert_eq!((jittered(1000, 10, 0), jittered(1000, 10, 200)), (Some(900), Some(1100)));
        assert_eq!(jittered(1, 100, 0), Some(1), "a worker serves at least one");
        assert_eq!(jittered(u64::MAX, 100, u64::MAX), Some(u64::MAX));
    }
}
