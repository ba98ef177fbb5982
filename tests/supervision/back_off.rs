//! Slots whose workers die young, and pools that cannot start.

use std::fs;

use nix::sys::signal::Signal;

use super::echo;
use support::client::{ask, assert_serves};
use support::{Address, Daemon, Directory, Setup, procfs, until};

/// A pool `unlucky` of four workers, of which one dies at its start as long as
/// there is a file `broken`, and a pool `echo` beside it.
fn one_unlucky_slot(directory: &Directory, unlucky: &Address, lucky: &Address) -> String {
    let seats: Vec<_> =
        (0..3).map(|seat| directory.join(&format!("seat{seat}")).display().to_string()).collect();
    format!(
        "[pool.unlucky]\nlisten = \"{unlucky}\"\nworkers = 4\n\
         [pool.unlucky.service.die_at_start]\ncode = 3\n\
         while_exists = \"{}\"\ndiary = \"{}\"\nseats = {seats:?}\n{}",
        directory.join("broken").display(),
        directory.join("diary").display(),
        echo(lucky, 2)
    )
}

/// When workers died at their start, in milliseconds.
fn deaths(directory: &Directory) -> Vec<i64> {
    let diary = fs::read_to_string(directory.join("diary")).unwrap_or_default();
    diary.lines().filter_map(|line| line.parse().ok()).collect()
}

fn wait_for_deaths(directory: &Directory, count: usize) -> Vec<i64> {
    until("workers die at their start", || {
        Some(deaths(directory)).filter(|deaths| deaths.len() >= count)
    })
}

#[test]
fn a_slot_whose_workers_die_young_backs_off_alone_and_recovers() {
    let setup = Setup::example("testsvc");
    let (unlucky, lucky) = (Address::fresh(), Address::fresh());
    let config = one_unlucky_slot(setup.directory(), &unlucky, &lucky);
    let broken = setup.directory().write("broken", "");
    let daemon = setup.config(&config).start();
    daemon.expect(&["worker exited", "respawn throttled"]);
    let neighbours: Vec<_> = daemon
        .wait_for_idle("unlucky", 3)
        .into_iter()
        .chain(daemon.wait_for_idle("echo", 2))
        .collect();
    // The neighbours serve, and they are the same workers all the time.
    for count in 2..7 {
        wait_for_deaths(daemon.directory(), count);
        assert_eq!(ask(&unlucky, "echo\nhello"), "hello");
        assert_serves(&lucky);
        assert!(neighbours.iter().all(|&pid| procfs::is_alive(pid)));
    }
    // The first is replaced at once, then the delays double; a tenth of each
    // may be jitter. That they are not much longer only a quiet machine shows.
    let times = wait_for_deaths(daemon.directory(), 7);
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, least) in gaps.iter().zip([0, 90, 180, 360, 720, 1440]) {
        assert!(*gap >= least - 1, "delays of {gaps:?} ms");
    }

    // SIGHUP is obeyed while the slot waits another 3.2 s, not after. A test that
    // sleeps for so long itself tries again at the next, longer delay.
    let log = daemon.log();
    let is_obeyed_at_once = || {
        let (mark, before) = (log.mark(), deaths(daemon.directory()).len());
        daemon.signal(Signal::SIGHUP);
        log.wait_since(mark, "reloaded", |_| true);
        let at_once = deaths(daemon.directory()).len() == before;
        if !at_once {
            wait_for_deaths(daemon.directory(), before + 2);
        }
        at_once
    };
    assert!((0..3).any(|_| is_obeyed_at_once()), "the reload came after the delay");

    // PEERS: "a crash loop fills the disk with log lines".
    let count = wait_for_deaths(daemon.directory(), 8).len();
    let events = log.events();
    assert!(events.len() < 30 + 2 * (count - 8), "{} lines for {count} deaths", events.len());
    let throttled: Vec<_> =
        events.iter().filter(|event| event.message() == "respawn throttled").collect();
    assert!(!throttled.is_empty());
    for event in &throttled {
        assert!(event.is_of_pool("unlucky"), "{event}");
        assert_eq!(event.number("slot"), throttled[0].number("slot"), "{event}");
        assert_eq!(event.level(), "error", "{event}");
    }
    assert!(
        (90..=110).contains(&throttled[0].number("delay_ms").unwrap_or_default()),
        "{}",
        throttled[0]
    );
    assert_eq!(throttled[0].number("deaths"), Some(2), "{}", throttled[0]);
    let dead: Vec<_> = events.iter().filter(|event| event.is_end()).collect();
    assert!(
        dead.iter()
            .all(|end| end.number("slot") == throttled[0].number("slot")
                && end.is_of_pool("unlucky"))
    );

    fs::remove_file(broken).expect("mend the service");
    let pids = daemon.wait_for_idle("unlucky", 4);
    assert!(neighbours[..3].iter().all(|pid| pids.contains(pid)));
    assert_eq!(ask(&unlucky, "echo\nhello"), "hello");
}

