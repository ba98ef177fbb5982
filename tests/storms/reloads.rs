//! Reloads, good and bad ones in turn by chance, while clients connect.

use std::net::TcpListener;

use support::client::assert_serves;
use support::load::Tally;
use support::random::Random;
use support::{Address, Daemon, Load, Setup, extent, procfs, until};

/// A configuration that may be asked for.
#[derive(Clone, Debug)]
struct Wish {
    workers: usize,
    /// A generation for each number.
    round: usize,
    /// A second pool comes and goes.
    has_second: bool,
}

/// What may be wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is no TOML.
    Syntax,
    /// It has a key that there is not.
    Key,
    /// It includes a file that says something wrong.
    Included,
    /// It wants the address of somebody else.
    Taken,
    /// Its workers fail before they accept.
    Start,
}

impl Wish {
    fn text(&self, places: &Places) -> String {
        let Wish { workers, round, has_second } = self;
        let mut text = pool("echo", &places.first, *workers, *round, "service = \"echo\"");
        if *has_second {
            text += &pool("second", &places.second, 2, *round, "service = \"echo\"");
        }
        text
    }

    fn faulty(&self, fault: Fault, places: &Places) -> String {
        let text = self.text(places);
        match fault {
            Fault::Syntax => text + "[pool.third\n",
            Fault::Key => text + "wrokers = 3\n",
            Fault::Included => format!("include = [\"{}\"]\n{text}", places.included),
            Fault::Taken => {
                text + &pool("third", &places.taken, 1, self.round, "service = \"echo\"")
            }
            Fault::Start => {
                let service = "service.die_at_start = { code = 3 }";
                text + &pool("third", &places.third, 1, self.round, service)
            }
        }
    }
}

fn pool(name: &str, address: &Address, workers: usize, round: usize, service: &str) -> String {
    format!(
        "[pool.{name}]\nlisten = \"{address}\"\nworkers = {workers}\nenv.ROUND = \"{round}\"\n\
         {service}\n"
    )
}

/// Where the pools listen, and what is in the way of some.
struct Places {
    first: Address,
    second: Address,
    third: Address,
    taken: Address,
    _taker: TcpListener,
    included: String,
}

impl Places {
    fn new(setup: &Setup) -> Self {
        let taken = Address::fresh();
        let included = setup.directory().write("included.toml", "[pool.third]\nworkers = 0\n");
        Places {
            first: Address::fresh(),
            second: Address::unix(&setup.directory().join("second.sock")),
            third: Address::fresh(),
            _taker: TcpListener::bind(taken.tcp()).expect("take an address"),
            taken,
            included: included.display().to_string(),
        }
    }
}

/// What the master has open, apart from what a worker that is still there stands for.
fn open_files(daemon: &Daemon) -> Vec<String> {
    procfs::descriptors(daemon.pid()).into_values().collect()
}

#[test]
fn a_storm_of_reloads_good_and_bad_leaks_nothing_and_loses_nothing() {
    let mut random = Random::new();
    let setup = Setup::example("testsvc");
    let places = Places::new(&setup);
    let home = Wish { workers: 4, round: 0, has_second: false };
    let daemon = setup.config(&home.text(&places)).start();
    daemon.expect(&["reload failed", "worker exited", "respawn throttled"]);
    daemon.wait_for_children(4);
    let open = open_files(&daemon);

    let load = Load::start(&places.first, 8, usize::MAX);
    let mut now = home.clone();
    let mut failures = 0;
    for round in 1..=extent(100, 2_000) {
        let mut wish = now.clone();
        match random.below(4) {
            0 => wish.round = round,
            1 => wish.workers = 1 + random.below(8),
            2 => wish.has_second = !wish.has_second,
            _ => {}
        }
        // Those of a start take as long as the back-off of its workers.
        let fault = match random.below(40) {
            0 => Some(Fault::Start),
            1..=4 => Some(Fault::Syntax),
            5..=8 => Some(Fault::Key),
            9..=12 => Some(Fault::Included),
            13..=16 => Some(Fault::Taken),
            _ => None,
        };
        if let Some(fault) = fault {
            daemon.rewrite_config(&wish.faulty(fault, &places));
            daemon.fail_to_reload();
            failures += 1;
        } else {
            daemon.reload(&wish.text(&places));
            now = wish;
        }
        if now.has_second {
            assert_serves(&places.second);
        }
        load.wait_for(20);
    }
    assert!(failures > 0, "no reload failed");
    daemon.reload(&home.text(&places));
    load.stop();
    let tally = load.finish();
    assert_eq!(tally, Tally { complete: tally.complete, ..Tally::default() });

    daemon.wait_for_children(4);
    let mut seen = Vec::new();
    until("the master has the files open that it had", || {
        seen = open_files(&daemon);
        (seen.len() == open.len()).then_some(())
    });
    let of_kind = |files: &[String]| -> Vec<String> {
        // Without the numbers of what was made anew, such as a connection to the log.
        let kind = |file: &String| file.split('[').next().unwrap_or_default().to_owned();
        let mut kinds: Vec<_> = files.iter().map(kind).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(of_kind(&seen), of_kind(&open));
    assert_eq!(daemon.zombies(), [0; 0]);
    assert_eq!(daemon.processes().len(), 1 + 4, "{}", procfs::table(&daemon.processes()));
}
