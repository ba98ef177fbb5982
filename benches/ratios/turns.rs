//! Two servers under the same load in turn.

use std::time::Duration;

use crate::Result;
use crate::cores::Cores;
use crate::daemon::Job;
use crate::figures::Bench;
use crate::load::{self, Done, Manner};
use crate::samples::{Pair, Rounds, Samples};
use crate::server::Server;
use crate::table::{Row, Target, Unit};
use crate::watch;

/// A round's load is cut into slices that the servers take in turn: what else the machine
/// does changes from one second to the next, but falls on neighbours alike.
const SLICES: usize = 32;
const SLICE: Duration = Duration::from_millis(25);

/// What comes before the first slice: caches, and pages not yet touched.
const WARM_UP: Duration = Duration::from_millis(50);

/// The load that both servers get.
#[derive(Clone, Copy)]
pub struct Load {
    /// What a client does.
    pub manner: Manner,
    /// How many there are.
    pub clients: u32,
    /// Where the servers and the clients run.
    ///
    /// A ratio is taken on one core. With two, the scheduler's choice of pairs matters more
    /// than the difference to be measured. A bare loop compared with itself then differed
    /// by 2 to 5 % from round to round, and by 0.2 to 0.9 % on one core.
    pub cores: Cores,
}

/// What they did with it.
#[derive(Default)]
pub struct Outcome {
    rates: Rounds,
    cpu_micros: Rounds,
    generator_micros: Vec<f64>,
}

impl Outcome {
    /// Puts the bare loop and the subject of `job` under `load` in turn.
    pub fn measure(bench: &Bench, job: &Job, load: Load) -> Result<Outcome> {
        // What is started from here on inherits it.
        let _pinned = load.cores.pin()?;
        let mut outcome = Outcome::default();
        for _ in 0..bench.rounds {
            let servers = bench.start_both(job)?;
            outcome.take_turns(&servers, load)?;
            for server in servers {
                server.stop()?;
            }
        }
        Ok(outcome)
    }

    fn take_turns(&mut self, servers: &[Server; 2], load: Load) -> Result<()> {
        for server in servers {
            load::closed_loop(server.address, load.manner, load.clients, WARM_UP)?;
        }
        let (mut rates, mut cpu_micros) = (Vec::new(), Vec::new());
        for slice in 0..SLICES {
            let [a, b] = servers;
            // A B B A: neither always comes after the other.
            let (bare, subject) = if slice % 2 == 0 {
                let bare = Share::of(a, load)?;
                (bare, Share::of(b, load)?)
            } else {
                let subject = Share::of(b, load)?;
                (Share::of(a, load)?, subject)
            };
            let pair = |of: fn(&Share) -> f64| Pair { bare: of(&bare), subject: of(&subject) };
            rates.push(pair(Share::rate));
            cpu_micros.push(pair(Share::cpu_micros));
            self.generator_micros.extend([bare.generator_micros(), subject.generator_micros()]);
        }
        self.rates.push(rates);
        self.cpu_micros.push(cpu_micros);
        Ok(())
    }

    /// The row of the requests per second.
    pub fn rate(&self, label: &str, target: Target) -> Row {
        self.with_generator(self.rates.row(label, Unit::PerSecond, target))
    }

    /// The row of the server's CPU time per request.
    pub fn cpu(&self, label: &str, target: Target) -> Row {
        self.with_generator(self.cpu_micros.row(label, Unit::Micros, target))
    }

    fn with_generator(&self, row: Row) -> Row {
        let micros = self.generator_micros.iter().copied().collect::<Samples>().median();
        Row { generator: Some(format!("{micros:.1} µs CPU a request")), ..row }
    }
}

/// What one server did in a slice.
struct Share {
    done: Done,
    cpu: Duration,
}

impl Share {
    fn of(server: &Server, load: Load) -> Result<Share> {
        let processes = server.processes()?;
        let before = watch::cpu_time(&processes)?;
        let done = load::closed_loop(server.address, load.manner, load.clients, SLICE)?;
        Ok(Share { done, cpu: watch::cpu_time(&processes)? - before })
    }

    fn rate(&self) -> f64 {
        self.done.requests as f64 / self.done.elapsed.as_secs_f64()
    }

    fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.done.requests as f64
    }

    fn generator_micros(&self) -> f64 {
        self.done.own_cpu.as_secs_f64() * 1e6 / self.done.requests as f64
    }
}
