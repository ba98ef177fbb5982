//! The figures: what is measured, how, and what is to be reached.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use crate::Result;
use crate::cores::Cores;
use crate::daemon::Job;
use crate::load::{self, Arrived, Manner};
use crate::samples::{Rounds, Samples};
use crate::server::Server;
use crate::table::{Row, Target, Unit};
use crate::turns::{Load, Outcome};
use crate::{deaths, growth, program, watch};

/// A figure, or a few that come out of the same run.
pub struct Figure {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it tells.
    pub what: &'static str,
    /// Measures it.
    pub measure: fn(&Bench) -> Result<Vec<Row>>,
}

/// Every figure, in the order in which they are measured and printed.
pub const FIGURES: &[Figure] = &[
    Figure { name: "connection", what: "a connection per request, 8 workers", measure: connection },
    Figure { name: "thousand", what: "a connection per request, 1,000 workers", measure: thousand },
    Figure { name: "persistent", what: "one connection for all requests", measure: persistent },
    Figure { name: "exec", what: "a program per connection", measure: program::exec },
    Figure {
        name: "close",
        what: "a program's end, until its client sees it",
        measure: program::close,
    },
    Figure { name: "respawn", what: "from a worker's death to its successor", measure: respawn },
    Figure { name: "reload", what: "latency while generations change", measure: reload },
    Figure { name: "start", what: "1,000 workers started", measure: start },
    Figure { name: "memory", what: "memory at 1,000 workers", measure: memory },
    Figure { name: "death", what: "a death among 16, 1,000 and 10,000 workers", measure: death },
    Figure { name: "renewal", what: "a reload that renews 2,000 workers", measure: renewal },
    Figure { name: "pools", what: "a turn with 200 pools", measure: pools },
];

/// The workers of a pool of ordinary size.
pub const WORKERS: usize = 8;
/// The workers of a pool that is large for one machine.
const MANY_WORKERS: usize = 1000;

/// A pool that costs nothing for its size.
const SMALL_POOL: usize = 16;
/// A pool as large as some may want.
const MOST_WORKERS: usize = 10_000;
/// A pool that is large, and there twice for a while.
const RENEWED_WORKERS: usize = 2000;
/// Very many pools.
const POOLS: u8 = 200;

/// Deaths in a round of a worker that is not young: as many as the small pool has of them.
const SINGLE_DEATHS: usize = 15;
/// Turns of the master's loop in a round.
const TURNS: u32 = 300;

/// Deaths of one worker in a round: so many that five rounds have a 99th percentile.
/// Together with [`MASSACRES`] fewer than a slot has in stock: the daemon refills a slot
/// at once, but 50 times a second at most, and what is measured is not that bound.
const DEATHS: u32 = 40;
/// Deaths of all workers in a round.
const MASSACRES: u32 = 8;

/// The requests that come while generations change.
const ARRIVALS_A_SECOND: u32 = 300;
/// The generations of a round, one a second.
const GENERATIONS: u32 = 4;

/// What is compared with the bare loop.
#[derive(Clone, Copy)]
pub enum Subject {
    /// preforkd.
    Daemon,
    /// Another bare loop, which shows how far off 1 a ratio is for no reason at all.
    Bare,
}

/// What every figure needs to know.
pub struct Bench {
    /// How often each figure is measured.
    pub rounds: usize,
    /// What is compared with the bare loop.
    pub subject: Subject,
    /// Where files may be put.
    pub directory: PathBuf,
}

impl Bench {
    /// Starts the bare loop and the subject, and waits until all their workers accept.
    pub fn start_both(&self, job: &Job) -> Result<[Server; 2]> {
        let both = [Server::bare(job)?, self.start_subject(job)?];
        for server in &both {
            server.all_accept()?;
        }
        Ok(both)
    }

    /// Runs `measure` on a fresh server of each side in turn, every round. Each has the
    /// machine to itself.
    fn one_at_a_time<T>(
        &self,
        job: &Job,
        measure: impl Fn(&Server) -> Result<T>,
    ) -> Result<[Vec<T>; 2]> {
        let run = |server: Server| {
            let result = measure(&server)?;
            server.stop()?;
            Ok::<T, Box<dyn std::error::Error>>(result)
        };
        let (mut bare, mut subject) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            bare.push(run(Server::bare(job)?)?);
            subject.push(run(self.start_subject(job)?)?);
        }
        Ok([bare, subject])
    }

    fn start_subject(&self, job: &Job) -> Result<Server> {
        match self.subject {
            Subject::Daemon => Server::daemon(job, self.directory.join("preforkd.toml")),
            Subject::Bare => Server::bare(job),
        }
    }
}

