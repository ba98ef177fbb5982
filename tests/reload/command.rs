//! `preforkd reload`, over the control socket.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use super::echo;
use super::snapshot::Snapshot;
use support::client::assert_serves;
use support::command::{Finished, finish, preforkd};
use support::{Address, Client, Daemon, Setup, is_root, procfs, provided, until};

/// Runs `preforkd reload` for the daemon.
#[track_caller]
fn reload(daemon: &Daemon, further: &[&str]) -> Finished {
    finish(preforkd().arg("-c").arg(daemon.config_path()).arg("reload").args(further))
}

fn control(daemon: &Daemon) -> Address {
    Address::unix(&daemon.directory().join("control.sock"))
}

/// Somebody who says this on the control socket, as `preforkd reload` would.
#[track_caller]
fn ask(daemon: &Daemon, word: &str) -> Client {
    let mut client = Client::connect(&control(daemon));
    let file = fs::canonicalize(daemon.config_path()).expect("the configuration");
    client.send(&format!("{word} {}\n", file.display()));
    client
}

fn done(text: &str) -> Finished {
    Finished { code: Some(0), out: format!("{text}\n"), err: String::new() }
}

#[test]
fn it_returns_when_the_new_generation_accepts() {
    let address = Address::fresh();
    let config = echo("echo", &address, 30);
    let daemon = Daemon::start(&config);
    let old = daemon.wait_for_idle("echo", 30);
    daemon.rewrite_config(&format!("{config}env.NEW = \"1\"\n"));
    assert_eq!(reload(&daemon, &[]), done("reloaded, generation: 2, renewed: echo"));
    // No waiting here: they accept by now. The old ones are on their way.
    let workers = procfs::all_children(daemon.pid()).into_iter();
    let new = workers.filter(|pid| !old.contains(pid) && procfs::is_settled(*pid));
    assert_eq!(new.count(), 30);
    daemon.wait_for_idle("echo", 30);
    assert_eq!(reload(&daemon, &["--result"]), Finished { out: String::new(), ..done("") });
    daemon.stop();
    assert_eq!(daemon.log().events().iter().filter(|e| e.message() == "reloaded").count(), 1);
}

#[test]
fn it_fails_with_the_reason_and_its_exit_code() {
    let address = Address::fresh();
    let good = echo("echo", &address, 2);
    let daemon = Setup::example("testsvc").config(&good).start();
    daemon.expect(&["reload failed", "worker exited", "respawn throttled"]);
    daemon.wait_for_idle("echo", 2);
    let before = Snapshot::of(&daemon);
    let taken = TcpListener::bind("127.0.0.1:0").expect("take an address");
    let taken = taken.local_addr().expect("its address");
    let bad = |rest: &str| format!("{good}[pool.bad]\nworkers = 1\n{rest}\n");
    let free = Address::fresh();
    for (config, code, reason) in [
        (format!("{good}wokers = 3\n"), 78, "did you mean \"workers\"?".to_owned()),
        (format!("{good}[pool.bad\n"), 78, "preforkd.toml:".to_owned()),
        (
            bad(&format!("listen = \"{taken}\"\nservice = \"echo\"")),
            73,
            format!("could not bind listener \"{taken}\": "),
        ),
        (
            bad(&format!("listen = \"{free}\"\nservice.die_at_start.code = 3")),
            69,
            "could not start pool \"bad\": its worker exited with code 3".to_owned(),
        ),
    ] {
        daemon.rewrite_config(&config);
        let ended = reload(&daemon, &[]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "{ended:?}");
        assert!(ended.err.contains(&reason), "{ended:?}");
        // And so says whoever comes later.
        assert_eq!(reload(&daemon, &["--result"]), ended);
        until("nothing has changed", || (Snapshot::of(&daemon) == before).then_some(()));
        assert_serves(&address);
    }
    daemon.rewrite_config(&good);
    assert_eq!(reload(&daemon, &[]).code, Some(0));
    assert_eq!(Snapshot::of(&daemon), before);
}

// As `systemctl reload` does it: the signal, and then the question. The master is
// held meanwhile, and finds both at once.
#[test]
fn a_signal_that_came_first_is_obeyed_first() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo("echo", &address, 2));
    daemon.wait_for_idle("echo", 2);
    assert!(daemon.reload(&echo("echo", &address, 3)).text("resized").is_some());
    daemon.rewrite_config(&echo("echo", &address, 4));

    daemon.signal(Signal::SIGSTOP);
    until("the master is held", || {
        procfs::status(daemon.pid(), "State")?.starts_with('T').then_some(())
    });
    daemon.signal(Signal::SIGHUP);
    let mut client = ask(&daemon, "result");
    daemon.signal(Signal::SIGCONT);
    assert_eq!(client.rest(), "0 reloaded, generation: 3, resized: echo");
    daemon.wait_for_idle("echo", 4);
}

