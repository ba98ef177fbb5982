//! What an event costs the master, and whether that grows with what it looks after.
//!
//! The cost is the master's own processor time. The kernel's part of it grows a little with
//! the children, in the bare loop too: wait(2) looks at each of them.

use std::collections::HashSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Result;
use crate::daemon::Job;
use crate::server::{PATIENCE, Server};
use crate::watch;

/// A worker that has lived longer is replaced at once when it dies.
const GROWN_UP: Duration = Duration::from_millis(1100);

const LOOK: Duration = Duration::from_millis(1);

/// The time that the master takes for a death, of so many one after the other.
pub fn death(server: &Server, deaths: usize) -> Result<Duration> {
    sleep(GROWN_UP);
    let master = server.master();
    let victims = server.workers()?;
    let before = settled_time(master)?;
    for victim in victims.into_iter().take(deaths) {
        kill(victim, Signal::SIGKILL)?;
        until(|| {
            let workers = server.workers()?;
            let is_replaced = workers.len() == server.size() && !workers.contains(&victim);
            Ok(is_replaced && workers.last().is_some_and(|youngest| watch::accepts(*youngest)))
        })?;
    }
    Ok((settled_time(master)? - before) / deaths as u32)
}

/// The time that the master takes for a turn of its loop in which nothing has happened: a
/// signal announces a child that ended, and there is none.
pub fn turn(server: &Server, turns: u32) -> Result<Duration> {
    let master = server.master();
    let before = (settled_time(master)?, watch::sleeps(master)?);
    for _ in 0..turns {
        kill(master, Signal::SIGCHLD)?;
        sleep(LOOK);
    }
    let after = (settled_time(master)?, watch::sleeps(master)?);
    // Two signals may be one turn, so the turns are counted and not the signals.
    let turns = u32::try_from(after.1 - before.1)?;
    Ok((after.0 - before.0) / turns.max(1))
}

/// How long it takes until no worker is left that there was, and their successors accept.
pub fn renewal(server: &Server, job: &Job) -> Result<Duration> {
    let old: HashSet<_> = server.workers()?.into_iter().collect();
    let begun = Instant::now();
    server.reload(job, 1)?;
    until(|| {
        let workers = server.workers()?;
        let is_new = workers.len() == server.size() && !workers.iter().any(|one| old.contains(one));
        Ok(is_new && workers.iter().rev().all(|worker| watch::accepts(*worker)))
    })?;
    Ok(begun.elapsed())
}

/// The processor time of a process that has finished its work: the time stays the same for
/// a while.
fn settled_time(process: Pid) -> Result<Duration> {
    let mut seen = watch::cpu_time(&[process])?;
    until(|| {
        sleep(10 * LOOK);
        let now = watch::cpu_time(&[process])?;
        Ok(std::mem::replace(&mut seen, now) == now)
    })?;
    Ok(seen)
}

fn until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > deadline {
            return Err("waited in vain for the server".into());
        }
        sleep(LOOK);
    }
    Ok(())
}