fn connection(bench: &Bench) -> Result<Vec<Row>> {
    let job = Job::echo(WORKERS);
    let load = |clients, cores| {
        Outcome::measure(bench, &job, Load { manner: Manner::Once, clients, cores })
    };
    let one = load(1, Cores::One)?;
    let many = load(32, Cores::One)?;
    let spread = load(32, Cores::All)?;
    Ok(vec![
        one.rate("connection per request, 1 client", Target::RatioAtLeast(0.97)),
        one.cpu("  CPU of the server", Target::RatioAtMost(1.05)),
        many.rate("connection per request, 32 clients", Target::RatioAtLeast(0.97)),
        many.cpu("  CPU of the server", Target::RatioAtMost(1.05)),
        spread.rate("  on all cores", Target::Told),
        spread.cpu("  on all cores, CPU of the server", Target::Told),
    ])
}

fn thousand(bench: &Bench) -> Result<Vec<Row>> {
    let job = Job::echo(MANY_WORKERS);
    let load = |clients| {
        let load = Load { manner: Manner::Once, clients, cores: Cores::One };
        Outcome::measure(bench, &job, load)
    };
    let (one, many) = (load(1)?, load(32)?);
    Ok(vec![
        one.rate("the same, 1,000 workers, 1 client", Target::RatioAtLeast(0.95)),
        one.cpu("  CPU of the server", Target::Told),
        many.rate("the same, 1,000 workers, 32 clients", Target::RatioAtLeast(0.95)),
        many.cpu("  CPU of the server", Target::Told),
    ])
}

fn persistent(bench: &Bench) -> Result<Vec<Row>> {
    let load = Load { manner: Manner::Persistent, clients: 1, cores: Cores::One };
    let outcome = Outcome::measure(bench, &Job::echo(WORKERS), load)?;
    Ok(vec![
        outcome.rate("persistent connection, 64 bytes to and fro", Target::RatioAtLeast(0.99)),
        outcome.cpu("  CPU of the server", Target::Told),
    ])
}

fn respawn(bench: &Bench) -> Result<Vec<Row>> {
    let [bare, subject] = bench.one_at_a_time(&Job::echo(WORKERS), |server| {
        server.all_accept()?;
        Ok((deaths::single(server, DEATHS)?, deaths::all_at_once(server, MASSACRES)?))
    })?;
    let samples = |rounds: Vec<(Vec<Duration>, Vec<Duration>)>| -> (Samples, Samples) {
        let (single, all): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        let millis = |delays: Vec<Vec<Duration>>| delays.concat().into_iter().map(millis).collect();
        (millis(single), millis(all))
    };
    let ((bare_single, bare_all), (single, all)) = (samples(bare), samples(subject));
    let row = |label, bare, subject, target| Row::new(label, Unit::Millis, [bare, subject], target);
    Ok(vec![
        row(
            "a worker dies, until its successor accepts",
            bare_single.median(),
            single.median(),
            Target::Below(1.0),
        ),
        row(
            "  99th percentile",
            bare_single.quantile(0.99),
            single.quantile(0.99),
            Target::Below(5.0),
        ),
        row(
            "all 8 die at once, until 8 accept",
            bare_all.median(),
            all.median(),
            Target::Below(5.0),
        ),
        row("  worst", bare_all.worst(), all.worst(), Target::Told),
    ])
}

/// Requests at fixed moments, while the pool's environment changes each second.
fn reload(bench: &Bench) -> Result<Vec<Row>> {
    let job = Job::echo(WORKERS);
    let duration = Duration::from_secs(GENERATIONS.into());
    let [bare, subject] = bench.one_at_a_time(&job, |server| {
        server.all_accept()?;
        let events = || {
            if server.can_reload() { renew(server, &job) } else { Ok(()) }
        };
        load::arrivals(server.address, ARRIVALS_A_SECOND, duration, events)
    })?;
    let late = bare.iter().chain(&subject).map(|run| run.own_delay).max().unwrap_or_default();
    let row = |label, unit, of: fn(&[Arrived]) -> f64, target| Row {
        generator: Some(format!("late by {:.2} ms at most", millis(late))),
        ..Row::new(label, unit, [of(&bare), of(&subject)], target)
    };
    Ok(vec![
        row(
            "300 arrivals/s, a generation a second: failures",
            Unit::Count,
            |runs| runs.iter().map(|run| run.failures as f64).sum(),
            Target::AtMost(0.0),
        ),
        row(
            "  worst latency of a run",
            Unit::Millis,
            |runs| worst(runs).median(),
            Target::AtMost(6.0),
        ),
        row("  worst latency of all runs", Unit::Millis, |runs| worst(runs).worst(), Target::Told),
        row(
            "  median latency",
            Unit::Millis,
            |runs| {
                runs.iter()
                    .flat_map(|run| &run.latencies)
                    .copied()
                    .map(millis)
                    .collect::<Samples>()
                    .median()
            },
            Target::Told,
        ),
    ])
}

/// The worst latency of each run, in milliseconds.
fn worst(runs: &[Arrived]) -> Samples {
    runs.iter().filter_map(|run| run.latencies.iter().max().copied()).map(millis).collect()
}

