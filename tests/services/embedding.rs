//! What a program gets that embeds the daemon: its own name, and a service that knows its
//! worker. The program is `examples/lines.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use support::client::ask;
use support::command::{Finished, finish};
use support::{Address, Client, Daemon, Event, Setup, until};

fn lines(address: &Address, keys: &str, options: &str) -> String {
    format!(
        "[log]\nformat = \"json\"\nlevel = \"debug\"\n\
         [pool.lines]\nlisten = \"{address}\"\nworkers = 1\n{keys}\nservice.lines = {{ {options} }}\n"
    )
}

fn start(config: &str) -> Daemon {
    Daemon::start_example("lines", config)
}

/// The only worker's end, by the log.
#[track_caller]
fn end_of(daemon: &Daemon, pid: i32) -> Event {
    let is_it = |event: &Event| event.is_end() && event.pid() == pid;
    daemon.log().wait_count(daemon.log().start(), 1, "the end of the worker", is_it).remove(0)
}

#[test]
fn a_program_has_its_own_name_and_version_and_paths() {
    let setup = Setup::example("lines");
    let run = |arguments: &[&str]| finish(Command::new(setup.program()).args(arguments));
    let said = run(&["--version"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "lines 4.5.6\n"), "{said:?}");
    let Finished { out, .. } = run(&["--help"]);
    assert!(out.contains("Usage: lines "), "{out}");
    assert!(out.contains("/etc/lines/lines.toml") && !out.contains("preforkd"), "{out}");
    let said = run(&["check"]);
    assert_eq!(said.code, Some(66), "{said:?}");
    assert!(said.err.contains("\"/etc/lines/lines.toml\""), "{said:?}");
    let file = setup.directory().write(
        "main.toml",
        &format!("[pool.a]\nlisten = \"{}\"\nservice.lines = {{}}\n", Address::fresh()),
    );
    let file = file.display().to_string();
    let said = run(&["-c", &file, "reload"]);
    assert!(said.err.contains("/run/lines/control.sock"), "{said:?}");
}

#[test]
fn a_service_knows_its_pool_and_its_slot() {
    let address = Address::fresh();
    let _daemon = start(&lines(&address, "", ""));
    assert_eq!(ask(&address, "who\n"), "lines 0\n");
}

// A client that stays kept the worker of the old generation for as long as it liked.
#[test]
fn a_client_that_stays_does_not_keep_a_worker_past_a_reload() {
    let address = Address::fresh();
    let daemon = start(&lines(&address, "", ""));
    let worker = super::the_worker(&daemon, "lines");
    let mut client = Client::connect(&address);
    client.ping("one\n");
    daemon.reload(&lines(&address, "umask = \"0027\"", ""));
    assert_eq!(client.rest(), "", "the connection ends");
    let end = end_of(&daemon, worker);
    assert_eq!((end.number("code"), end.text("cause")), (Some(0), Some("retired")), "{end}");
    assert_eq!(end.number("served"), Some(1), "{end}");
}

#[test]
fn a_client_that_stays_does_not_hold_up_a_stop() {
    let address = Address::fresh();
    let daemon = start(&lines(&address, "", ""));
    let mut client = Client::connect(&address);
    client.ping("one\n");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(client.rest(), "");
    daemon.wait_for_code(0);
    let stopped = daemon.log().wait_for("stopped", |_| true);
    assert_eq!(stopped.number("connections_cut"), None, "{stopped}");
}

fn notes(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_service_is_stopped_once_wherever_a_worker_leaves_by_itself() {
    let setup = Setup::example("lines");
    let path = setup.directory().join("notes");
    let options = format!("notes = \"{}\"", path.display());
    let address = Address::fresh();
    let daemon = setup.config(&lines(&address, "max_requests = 1", &options)).start();
    assert_eq!(ask(&address, "one\n"), "one\n");
    // Its quota is served.
    until("the next worker starts", || (notes(&path) == ["start", "stop", "start"]).then_some(()));
    daemon.reload(&lines(&address, "", &options));
    until("the old worker stops", || {
        let mut told = notes(&path);
        told.sort();
        (told == ["start", "start", "start", "stop", "stop"]).then_some(())
    });
    daemon.stop();
    assert_eq!(notes(&path).last().map(String::as_str), Some("stop"));
    assert_eq!(notes(&path).len(), 6);
}

#[test]
fn a_service_that_fails_to_stop_is_told() {
    let address = Address::fresh();
    let daemon = start(&lines(&address, "", "stop_error = \"the disk is gone\""));
    let worker = super::the_worker(&daemon, "lines");
    daemon.expect(&["worker exited"]);
    daemon.stop();
    let end = end_of(&daemon, worker);
    assert_eq!(end.number("code"), Some(69), "{end}");
    assert_eq!(end.text("reason"), Some("could not stop service: the disk is gone"), "{end}");
}

#[test]
fn a_service_that_does_not_stop_is_ended_after_kill_timeout() {
    let address = Address::fresh();
    let config = lines(
        &address,
        "max_requests = 1\nmax_requests_jitter = \"0%\"\nkill_timeout = \"300ms\"",
        "stop_ms = 86400000",
    );
    let daemon = start(&config);
    daemon.expect(&["worker exited", "worker killed", "worker not retiring", "stopping faster"]);
    let worker = super::the_worker(&daemon, "lines");
    assert_eq!(ask(&address, "one\n"), "one\n");
    let end = end_of(&daemon, worker);
    assert_eq!(end.number("code"), Some(69), "{end}");
    let reason = "could not stop service: it took longer than kill_timeout";
    assert_eq!(end.text("reason"), Some(reason), "{end}");
    assert_eq!(ask(&address, "two\n"), "two\n", "its slot is filled");
}

#[test]
fn a_failure_has_the_level_that_its_service_chooses() {
    let address = Address::fresh();
    let daemon = start(&lines(&address, "", ""));
    daemon.expect(&["connection failed"]);
    for level in ["INFO", "WARN", "ERRO"] {
        assert_eq!(ask(&address, &format!("fail {level}\n")), "");
    }
    ask(&address, "bye\n");
    for level in ["info", "warning", "error"] {
        let told = daemon.log().wait_for("connection failed", |event| event.level() == level);
        assert_eq!(told.text("reason"), Some("as asked"), "{told}");
    }
    daemon.log().wait_for("connection failed", |event| event.level() == "debug");
    // A client can cause them: there is a bound.
    for _ in 0..20 {
        ask(&address, "fail WARN\n");
    }
    daemon.stop();
    let is_warning =
        |event: &&Event| event.message() == "connection failed" && event.level() == "warning";
    let events = daemon.log().events();
    let warnings = events.iter().filter(is_warning).count();
    assert!((5..20).contains(&warnings), "{warnings} warnings");
}
