//! Workers that are killed, and the time until their successors accept.
//!
//! The end of that time is seen by a client that has its answer, so it is an upper bound:
//! it contains the client's own connection. It needs no look at the server meanwhile. The
//! client comes when the victim is gone, or the victim might take it along.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::Result;
use crate::load::{Client, Exchange};
use crate::server::Server;
use crate::watch::Watched;

/// Kills the one idle worker `times` times; the times until its successor has answered.
pub fn single(server: &Server, times: u32) -> Result<Vec<Duration>> {
    let busy = occupy(server, server.size() - 1)?;
    let client = Client::new(100, server.address);
    let mut delays = Vec::new();
    for turn in 0..times {
        let victim = server.idle_worker()?;
        let end = Watched::new(victim)?;
        let begun = Instant::now();
        kill(victim, Signal::SIGKILL)?;
        await_end(&end)?;
        let exchange = client.connect(turn)?;
        exchange.receive()?;
        delays.push(begun.elapsed());
        // It must finish: a worker that dies young and has served nobody would be held back.
        exchange.close()?;
    }
    release(busy)?;
    Ok(delays)
}

/// Kills all workers at once, `times` times; the times until as many have answered.
pub fn all_at_once(server: &Server, times: u32) -> Result<Vec<Duration>> {
    let mut delays = Vec::new();
    for _ in 0..times {
        server.all_accept()?;
        let victims = server.workers()?;
        let ends =
            victims.iter().map(|victim| Watched::new(*victim)).collect::<Result<Vec<_>, _>>()?;
        let begun = Instant::now();
        for victim in victims {
            kill(victim, Signal::SIGKILL)?;
        }
        for end in &ends {
            await_end(end)?;
        }
        let busy = occupy(server, server.size())?;
        delays.push(begun.elapsed());
        release(busy)?;
    }
    Ok(delays)
}

fn await_end(victim: &Watched) -> Result<()> {
    if victim.ends_within(Duration::from_secs(5))? {
        Ok(())
    } else {
        Err("a worker that was killed lives on".into())
    }
}

/// Keeps so many workers busy: each has answered its client, and waits for more.
fn occupy(server: &Server, workers: usize) -> Result<Vec<Exchange>> {
    let client = Client::new(101, server.address);
    let busy =
        (0..workers).map(|turn| client.connect(turn as u32)).collect::<Result<Vec<_>, _>>()?;
    for exchange in &busy {
        exchange.receive()?;
    }
    Ok(busy)
}

fn release(busy: Vec<Exchange>) -> nix::Result<()> {
    busy.into_iter().try_for_each(Exchange::close)
}