/// Starts a new generation in the middle of each second, and sees that half a second later
/// none of the old one is left.
fn renew(server: &Server, job: &Job) -> Result<()> {
    const HALF: Duration = Duration::from_millis(500);
    for generation in 1..=GENERATIONS {
        sleep(HALF);
        let old = server.workers()?;
        server.reload(job, generation)?;
        sleep(HALF);
        let new = server.workers()?;
        if new.len() != WORKERS || new.iter().any(|worker| old.contains(worker)) {
            return Err(format!("workers {old:?} became {new:?} in generation {generation}").into());
        }
    }
    Ok(())
}

fn start(bench: &Bench) -> Result<Vec<Row>> {
    let millis = bench.one_at_a_time(&Job::echo(MANY_WORKERS), |server| {
        let wall = server.all_accept()?;
        Ok((millis(wall), millis(watch::cpu_time(&server.processes()?)?)))
    })?;
    let (wall, cpu) = split(millis);
    let row = |rounds: Rounds, label, target| rounds.row(label, Unit::Millis, target);
    Ok(vec![
        row(wall, "1,000 workers started, until all accept", Target::RatioAtMost(1.2)),
        row(cpu, "  CPU of the server", Target::Told),
    ])
}

/// Looked at when the workers have served, since serving is what makes pages private.
fn memory(bench: &Bench) -> Result<Vec<Row>> {
    let kib = bench.one_at_a_time(&Job::echo(MANY_WORKERS), |server| {
        server.all_accept()?;
        load::closed_loop(server.address, Manner::Once, 32, Duration::from_millis(300))?;
        server.all_accept()?;
        let mut private = 0;
        for worker in server.workers()? {
            private += watch::private_kib(worker)?;
        }
        Ok((private as f64 / MANY_WORKERS as f64, watch::resident_kib(server.master())? as f64))
    })?;
    let (private, resident) = split(kib);
    let row = |rounds: Rounds, label, target| rounds.row(label, Unit::Kib, target);
    Ok(vec![
        row(private, "private memory of a worker, of 1,000", Target::AtMost(40.0)),
        row(resident, "resident memory of their master", Target::Below(6.0 * 1024.0)),
    ])
}

/// The master's time for a death must not grow with the pool, whatever the bare loop's does.
fn death(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut target = Target::Told;
    for (workers, label) in [
        (SMALL_POOL, "CPU of the master for a death, 16 workers"),
        (MANY_WORKERS, "  1,000 workers"),
        (MOST_WORKERS, "  10,000 workers"),
    ] {
        let sides = bench.one_at_a_time(&Job::echo(workers), |server| {
            server.all_accept()?;
            Ok(micros(growth::death(server, SINGLE_DEATHS)?))
        })?;
        let row = Rounds::of_singles(sides).row(label, Unit::Micros, target);
        if workers == SMALL_POOL {
            target = Target::AtMost((row.subject * 1.5).round());
        }
        rows.push(row);
    }
    Ok(rows)
}

/// A reload against the start of the same pool: its workers leave, and as many come.
fn renewal(bench: &Bench) -> Result<Vec<Row>> {
    let job = Job::echo(RENEWED_WORKERS);
    let Subject::Daemon = bench.subject else { return Ok(Vec::new()) };
    let (mut wall, mut cpu) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..bench.rounds {
        let server = bench.start_subject(&job)?;
        let started = server.all_accept()?;
        let master = [server.master()];
        let at_start = watch::cpu_time(&master)?;
        let renewed = growth::renewal(&server, &job)?;
        let at_reload = watch::cpu_time(&master)? - at_start;
        for (sides, [start, reload]) in
            [(&mut wall, [started, renewed]), (&mut cpu, [at_start, at_reload])]
        {
            sides[0].push(millis(start));
            sides[1].push(millis(reload));
        }
        server.stop()?;
    }
    let row = |sides, label, target| Rounds::of_singles(sides).row(label, Unit::Millis, target);
    Ok(vec![
        row(wall, "2,000 workers renewed, over their start", Target::Told),
        row(cpu, "  CPU of the master", Target::Told),
    ])
}

/// A turn of the loop, with as many workers in one pool and in a pool each.
fn pools(bench: &Bench) -> Result<Vec<Row>> {
    let Subject::Daemon = bench.subject else { return Ok(Vec::new()) };
    let mut sides = [Vec::new(), Vec::new()];
    for _ in 0..bench.rounds {
        for (side, (workers, pools)) in sides.iter_mut().zip([(POOLS.into(), 1), (1, POOLS)]) {
            let server = bench.start_subject(&Job { pools, ..Job::echo(workers) })?;
            server.all_accept()?;
            side.push(micros(growth::turn(&server, TURNS)?));
            server.stop()?;
        }
    }
    let label = "a turn of the master: 200 pools, over 1 pool of 200";
    Ok(vec![Rounds::of_singles(sides).row(label, Unit::Micros, Target::RatioAtMost(1.5))])
}

/// Two figures of the same runs, each on its own.
fn split(sides: [Vec<(f64, f64)>; 2]) -> (Rounds, Rounds) {
    let [bare, subject] = sides.map(|side| side.into_iter().unzip::<_, _, Vec<_>, Vec<_>>());
    (Rounds::of_singles([bare.0, subject.0]), Rounds::of_singles([bare.1, subject.1]))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