#[test]
fn the_question_waits_for_the_reload_that_runs() {
    let good = echo("echo", &Address::fresh(), 2);
    let daemon = Setup::example("testsvc").config(&good).start();
    let (slow, gate) = with_slow(&daemon, &good);
    daemon.rewrite_config(&slow);
    // One that asks, one that asks for the result, one that hangs up.
    let mut asking = ask(&daemon, "reload");
    wait_until_tried(&daemon);
    let mut waiting = ask(&daemon, "result");
    drop(ask(&daemon, "result"));
    // A signal begins another reload: they are told of what is in force then.
    reload_by_signal(&daemon);
    fs::remove_file(gate).expect("open the gate");
    // It wants the same, so it joins.
    let answer = "0 reloaded, generation: 2, added: slow";
    assert_eq!([asking.rest(), waiting.rest()], [answer, answer]);
    daemon.wait_for_idle("slow", 1);
}

/// Sends SIGHUP, and waits until it is obeyed.
#[track_caller]
fn reload_by_signal(daemon: &Daemon) {
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until_obeyed();
}

#[test]
fn what_reloads_change_that_take_each_others_place_is_told_together() {
    let good = echo("echo", &Address::fresh(), 2);
    let daemon = Setup::example("testsvc").config(&good).start();
    let (slow, gate) = with_slow(&daemon, &good);
    let more = slow.clone() + &echo("more", &Address::fresh(), 1);
    for config in [&more, &slow, &more] {
        daemon.rewrite_config(config);
        reload_by_signal(&daemon);
    }
    let mut waiting = ask(&daemon, "result");
    fs::remove_file(gate).expect("open the gate");
    assert_eq!(waiting.rest(), "0 reloaded, generation: 4, added: more slow");
}

/// A configuration with a pool that starts when the file is removed which it gives.
fn with_slow(daemon: &Daemon, good: &str) -> (String, PathBuf) {
    let gate = daemon.directory().write("gate", "");
    let config = format!(
        "{good}[pool.slow]\nlisten = \"{}\"\nworkers = 1\n[pool.slow.service.die_at_start]\n\
         gate = \"{}\"\nwhile_exists = \"/nowhere/at/all\"\n",
        Address::fresh(),
        gate.display()
    );
    (config, gate)
}

/// Waits until the reload has been read, and its pool `slow` is tried.
#[track_caller]
fn wait_until_tried(daemon: &Daemon) {
    daemon.log().wait_for("worker started", |event| event.is_of_pool("slow"));
}

// Each is told of its own reload, and not of one that runs meanwhile.
#[test]
fn a_reload_that_is_refused_says_so_while_another_runs() {
    let good = echo("echo", &Address::fresh(), 2);
    let daemon = Setup::example("testsvc").config(&good).start();
    daemon.expect(&["reload failed"]);
    daemon.wait_for_idle("echo", 2);
    let (slow, gate) = with_slow(&daemon, &good);
    daemon.rewrite_config(&slow);
    let mut first = ask(&daemon, "reload");
    wait_until_tried(&daemon);
    daemon.rewrite_config(&format!("{good}wokers = 3\n"));
    let refused = reload(&daemon, &[]);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.err.contains("wokers"), "{refused:?}");
    assert_eq!(reload(&daemon, &["--result"]), refused);
    daemon.signal(Signal::SIGHUP);
    assert_eq!(reload(&daemon, &["--result"]), refused);
    fs::remove_file(gate).expect("open the gate");
    assert_eq!(first.rest(), "0 reloaded, generation: 2, added: slow");
    assert_eq!(reload(&daemon, &["--result"]), refused, "the last one was that");
}

// The process that reads for the first one gives way to that of the second.
#[test]
fn a_reload_that_gives_way_while_it_is_read_ends_as_its_successor() {
    let good = echo("echo", &Address::fresh(), 2);
    let daemon = Setup::example("testsvc").config(&good).start();
    daemon.expect(&["reload failed"]);
    daemon.rewrite_config(&format!(
        "{good}[pool.stuck]\nlisten = \"{}\"\nservice.stuck.how = \"hang\"\n",
        Address::fresh()
    ));
    let mut first = ask(&daemon, "reload");
    until("a process reads the configuration", || {
        let children = procfs::children(daemon.pid());
        children.iter().any(|child| child.name == "preforkd-reload").then_some(())
    });
    let mut waiting = ask(&daemon, "result");
    daemon.rewrite_config(&format!("{good}wokers = 3\n"));
    let refused = reload(&daemon, &[]);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    for client in [&mut first, &mut waiting] {
        let answer = client.rest();
        assert!(answer.starts_with("78 ") && answer.contains("wokers"), "{answer}");
    }
}

