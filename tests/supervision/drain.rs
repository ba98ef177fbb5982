//! A stop serves those who wait.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

use nix::sys::signal::Signal;

use super::echo;
use support::client::{ask, assert_refuses, assert_serves};
use support::{Address, Client, Daemon, Setup, is_root, procfs, provided, until};

/// A pool of workers that do what they are told.
fn command(address: &Address, workers: usize) -> String {
    echo(address, workers).replace("\"echo\"", "\"command\"")
}

/// An address of each kind.
fn addresses(directory: &Path) -> [Address; 3] {
    [Address::fresh(), Address::unix(&directory.join("drain.sock")), Address::unnamed()]
}

// PEERS: "clients in the backlog are reset at a stop".
#[test]
fn clients_that_wait_in_the_queue_are_served_at_a_stop() {
    for kind in 0..3 {
        let setup = Setup::example("testsvc");
        let address = addresses(setup.directory().path())[kind].clone();
        let daemon = setup.config(&command(&address, 1)).start();
        let mut busy = Client::connect(&address);
        busy.send("echo\n");
        busy.ping("in hand");
        // The worker is busy, so these wait; and they have not even said what they want.
        let mut waiting: Vec<_> = (0..20).map(|_| Client::connect(&address)).collect();
        daemon.signal(Signal::SIGTERM);
        daemon.log().wait_for("stopping", |_| true);
        daemon.wait_until_obeyed();
        busy.ping("still in hand");
        drop(busy);
        for (number, client) in waiting.iter_mut().enumerate() {
            client.write_all(b"echo\n").expect("a client that waits can write");
            client.ping(&format!("client {number}"));
            client.half_close().expect("close one half");
            assert_eq!(client.rest(), "", "client {number} of {address}");
        }
        daemon.wait_for_code(0);
        assert_refuses(&address);
    }
}

#[test]
fn a_worker_that_dies_while_it_drains_leaves_nobody_waiting() {
    for kind in 0..3 {
        let setup = Setup::example("testsvc");
        let address = addresses(setup.directory().path())[kind].clone();
        let daemon = setup.config(&command(&address, 1)).start();
        daemon.expect(&["worker exited"]);
        let mut busy = Client::connect(&address);
        busy.send("echo\n");
        busy.ping("in hand");
        let mut crasher = Client::connect(&address);
        crasher.send("exit 3\n");
        let mut waiting: Vec<_> = (0..5).map(|_| Client::connect(&address)).collect();
        daemon.signal(Signal::SIGTERM);
        daemon.wait_until_obeyed();
        drop(busy);
        for client in &mut waiting {
            client.send("pid\n");
            assert!(client.rest().ends_with('\n'), "{address}");
        }
        daemon.wait_for_code(0);
        // Its successor was asked for nothing, and left for the stop all the same.
        for end in daemon.log().events().iter().filter(|event| event.number("code") == Some(0)) {
            assert_eq!(end.text("cause"), Some("stopped"), "{end}");
        }
    }
}

// A worker that serves an old connection knows nothing of the queue.
#[test]
fn a_retired_worker_keeps_nobody_waiting_at_a_stop() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    for kind in 0..3 {
        let setup = Setup::example("testsvc");
        let address = addresses(setup.directory().path())[kind].clone();
        let config = command(&address, 1);
        let daemon = setup.config(&config).start();
        daemon.expect(&["worker exited"]);
        let mut old = Client::connect(&address);
        old.send("echo\n");
        old.ping("in hand");
        daemon.reload(&format!("{config}env.NEW = \"1\"\n"));
        let mut crasher = Client::connect(&address);
        until("the new one is busy", || {
            let workers = daemon.workers("echo");
            let idle = workers.iter().filter(|&&pid| procfs::is_in_accept(pid)).count();
            (workers.len() == 2 && idle == 0 && workers.iter().all(|&pid| procfs::is_settled(pid)))
                .then_some(())
        });
        let mut waiting: Vec<_> = (0..5).map(|_| Client::connect(&address)).collect();
        daemon.signal(Signal::SIGTERM);
        daemon.log().wait_for("stopping", |_| true);
        daemon.wait_until_obeyed();
        crasher.send("exit 3\n");
        for client in &mut waiting {
            client.send("pid\n");
            assert!(client.rest().ends_with('\n'), "{address}");
        }
        old.ping("still in hand");
        drop(old);
        daemon.wait_for_code(0);
    }
}

