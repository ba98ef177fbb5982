//! What a reload or a start tells of pools that do not work, and how long it waits for
//! them.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use nix::sys::signal::Signal;

use super::echo;
use support::client::assert_serves;
use support::command::{finish, preforkd};
use support::{Address, Daemon, Setup, procfs, until};

/// A pool whose worker does this at its start.
fn at_start(name: &str, options: &str) -> String {
    format!(
        "[pool.{name}]\nlisten = \"{}\"\nworkers = 1\nmin_uptime = \"1h\"\n\
         service.die_at_start = {{ {options} }}\n",
        Address::fresh()
    )
}

/// A pool whose worker does not get past its start while the file is there.
fn behind(gate: &str) -> String {
    at_start("slow", &format!("gate = \"{gate}\", while_exists = \"/nowhere/at/all\""))
}

#[track_caller]
fn reload(daemon: &Daemon) -> support::command::Finished {
    finish(preforkd().arg("-c").arg(daemon.config_path()).arg("reload"))
}

#[test]
fn the_command_tells_what_it_waits_for() {
    let good = echo("echo", &Address::fresh(), 2);
    let daemon = Setup::example("testsvc").config(&good).start();
    let gate = daemon.directory().write("gate", "");
    daemon.rewrite_config(&format!("{good}{}", behind(&gate.display().to_string())));
    let [out, err] = ["out", "err"].map(|name| daemon.directory().join(name));
    let create = |path| Stdio::from(File::create(path).expect("create a file"));
    let mut command = preforkd();
    command.arg("-c").arg(daemon.config_path()).arg("reload");
    let mut child = command.stdout(create(&out)).stderr(create(&err)).spawn().expect("run it");
    let told = "waiting until the new workers of pool \"slow\" accept\n";
    until("the command tells it", || {
        let said = fs::read_to_string(&err).expect("what it said");
        assert!(told.starts_with(&said), "{said}");
        (said == told).then_some(())
    });
    fs::remove_file(gate).expect("open the gate");
    let ended = until("the command ends", || child.try_wait().expect("wait for it"));
    assert_eq!(ended.code(), Some(0));
    let read = |path| fs::read_to_string(path).expect("what it said");
    assert_eq!(read(&out), "reloaded, generation: 2, added: slow\n");
    assert_eq!(read(&err), told);
}

// A reload that is done may leave a pool without a worker: nobody should take that for
// good health.
#[test]
fn a_reload_names_the_pools_that_are_down() {
    let address = Address::fresh();
    let setup = Setup::example("testsvc");
    let fault = setup.directory().join("fault");
    let bad = at_start("bad", "code = 3");
    let weak = at_start("weak", &format!("code = 4, while_exists = \"{}\"", fault.display()));
    let config = |workers| format!("{}{bad}{weak}", echo("echo", &address, workers));
    let daemon = setup.config(&config(2)).start();
    daemon.expect(&["worker exited", "worker killed", "respawn throttled", "pool down"]);
    daemon.rewrite_config(&config(3));
    let warned = reload(&daemon);
    let bad = "warning: could not start pool \"bad\": its worker exited with code 3\n";
    let expected = format!("reloaded, generation: 2, resized: echo\n{bad}");
    assert_eq!((warned.code, warned.out), (Some(0), expected));
    let event = daemon.log().wait_for("pool down", |event| event.is_of_pool("bad"));
    assert_eq!(event.level(), "warning", "{event}");
    assert_eq!(event.text("reason"), Some("its worker exited with code 3"), "{event}");

    // One whose workers have accepted before.
    let worker = daemon.workers("weak")[0];
    fs::write(&fault, "").expect("create the fault");
    procfs::send(worker, Signal::SIGKILL);
    daemon.log().wait_for("respawn throttled", |event| event.is_of_pool("weak"));
    daemon.rewrite_config(&config(2));
    let warned = reload(&daemon);
    let weak = "warning: pool \"weak\" is down: its worker exited with code 4\n";
    let expected = format!("reloaded, generation: 3, resized: echo\n{bad}{weak}");
    assert_eq!((warned.code, warned.out), (Some(0), expected));
    assert_serves(&address);
    // It recovers by itself, and then is not down any more.
    fs::remove_file(&fault).expect("remove the fault");
    until("a worker of the pool lives", || (!daemon.workers("weak").is_empty()).then_some(()));
    daemon.wait_for_idle("weak", 1);
    daemon.rewrite_config(&config(3));
    let warned = reload(&daemon);
    assert_eq!(warned.out, format!("reloaded, generation: 4, resized: echo\n{bad}"));
}

#[test]
fn a_worker_that_does_not_start_in_time_fails_the_reload() {
    let address = Address::fresh();
    let good = echo("echo", &address, 2);
    let daemon = Setup::example("testsvc").config(&good).start();
    daemon.expect(&["worker killed", "respawn throttled", "reload failed"]);
    let old = daemon.wait_for_idle("echo", 2);
    let gate = daemon.directory().write("gate", "");
    let slow = behind(&gate.display().to_string());
    let slow = slow.replace("workers", "start_timeout = \"300ms\"\nworkers");
    daemon.rewrite_config(&format!("{good}{slow}"));
    let told = reload(&daemon);
    assert_eq!(told.code, Some(69), "{told:?}");
    let reason = "could not start pool \"slow\": its worker was killed by SIGKILL: it did not accept \
                  within start_timeout\n";
    assert_eq!(told.err, reason);
    let death = daemon.log().wait_for("worker killed", |event| event.is_of_pool("slow"));
    assert_eq!((death.level(), death.text("cause")), ("warning", Some("timed out")), "{death}");
    assert_eq!(daemon.wait_for_idle("echo", 2), old);
    assert_serves(&address);
}

// A service manager waits until every pool accepts. Nobody else does: for them the daemon
// serves on with the pools that it has.
#[test]
fn a_start_that_somebody_waits_for_ends_after_start_timeout() {
    let address = Address::fresh();
    let config = |address: &Address| {
        let bad = at_start("bad", "code = 3");
        let bad = bad.replace("workers", "start_timeout = \"500ms\"\nworkers");
        format!("{}{bad}", echo("echo", address, 2))
    };
    let setup = Setup::example("testsvc");
    let path = setup.directory().join("notify");
    let _manager = UnixDatagram::bind(&path).expect("the socket of a manager");
    let variable = path.display().to_string();
    let daemon = setup.config(&config(&address)).variable("NOTIFY_SOCKET", &variable).start();
    let reason = "could not start pool \"bad\": its worker exited with code 3";
    // At its end the command says the reason once more, as a line by itself.
    daemon.expect(&["worker exited", "respawn throttled", "could not start", ""]);
    assert_serves(&address);
    daemon.wait_for_code(69);
    let told = daemon.log().wait_for("could not start", |_| true);
    assert_eq!(told.text("reason"), Some(reason), "{told}");
    assert_eq!(daemon.log().wait_for("stopped", |_| true).text("cause"), Some("start_timeout"));

    // The manager keeps the listeners of that one.
    let address = Address::fresh();
    let daemon = Setup::example("testsvc").config(&config(&address)).start();
    daemon.expect(&["worker exited", "respawn throttled"]);
    // Two more deaths take longer than it.
    let deaths = |event: &support::Event| event.number("deaths").is_some_and(|deaths| deaths >= 5);
    daemon.log().wait_for("respawn throttled", deaths);
    assert_serves(&address);
}