// The old workers begin to accept while the new ones are on trial: that they do
// counts when they are what remains.
#[test]
fn a_start_is_over_after_a_reload_that_was_undone() {
    let setup = Setup::example("testsvc");
    let gates = ["old", "new"].map(|name| setup.directory().write(name, ""));
    let address = Address::fresh();
    let pool = |gate: &Path, rest: &str| {
        format!(
            "[pool.slow]\nlisten = \"{address}\"\nworkers = 2\n[pool.slow.service.die_at_start]\n\
             gate = \"{}\"\n{rest}\n",
            gate.display()
        )
    };
    let never = "while_exists = \"/nowhere/at/all\"";
    let daemon = setup.config(&pool(&gates[0], never)).launch();
    daemon.expect(&["worker exited", "respawn throttled", "reload failed"]);
    daemon
        .log()
        .wait_count(daemon.log().start(), 2, "workers", |e| e.message() == "worker started");
    daemon.rewrite_config(&pool(&gates[1], "code = 3"));
    let mut asking = ask(&daemon, "reload");
    until("the new ones are on trial", || (daemon.children().len() == 4).then_some(()));
    let [old, new] = gates;
    fs::remove_file(old).expect("open the gate");
    until("the old ones accept", || {
        (daemon.children().into_iter().filter(|&pid| procfs::is_in_accept(pid)).count() == 2)
            .then_some(())
    });
    until("the master knows", || procfs::is_in_ppoll(daemon.pid()).then_some(()));
    fs::remove_file(new).expect("open the gate");
    assert!(asking.rest().starts_with("69 could not start pool \"slow\": "));
    daemon.log().wait_for("ready", |_| true);
    let mut client = Client::connect(&address);
    client.send("pid\n");
    assert_ne!(client.rest(), "");
}

#[test]
fn there_is_room_for_few_who_wait() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    let good = echo("echo", &Address::fresh(), 2);
    let daemon = Setup::example("testsvc").config(&good).start();
    daemon.wait_for_idle("echo", 2);
    let (slow, gate) = with_slow(&daemon, &good);
    daemon.rewrite_config(&slow);
    let mut first = ask(&daemon, "reload");
    wait_until_tried(&daemon);
    let used = procfs::descriptors(daemon.pid()).len();
    let mut clients: Vec<_> = (0..100).map(|_| ask(&daemon, "result")).collect();
    // It takes in what it has room for, and then sleeps.
    until("the master has taken some in", || {
        (procfs::descriptors(daemon.pid()).len() >= used + 15).then_some(())
    });
    until("the master waits", || procfs::is_in_ppoll(daemon.pid()).then_some(()));
    assert_eq!(procfs::descriptors(daemon.pid()).len(), used + 15);
    fs::remove_file(gate).expect("open the gate");
    // The others had to wait, and are answered in their turn.
    let answer = "0 reloaded, generation: 2, added: slow";
    assert_eq!(first.rest(), answer);
    clients.iter_mut().for_each(|client| assert_eq!(client.rest(), answer));
}

#[test]
fn a_daemon_answers_for_its_own_configuration() {
    let daemon = Daemon::start(&echo("echo", &Address::fresh(), 2));
    let text = fs::read_to_string(daemon.config_path()).expect("the configuration");
    let other = daemon.directory().write("other.toml", &text);
    let asked = finish(preforkd().arg("-c").arg(&other).arg("reload"));
    assert_eq!(asked.code, Some(69), "{asked:?}");
    assert!(asked.err.contains("other.toml\": the daemon runs with "), "{asked:?}");
    assert!(asked.err.contains("\nhint: each daemon needs a [daemon].control"), "{asked:?}");
    // The same file by another name is its own.
    let link = daemon.directory().join("link.toml");
    symlink(daemon.config_path(), &link).expect("make a link");
    let asked = finish(preforkd().arg("-c").arg(&link).arg("reload"));
    assert_eq!(asked, done("reloaded, generation: 2, unchanged: everything"));
}