#[test]
fn clients_of_workers_that_have_not_started_are_served_at_a_stop() {
    for kind in 0..3 {
        let setup = Setup::example("testsvc");
        let address = addresses(setup.directory().path())[kind].clone();
        let gate = setup.directory().write("gate", "");
        let service = format!(
            "service.die_at_start = {{ gate = \"{}\", while_exists = \"/nowhere/at/all\" }}",
            gate.display()
        );
        let daemon =
            setup.config(&echo(&address, 2).replace("service = \"echo\"", &service)).launch();
        daemon.log().wait_count(daemon.log().start(), 2, "workers", |event| {
            event.message() == "worker started"
        });
        let mut client = Client::connect(&address);
        client.send("pid\n");
        daemon.signal(Signal::SIGTERM);
        daemon.log().wait_for("stopping", |_| true);
        daemon.wait_until_obeyed();
        std::fs::remove_file(gate).expect("open the gate");
        assert!(client.rest().ends_with('\n'), "{address}");
        daemon.wait_for_code(0);
    }
}

#[test]
fn clients_of_workers_that_fail_are_served_at_a_stop_if_that_can_be() {
    for kind in 0..3 {
        let setup = Setup::example("testsvc");
        let address = addresses(setup.directory().path())[kind].clone();
        let broken = setup.directory().write("broken", "");
        let config = format!(
            "{}[pool.broken]\nlisten = \"{address}\"\nworkers = 1\n\
             service.die_at_start = {{ while_exists = \"{}\", code = 3 }}\n",
            echo(&Address::fresh(), 1),
            broken.display()
        );
        let daemon = setup.config(&config).launch();
        daemon.expect(&["worker exited", "respawn throttled"]);
        daemon.log().wait_for("respawn throttled", |_| true);
        daemon.log().wait_for("ready", |_| true);
        let mut client = Client::connect(&address);
        client.send("pid\n");
        daemon.signal(Signal::SIGTERM);
        daemon.log().wait_for("stopping", |_| true);
        daemon.wait_until_obeyed();
        std::fs::remove_file(broken).expect("mend the service");
        assert!(client.rest().ends_with('\n'), "{address}");
        daemon.wait_for_code(0);
    }
}

#[test]
fn a_client_that_comes_after_the_queue_is_empty_is_refused_while_others_are_served() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 2));
    let mut busy = Client::connect(&address);
    busy.ping("in hand");
    daemon.signal(Signal::SIGTERM);
    daemon.log().wait_for("stopping", |_| true);
    // Refused, or not answered, but never reset.
    until("nobody listens there", || {
        let refused = Client::try_connect(&address).err()?;
        (refused.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    });
    busy.ping("still in hand");
    drop(busy);
    daemon.wait_for_code(0);
}

#[test]
fn stop_delay_serves_on_before_the_stop() {
    let address = Address::fresh();
    let config = format!("[daemon]\nstop_delay = \"1h\"\n{}", echo(&address, 2));
    let daemon = Daemon::start(&config);
    daemon.expect(&["worker killed", "stop escalated"]);
    daemon.wait_for_idle("echo", 2);
    daemon.signal(Signal::SIGTERM);
    daemon.log().wait_for("stopping", |_| true);
    daemon.wait_until_obeyed();
    assert_serves(&address);
    // The pool is kept at size meanwhile.
    let victim = daemon.workers("echo")[0];
    procfs::send(victim, Signal::SIGKILL);
    daemon.log().wait_for("worker killed", |event| event.pid() == victim);
    daemon.wait_for_idle("echo", 2);
    assert_serves(&address);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_code(0);

    let config = config.replace("1h", "300ms");
    let daemon = Daemon::start(&config);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_code(0);
}

/// A daemon whose listeners live on, for a service manager keeps them.
fn with_a_manager(config: &str) -> (Daemon, UnixDatagram) {
    let setup = Setup::example("testsvc");
    let path = setup.directory().join("notify");
    let manager = UnixDatagram::bind(&path).expect("the socket of a manager");
    let daemon =
        setup.variable("NOTIFY_SOCKET", &path.display().to_string()).config(config).start();
    (daemon, manager)
}