#[test]
fn sigterm_is_obeyed_while_a_slot_backs_off() {
    let setup = Setup::example("testsvc");
    let (unlucky, lucky) = (Address::fresh(), Address::fresh());
    let config = one_unlucky_slot(setup.directory(), &unlucky, &lucky);
    setup.directory().write("broken", "");
    let daemon = setup.config(&config).start();
    daemon.expect(&["worker exited", "respawn throttled"]);
    // A test that sleeps for all of one delay itself waits for the next, twice as long.
    let before = (6..9).find_map(|count| {
        let before = wait_for_deaths(daemon.directory(), count).len();
        daemon.hold();
        let is_early = deaths(daemon.directory()).len() == before;
        if !is_early {
            daemon.signal(Signal::SIGCONT);
        }
        is_early.then_some(before)
    });
    // The time while it is stopped counts as well: what it finds first is SIGTERM.
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGCONT);
    daemon.wait_for_code(0);
    assert_eq!(Some(deaths(daemon.directory()).len()), before, "the stop came after the delay");
}

#[test]
fn many_slots_that_die_young_log_few_lines() {
    let setup = Setup::example("testsvc");
    let (good, bad) = (Address::fresh(), Address::fresh());
    let broken = setup.directory().write("broken", "");
    let config = format!(
        "{}[pool.bad]\nlisten = \"{bad}\"\nworkers = 50\n\
         service.die_at_start = {{ signal = 11, while_exists = \"{}\", diary = \"{}\" }}\n",
        echo(&good, 1),
        broken.display(),
        setup.directory().join("diary").display()
    );
    let mut daemon = setup.config(&config).launch();
    wait_for_deaths(daemon.directory(), 250);
    let lines = daemon.log().events().len();
    // Two starts and two ends for each slot, and then the folded rest.
    assert!(lines < 230, "{lines} lines for 250 deaths");
    assert_serves(&good);
    fs::remove_file(broken).expect("mend the service");
    daemon.wait_for_children(51);
    daemon.expect_anything();
}

#[test]
fn the_first_death_is_replaced_at_once() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 2));
    daemon.expect(&["worker killed"]);
    // Young, and nothing served.
    let victim = daemon.wait_for_idle("echo", 2)[0];
    procfs::send(victim, Signal::SIGKILL);
    daemon.log().wait_for("worker killed", |_| true);
    daemon.wait_for_idle("echo", 2);
    let throttled =
        daemon.log().events().iter().any(|event| event.message() == "respawn throttled");
    assert!(!throttled);
}

#[test]
fn without_one_worker_that_accepts_the_daemon_exits_69() {
    for death in ["code = 3", "code = 0", "signal = 11", "signal = 9", "error = \"no database\""] {
        let (first, second) = (Address::fresh(), Address::fresh());
        let pool = |name: &str, address: &Address| {
            format!(
                "[pool.{name}]\nlisten = \"{address}\"\nworkers = 2\nmin_uptime = \"1h\"\n\
                 service.die_at_start = {{ {death} }}\n"
            )
        };
        let config = pool("first", &first) + &pool("second", &second);
        let mut daemon = Setup::example("testsvc").config(&config).launch();
        daemon.wait_for_code(69);
        daemon.wait_for_nothing_left();
        let events = daemon.log().events();
        let why = events
            .iter()
            .any(|event| event.is_bad() && event.to_string().contains("could not start"));
        assert!(why, "with {death} the log should say why");
        let ready = events.iter().any(|event| event.message() == "ready");
        assert!(!ready, "with {death} it was never ready");
        let told = events.iter().any(|event| event.to_string().contains("no database"));
        assert!(told || !death.contains("database"), "the service's own words are in the log");
        assert!(events.len() < 60, "{} lines", events.len());
        daemon.expect_anything();
    }
}

#[test]
fn a_pool_that_never_starts_does_not_stop_one_that_serves() {
    let setup = Setup::example("testsvc");
    let broken = setup.directory().write("broken", "");
    let (good, bad) = (Address::fresh(), Address::fresh());
    let config = format!(
        "{}[pool.bad]\nlisten = \"{bad}\"\nworkers = 2\n\
         service.die_at_start = {{ code = 1, while_exists = \"{}\", diary = \"{}\" }}\n",
        echo(&good, 2),
        broken.display(),
        setup.directory().join("diary").display()
    );
    let daemon = setup.config(&config).launch();
    daemon.expect(&["worker exited", "respawn throttled"]);
    wait_for_deaths(daemon.directory(), 10);
    assert_serves(&good);
    daemon.wait_for_idle("echo", 2);
    fs::remove_file(broken).expect("mend the service");
    daemon.wait_for_children(4);
    assert_eq!(ask(&bad, "echo\nhello"), "hello");
    daemon.log().wait_for("ready", |_| true);
}

// What repeats itself is folded, the end of it is not.
#[test]
fn a_slot_that_recovers_is_told_of() {
    let address = Address::fresh();
    let setup = Setup::example("testsvc");
    let (broken, diary) = (setup.directory().write("broken", ""), setup.directory().join("diary"));
    let config = format!(
        "[pool.slow]\nlisten = \"{address}\"\nworkers = 1\n\
         service.die_at_start = {{ code = 3, while_exists = \"{}\", diary = \"{}\" }}\n{}",
        broken.display(),
        diary.display(),
        echo(&Address::fresh(), 1)
    );
    let daemon = setup.config(&config).start();
    daemon.expect(&["worker exited", "respawn throttled"]);
    wait_for_deaths(daemon.directory(), 4);
    fs::remove_file(broken).expect("mend the service");
    let worker = daemon.wait_for_idle("slow", 1)[0];
    daemon.log().wait_for("worker started", |event| event.pid() == worker);
}
