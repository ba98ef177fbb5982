//! Reloads that add, remove, move and rename pools.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::signal::Signal;

use super::echo;
use super::snapshot::Snapshot;
use support::client::{ask, assert_refuses, assert_serves};
use support::{Address, Client, Daemon, Setup, procfs, until};

#[test]
fn a_pool_is_added_and_removed_and_the_rest_is_not_touched() {
    let (stays, comes) = (Address::fresh(), Address::fresh());
    let alone = echo("stays", &stays, 3);
    let daemon = Daemon::start(&alone);
    let pids = daemon.wait_for_idle("stays", 3);
    let socket = procfs::listener(stays.tcp());
    let before = Snapshot::of(&daemon);
    assert_refuses(&comes);

    daemon.reload(&(alone.clone() + &echo("comes", &comes, 2)));
    assert_serves(&comes);
    daemon.wait_for_idle("comes", 2);
    assert_eq!(daemon.wait_for_idle("stays", 3), pids);

    daemon.reload(&alone);
    daemon.wait_for_children(3);
    assert_refuses(&comes);
    assert_eq!(Snapshot::of(&daemon), before);
    assert_eq!(procfs::listener(stays.tcp()), socket);
}

#[test]
fn a_pool_on_a_unix_socket_takes_its_socket_with_it() {
    let stays = Address::fresh();
    let alone = echo("stays", &stays, 1);
    let daemon = Daemon::start(&alone);
    let path = daemon.directory().join("comes.sock");
    let comes = Address::unix(&path);
    daemon.reload(&(alone.clone() + &echo("comes", &comes, 2)));
    assert_serves(&comes);
    daemon.reload(&alone);
    daemon.wait_for_children(1);
    assert!(!path.exists());
    assert_refuses(&comes);
    daemon.reload(&(alone.clone() + &echo("comes", &comes, 1)));
    assert_serves(&comes);
}

// Nobody can connect to a socket without its file.
#[test]
fn a_unix_socket_whose_file_is_gone_is_bound_anew() {
    let stays = Address::fresh();
    let setup = Setup::new();
    let path = setup.directory().join("echo.sock");
    let address = Address::unix(&path);
    let config = echo("stays", &stays, 1) + &echo("socket", &address, 2);
    let daemon = setup.config(&config).start();
    let pids = daemon.wait_for_idle("stays", 1);
    let mut in_hand = Client::connect(&address);
    in_hand.ping("before");

    fs::remove_file(&path).expect("remove the file");
    assert_eq!(daemon.reload(&config).text("renewed"), Some("socket"));
    assert_serves(&address);
    in_hand.ping("and after");
    in_hand.half_close().expect("close one half");
    assert_eq!(in_hand.rest(), "");
    daemon.wait_for_children(3);
    assert!(path.exists(), "the old listener has taken the new file with it");
    let workers = daemon.wait_for_idle("socket", 2);
    assert_eq!(daemon.reload(&config).text("renewed"), None);
    assert_eq!(daemon.wait_for_idle("socket", 2), workers);

    // Somebody else's is not harmed, and stops the reload.
    fs::remove_file(&path).expect("remove the file");
    let other = UnixListener::bind(&path).expect("take the name");
    let event = daemon.fail_to_reload();
    let reason = format!("could not bind listener \"{address}\": address already in use");
    assert!(event.text("reason").is_some_and(|text| text.contains(&reason)), "{event}");
    assert_eq!(daemon.wait_for_idle("socket", 2), workers);
    drop(other);
    assert_eq!(daemon.reload(&config).text("renewed"), Some("socket"));
    assert_serves(&address);
    assert_eq!(daemon.wait_for_idle("stays", 1), pids);
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!path.exists());
}

// Until the new workers accept, it can be taken back.
#[test]
fn a_socket_that_was_bound_anew_in_vain_leaves_no_file() {
    let (stays, setup) = (Address::fresh(), Setup::example("testsvc"));
    let path = setup.directory().join("command.sock");
    let broken = setup.directory().join("broken");
    let config = format!(
        "{}[pool.socket]\nlisten = \"{}\"\nworkers = 1\nservice.die_at_start = \
         {{ while_exists = \"{}\", code = 3 }}\n",
        echo("stays", &stays, 1),
        path.display(),
        broken.display()
    );
    let daemon = setup.config(&config).start();
    let pids = daemon.wait_for_idle("socket", 1);
    fs::remove_file(&path).expect("remove the file");
    fs::write(&broken, "").expect("break the service");
    daemon.expect(&["worker exited", "respawn throttled"]);
    daemon.fail_to_reload();
    assert!(!path.exists());
    daemon.wait_for_children(2);
    assert_eq!(daemon.wait_for_idle("socket", 1), pids);
    fs::remove_file(&broken).expect("mend the service");
    daemon.reload(&config);
    assert!(ask(&Address::unix(&path), "pid\n").trim().parse::<i32>().is_ok());
}

