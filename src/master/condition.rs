//! The condition of the daemon in words, for the status and for waiting clients.
#![forbid(unsafe_code)]

use crate::log::event::Event;
use crate::pool::{Pool, Standing};

/// Why a pool does not work.
pub fn could_not_start(pool: &Pool) -> String {
    format!("could not start pool \"{}\": {}", pool.name(), last_failure(pool))
}

/// The pools that have not started.
pub fn not_started(pools: &[Pool]) -> Option<String> {
    let failed = pools.iter().filter(|pool| pool.standing() == Standing::Failed);
    let told: Vec<_> = failed.map(could_not_start).collect();
    (!told.is_empty()).then(|| told.join("\n"))
}

/// The pools that no worker serves.
pub fn down(pools: &[Pool]) -> impl Iterator<Item = String> {
    pools.iter().filter_map(|pool| match pool.standing() {
        Standing::Failed => Some(could_not_start(pool)),
        _ => pool
            .is_down()
            .then(|| format!("pool \"{}\" is down: {}", pool.name(), last_failure(pool))),
    })
}

/// The same for the log.
pub fn down_events(pools: &[Pool]) -> impl Iterator<Item = Event> {
    pools.iter().filter(|pool| pool.is_down()).map(|pool| Event::PoolDown {
        pool: pool.name().to_owned(),
        reason: last_failure(pool).to_owned(),
    })
}

/// What a reload under way waits for.
pub fn awaited(pools: &[Pool]) -> impl Iterator<Item = String> {
    let tried = pools.iter().filter(|pool| pool.trial() == Some(Standing::Starting));
    tried.map(|pool| {
        let failure = pool.last_failure().map(|reason| format!("; {reason}")).unwrap_or_default();
        format!("waiting until the new workers of pool \"{}\" accept{failure}", pool.name())
    })
}

/// How many lines the log has lost and not reported yet.
pub fn lines_lost(count: u64) -> Option<String> {
    (count > 0).then(|| format!("the log has no room, lines lost: {count}"))
}

fn last_failure(pool: &Pool) -> &str {
    pool.last_failure().unwrap_or("no worker got as far as accepting")
}