#[test]
fn who_waits_is_told_of_a_stop() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    let address = Address::fresh();
    let good = echo("echo", &address, 1);
    let daemon = Setup::example("testsvc").config(&good).start();
    daemon.wait_for_idle("echo", 1);
    daemon.rewrite_config(&with_slow(&daemon, &good).0);
    // It finishes what it has in hand, and so the daemon drains.
    let mut busy = Client::connect(&address);
    busy.ping("hello");
    thread::scope(|scope| {
        let asking = scope.spawn(|| reload(&daemon, &[]));
        wait_until_tried(&daemon);
        let connected = procfs::descriptors(daemon.pid()).len();
        let mut waiting = ask(&daemon, "result");
        until("both are heard", || {
            let heard = procfs::descriptors(daemon.pid()).len() > connected;
            (heard && procfs::is_in_ppoll(daemon.pid())).then_some(())
        });
        daemon.signal(Signal::SIGTERM);
        let stopping = "could not reload: the daemon is stopping";
        assert_eq!(waiting.rest(), format!("69 {stopping}"));
        let asked = asking.join().expect("the command");
        assert_eq!((asked.code, asked.err), (Some(69), format!("{stopping}\n")));
    });
    // It has let go of the socket: nobody is there, and a successor may start.
    let late = reload(&daemon, &[]);
    assert!(late.code == Some(69) && late.err.contains("is the daemon running?"), "{late:?}");
    drop(Setup::new().config(&with_the_same_socket(&daemon)).start());
    busy.ping("still there");
    drop(busy);
    daemon.wait_for_code(0);
    let told = reload(&daemon, &[]);
    assert_eq!(told.code, Some(69), "{told:?}");
    let control = control(&daemon);
    let expected = format!(
        "could not ask control socket \"{control}\": no such file or directory\n\
         hint: is the daemon running? [daemon].control names its socket, \
         and must be what it was when the daemon was started\n"
    );
    assert_eq!(told.err, expected);
    fs::remove_file(daemon.config_path()).expect("remove the configuration");
    let told = reload(&daemon, &[]);
    assert_eq!(told.code, Some(66), "{told:?}");
    assert!(told.err.starts_with("could not read configuration "), "{told:?}");
}

#[test]
fn strange_clients_disturb_nobody() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo("echo", &address, 2));
    daemon.wait_for_idle("echo", 2);
    let before = procfs::descriptors(daemon.pid());
    // More than it keeps, all silent; the newest ones have their say.
    let silent: Vec<_> = (0..100).map(|_| Client::connect(&control(&daemon))).collect();
    assert_eq!(reload(&daemon, &[]).code, Some(0));
    for words in ["stop\n", "\n", "RELOAD\n", "reload\n", &"x".repeat(4104), "reload /other\n"] {
        let mut client = Client::connect(&control(&daemon));
        client.send(words);
        let answer = client.rest();
        let refused = answer.starts_with("64 could not obey command \"")
            || answer.starts_with("69 could not reload configuration \"/other\": ");
        assert!(refused, "{words:?}: {answer}");
    }
    // In two parts; with a half that is closed; and with more than one line.
    let file = fs::canonicalize(daemon.config_path()).expect("the configuration");
    let mut client = Client::connect(&control(&daemon));
    client.send("rel");
    assert_serves(&address);
    client.send(&format!("oad {}\n", file.display()));
    client.half_close().expect("close one half");
    assert_eq!(client.rest(), "0 reloaded, generation: 3, unchanged: everything");
    let mut client = Client::connect(&control(&daemon));
    client.send(&format!("reload {}\nreload\n", file.display()));
    assert_eq!(client.rest(), "0 reloaded, generation: 4, unchanged: everything");
    drop(silent);
    until("they are forgotten", || (procfs::descriptors(daemon.pid()) == before).then_some(()));
    // Nothing keeps it awake.
    until("the master waits", || procfs::is_in_ppoll(daemon.pid()).then_some(()));
    let switches = procfs::context_switches(daemon.pid());
    assert_serves(&address);
    assert_eq!(procfs::context_switches(daemon.pid()), switches);
}

#[test]
fn without_descriptors_it_waits_for_some() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    let address = Address::fresh();
    let daemon = Daemon::start(&echo("echo", &address, 2));
    daemon.wait_for_idle("echo", 2);
    let switches = || {
        let sleeps = procfs::is_in_ppoll(daemon.pid());
        sleeps.then(|| procfs::context_switches(daemon.pid())).flatten()
    };
    let asleep = until("the master waits", switches);
    let used = procfs::descriptors(daemon.pid());
    let free = (0..).find(|number| !used.contains_key(number)).expect("a free number");
    let before = procfs::limit(daemon.pid(), None, "nofile", &free.to_string());
    let mut client = ask(&daemon, "result");
    let tried = until("the master has tried", || switches().filter(|&now| now > asleep));
    until("the master has tried again", || switches().filter(|&now| now > tried));
    assert_eq!(procfs::descriptors(daemon.pid()), used);
    assert_serves(&address);
    procfs::limit(daemon.pid(), None, "nofile", &before);
    assert_eq!(client.rest(), "0 not reloaded since the start");
}