#[test]
fn a_client_that_has_sent_nothing_does_not_hold_up_a_restart() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    for kind in 0..2 {
        let directory = support::Directory::new();
        let address = addresses(directory.path())[kind].clone();
        let config = format!("[daemon]\nstop_timeout = \"1h\"\n{}", echo(&address, 3));
        let (daemon, _manager) = with_a_manager(&config);
        let mut used = Client::connect(&address);
        used.ping("in hand");
        let mut silent = Client::connect(&address);
        until("two are busy", || {
            let is_busy = |pid: &i32| !procfs::is_in_accept(*pid);
            (daemon.workers("echo").iter().filter(|&pid| is_busy(pid)).count() == 2).then_some(())
        });
        daemon.signal(Signal::SIGTERM);
        let mut rest = Vec::new();
        silent.read_to_end(&mut rest).expect("the end of the silent one");
        assert!(rest.is_empty());
        until("one is left", || (daemon.children().len() == 1).then_some(()));
        used.ping("still in hand");
        drop(used);
        daemon.wait_for_code(0);
        let stopped = daemon.log().wait_for("stopped", |_| true);
        assert_eq!(stopped.number("connections_cut"), Some(1), "{stopped}");
    }
}

// PEERS: "one program's shutdown() of the inherited listener makes all others deaf".
#[test]
fn a_listener_that_a_worker_shut_down_is_mended() {
    for kind in 0..3 {
        let setup = Setup::example("testsvc");
        let address = addresses(setup.directory().path())[kind].clone();
        let daemon = setup.config(&command(&address, 3)).start();
        daemon.expect(&[
            "worker exited",
            "listener mended",
            "respawn throttled",
            "could not adjust listener",
        ]);
        daemon.wait_for_idle("echo", 3);
        for round in 0..3 {
            let mark = daemon.log().mark();
            assert_eq!(ask(&address, "deafen\n"), "1\n", "round {round}");
            daemon.log().wait_since(mark, "listener mended", |event| event.is_of_pool("echo"));
            daemon.wait_for_idle("echo", 3);
            assert!(ask(&address, "pid\n").ends_with('\n'), "{address}, round {round}");
        }
        daemon.stop();
        assert_refuses(&address);
    }
}

// An abstract name is free only when nobody has the old socket any more.
#[test]
fn a_pool_that_has_lost_its_listener_stops() {
    let address = Address::unnamed();
    let config = format!("[daemon]\nstop_timeout = \"1h\"\n{}", command(&address, 2));
    let daemon = Daemon::start_example("testsvc", &config);
    daemon.expect(&["worker exited", "respawn throttled", "could not adjust listener"]);
    daemon.wait_for_idle("echo", 2);
    let mut busy = Client::connect(&address);
    busy.send("echo\n");
    busy.ping("in hand");
    ask(&address, "deafen\n");
    daemon.log().wait_for("could not adjust listener", |_| true);
    daemon.signal(Signal::SIGTERM);
    daemon.log().wait_for("stopping", |_| true);
    daemon.wait_until_obeyed();
    busy.ping("still in hand");
    drop(busy);
    daemon.wait_for_code(0);
}

/// A pool of one worker that has lost its listener, and the socket that has its path.
fn without_a_listener() -> (Daemon, Address, UnixListener) {
    let setup = Setup::example("testsvc");
    let path = setup.directory().join("drain.sock");
    let address = Address::unix(&path);
    let daemon = setup.config(&command(&address, 1)).start();
    daemon.expect(&["worker exited", "respawn throttled", "could not adjust listener"]);
    daemon.wait_for_idle("echo", 1);
    let mut client = Client::connect(&address);
    fs::remove_file(&path).expect("take the path away");
    let other = UnixListener::bind(&path).expect("bind the path");
    client.send("deafen\n");
    daemon.log().wait_for("could not adjust listener", |_| true);
    daemon.wait_for_children(0);
    (daemon, address, other)
}

#[test]
fn a_pool_that_has_lost_its_listener_can_move_to_another_address() {
    let (daemon, _, _other) = without_a_listener();
    let address = Address::fresh();
    daemon.reload(&command(&address, 2));
    assert!(ask(&address, "pid\n").ends_with('\n'));
}

// No worker is there that could die, and nobody reloads.
#[test]
fn a_lost_listener_is_regained_when_its_path_is_free() {
    let (daemon, address, other) = without_a_listener();
    daemon.expect(&["listener mended"]);
    drop(other);
    daemon.log().wait_for("listener mended", |event| event.is_of_pool("echo"));
    assert!(ask(&address, "pid\n").ends_with('\n'));
    let told = daemon.log().events();
    let lost = told.iter().filter(|event| event.message() == "could not adjust listener");
    assert_eq!(lost.count(), 1, "each further try is silent");
}