#[test]
fn a_pool_is_moved_and_the_rest_is_not_touched() {
    let (stays, from, to) = (Address::fresh(), Address::fresh(), Address::fresh());
    let config = |address: &Address| echo("stays", &stays, 2) + &echo("moves", address, 2);
    let daemon = Daemon::start(&config(&from));
    let pids = daemon.wait_for_idle("stays", 2);
    let mut in_hand = Client::connect(&from);
    in_hand.ping("at the old address");
    for (old, new) in [(&from, &to), (&to, &from), (&from, &to)] {
        daemon.reload(&config(new));
        assert_serves(new);
        // Its last worker is still busy with a connection, but takes no other.
        until("the old address refuses", || Client::try_connect(old).is_err().then_some(()));
        assert_eq!(daemon.wait_for_idle("stays", 2), pids);
        in_hand.ping("and still");
    }
    in_hand.half_close().expect("close one half");
    assert_eq!(in_hand.rest(), "");
    daemon.wait_for_children(4);
}

#[test]
fn a_pool_that_is_moved_can_be_moved_back_before_its_old_workers_have_left() {
    let (stays, one, two) = (Address::fresh(), Address::fresh(), Address::fresh());
    let config = |address: &Address| echo("stays", &stays, 1) + &echo("moves", address, 1);
    let daemon = Daemon::start(&config(&one));
    daemon.expect(&["worker stopped"]);
    let slow = daemon.wait_for_idle("moves", 1)[0];
    procfs::send(slow, Signal::SIGSTOP);
    let is_held = || procfs::Process::of(slow).is_some_and(|process| process.state == 'T');
    until("the worker is held", || is_held().then_some(()));
    daemon.reload(&config(&two));
    // The old worker has not let go of the listener yet. Somebody else's would
    // be a reason to fail.
    daemon.reload(&config(&one));
    procfs::send(slow, Signal::SIGCONT);
    daemon.wait_for_children(2);
    assert_serves(&one);
    assert_refuses(&two);
}

#[test]
fn two_pools_that_swap_their_addresses_keep_the_listeners() {
    let (one, two) = (Address::fresh(), Address::fresh());
    let config = |echoes: &Address, commands: &Address| {
        let commands = format!(
            "[pool.commands]\nlisten = \"{commands}\"\nworkers = 2\nservice = \"command\"\n"
        );
        echo("echoes", echoes, 2) + &commands
    };
    let daemon = Daemon::start_example("testsvc", &config(&one, &two));
    let sockets = [procfs::listener(one.tcp()), procfs::listener(two.tcp())];
    assert!(sockets.iter().all(Option::is_some));
    daemon.reload(&config(&two, &one));
    daemon.wait_for_children(4);
    assert_serves(&two);
    assert!(ask(&one, "pid\n").trim().parse::<i32>().is_ok());
    assert_eq!([procfs::listener(one.tcp()), procfs::listener(two.tcp())], sockets);
}

#[test]
fn a_pool_that_is_renamed_keeps_the_listener() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo("before", &address, 2));
    let socket = procfs::listener(address.tcp());
    daemon.reload(&echo("after", &address, 2));
    daemon.wait_for_idle("after", 2);
    daemon.wait_for_children(2);
    assert_eq!(procfs::listener(address.tcp()), socket);
    assert_serves(&address);
}

#[test]
fn a_reload_that_is_undone_leaves_the_mode_of_a_socket_that_changed_hands() {
    let setup = Setup::example("testsvc");
    let paths = ["held.sock", "other.sock"].map(|name| setup.directory().join(name));
    let pool = |name, path: &Path, mode| {
        let path = path.display();
        format!(
            "[pool.{name}]\nlisten = {{ address = \"{path}\", mode = \"{mode}\" }}\n\
             workers = 1\nservice = \"echo\"\n"
        )
    };
    let mode = |path: &Path| path.metadata().map(|file| file.mode() & 0o777).ok();
    let daemon = setup.config(&pool("a", &paths[0], "0600")).start();
    daemon.expect(&["worker exited", "respawn throttled", "reload failed"]);
    assert_eq!(mode(&paths[0]), Some(0o600));
    let bad = format!(
        "[pool.bad]\nlisten = \"{}\"\nworkers = 1\nservice.die_at_start.code = 3\n",
        Address::fresh()
    );
    daemon.rewrite_config(&(pool("a", &paths[1], "0600") + &pool("c", &paths[0], "0666") + &bad));
    daemon.signal(Signal::SIGHUP);
    daemon.log().wait_for("reload failed", |_| true);
    assert_eq!(mode(&paths[0]), Some(0o600));
    assert_eq!(mode(&paths[1]), None);
    assert_serves(&Address::unix(&paths[0]));
}