#[test]
fn only_the_master_has_the_socket() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    let daemon = Daemon::start(&echo("echo", &Address::fresh(), 2));
    let workers = daemon.wait_for_idle("echo", 2);
    let path = daemon.directory().join("control.sock");
    let file = fs::metadata(&path).expect("the socket");
    assert_eq!(file.permissions().mode() & 0o7777, 0o600);
    assert_eq!(file.uid(), geteuid().as_raw());
    let inode = format!("socket:[{}]", listener_inode(&path));
    let has = |pid: i32| procfs::descriptors(pid).values().any(|socket| *socket == inode);
    assert!(has(daemon.pid()));
    assert!(!workers.into_iter().any(has));
}

/// The configuration of another daemon with the control socket of this one.
fn with_the_same_socket(daemon: &Daemon) -> String {
    let pool = echo("other", &Address::fresh(), 1);
    format!("{pool}[daemon]\ncontrol = \"{}\"\n", control(daemon))
}

#[test]
fn a_socket_in_use_is_refused() {
    let daemon = Daemon::start(&echo("echo", &Address::fresh(), 2));
    let mut other = Setup::new().config(&with_the_same_socket(&daemon)).launch();
    other.expect_anything();
    other.wait_for_code(73);
    assert_eq!(reload(&daemon, &[]).code, Some(0), "the first one listens on");
}

#[test]
fn a_socket_that_was_left_is_replaced_and_goes_with_its_daemon() {
    let daemon = Daemon::start(&echo("echo", &Address::fresh(), 2));
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    daemon.wait_for_nothing_left();
    let left = reload(&daemon, &[]);
    assert_eq!(left.code, Some(69));
    assert!(left.err.contains("connection refused"), "{left:?}");
    let next = Setup::new().config(&with_the_same_socket(&daemon)).start();
    assert_eq!(reload(&next, &[]).code, Some(0));
    next.stop();
    assert!(!daemon.directory().join("control.sock").exists());
}

/// The inode of the socket that listens at this path.
#[track_caller]
fn listener_inode(path: &Path) -> String {
    let sockets = fs::read_to_string("/proc/net/unix").expect("the sockets");
    let line = sockets.lines().find(|line| line.ends_with(&path.display().to_string()));
    let inode = line.and_then(|line| line.split_whitespace().nth(6));
    inode.expect("the socket").to_owned()
}

#[test]
fn it_stays_where_it_is() {
    let address = Address::fresh();
    let config = echo("echo", &address, 2);
    let daemon = Daemon::start(&config);
    daemon.wait_for_idle("echo", 2);
    let before = Snapshot::of(&daemon);
    let elsewhere = daemon.directory().join("elsewhere.sock");
    let moved = format!("{config}[daemon]\ncontrol = \"{}\"\n", elsewhere.display());
    daemon.rewrite_config(&moved);
    let event = daemon.fail_to_reload();
    let reason = event.text("reason").unwrap_or_default();
    assert!(reason.starts_with("could not move control socket "), "{event}");
    assert_eq!(Snapshot::of(&daemon), before);
    let asked = reload(&daemon, &[]);
    assert!(asked.err.contains("elsewhere.sock"), "{asked:?}");
    daemon.rewrite_config(&config);
    assert_eq!(reload(&daemon, &[]).code, Some(0));
}

#[test]
fn a_socket_that_cannot_be_is_refused() {
    let config = format!(
        "{}[daemon]\ncontrol = \"/nowhere/at/all/control.sock\"\n",
        echo("echo", &Address::fresh(), 1)
    );
    let mut daemon = Setup::new().config(&config).launch();
    daemon.expect_anything();
    daemon.wait_for_code(73);
    let checked = finish(preforkd().arg("-c").arg(daemon.config_path()).arg("check"));
    assert_eq!(checked.code, Some(73), "{checked:?}");
    let message = "could not bind control socket \"/nowhere/at/all/control.sock\": its \
                   directory: no such file or directory\nhint: see [daemon].control\n";
    assert_eq!(checked.err, message);
}
