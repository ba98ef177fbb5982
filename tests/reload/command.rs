//! `preforkd reload`, over the control socket.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

use super::echo;
use super::snapshot::Snapshot;
use super::support::client::assert_serves;
use super::support::command::{Finished, finish, preforkd};
use super::support::{Address, Client, Daemon, Setup, procfs, until};

/// Runs `preforkd reload` for the daemon.
#[track_caller]
fn reload(daemon: &Daemon, further: &[&str]) -> Finished {
    finish(preforkd().arg("-c").arg(daemon.config_path()).arg("reload").args(further))
}

fn control(daemon: &Daemon) -> Address {
    Address::unix(&daemon.directory().join("control.sock"))
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
    let new: Vec<_> = daemon.children().into_iter().filter(|pid| !old.contains(pid)).collect();
    let accept = new.iter().filter(|&&pid| procfs::is_in_accept(pid)).count();
    assert_eq!(accept, 30, "of {new:?}");
    // The log has it by then, and one reload it was.
    assert_eq!(daemon.log().events().iter().filter(|e| e.message() == "reloaded").count(), 1);
    daemon.wait_for_idle("echo", 30);
    assert_eq!(reload(&daemon, &["--result"]), Finished { out: String::new(), ..done("") });
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
// busy meanwhile, with a file that lets it wait, and finds both at once.
#[test]
fn a_signal_that_came_first_is_obeyed_first() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo("echo", &address, 2));
    daemon.wait_for_idle("echo", 2);
    let file = daemon.config_path();
    daemon.rewrite_config(&echo("echo", &address, 3));
    let first = fs::read_to_string(file).expect("the configuration");
    let second = first.replace("workers = 3", "workers = 4");
    fs::remove_file(file).expect("remove the configuration");
    mkfifo(file, Mode::S_IRWXU).expect("make a FIFO");

    daemon.signal(Signal::SIGHUP);
    until("the master opens the file", || {
        (procfs::system_call(daemon.pid())? == libc::SYS_openat).then_some(())
    });
    daemon.signal(Signal::SIGHUP);
    let mut client = Client::connect(&control(&daemon));
    client.send("result\n");
    let mark = daemon.log().mark();
    feed(file, &first);
    daemon.log().wait_since(mark, "reloaded", |_| true);
    feed(file, &second);
    daemon.rewrite_config(&echo("echo", &address, 4));
    assert_eq!(client.rest(), "0 reloaded, generation: 3, resized: echo");
    daemon.wait_for_idle("echo", 4);
}

/// Writes into a FIFO, once somebody reads.
#[track_caller]
fn feed(fifo: &Path, text: &str) {
    let mut options = File::options();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    let mut writer = until("somebody reads the FIFO", || options.open(fifo).ok());
    writer.write_all(text.as_bytes()).expect("write into the FIFO");
}

#[test]
fn the_question_waits_for_the_reload_that_runs() {
    let (address, slow) = (Address::fresh(), Address::fresh());
    let good = echo("echo", &address, 2);
    let daemon = Setup::example("testsvc").config(&good).start();
    let gate = daemon.directory().write("gate", "");
    let service = format!("service.die_at_start.gate = \"{}\"\n", gate.display());
    let service = service + "service.die_at_start.while_exists = \"/nowhere/at/all\"\n";
    let with_slow = format!("{good}[pool.slow]\nlisten = \"{slow}\"\nworkers = 1\n{service}");
    daemon.rewrite_config(&with_slow);
    // One that asks, one that asks for the result, one that hangs up.
    let mut asking = Client::connect(&control(&daemon));
    asking.send("reload\n");
    until("the reload runs", || (daemon.children().len() == 3).then_some(()));
    let mut waiting = Client::connect(&control(&daemon));
    waiting.send("result\n");
    let mut gone = Client::connect(&control(&daemon));
    gone.send("result\n");
    drop(gone);
    // A signal begins another reload: they are told of what is in force then.
    daemon.signal(Signal::SIGHUP);
    fs::remove_file(gate).expect("open the gate");
    let answer = "0 reloaded, generation: 3";
    assert_eq!([asking.rest(), waiting.rest()], [answer, answer]);
    daemon.wait_for_idle("slow", 1);
}

#[test]
fn who_waits_is_told_of_a_stop() {
    let (address, slow) = (Address::fresh(), Address::fresh());
    let good = echo("echo", &address, 1);
    let daemon = Setup::example("testsvc").config(&good).start();
    daemon.wait_for_idle("echo", 1);
    let gate = daemon.directory().write("gate", "");
    let service = format!("service.die_at_start.gate = \"{}\"\n", gate.display());
    daemon
        .rewrite_config(&format!("{good}[pool.slow]\nlisten = \"{slow}\"\nworkers = 1\n{service}"));
    // It finishes what it has in hand, and so the daemon drains.
    let mut busy = Client::connect(&address);
    busy.ping("hello");
    thread::scope(|scope| {
        let asking = scope.spawn(|| reload(&daemon, &[]));
        until("the reload runs", || (daemon.children().len() == 2).then_some(()));
        let mut waiting = Client::connect(&control(&daemon));
        waiting.send("result\n");
        daemon.signal(Signal::SIGTERM);
        let stopping = "could not reload: the daemon is stopping";
        assert_eq!(waiting.rest(), format!("69 {stopping}"));
        let asked = asking.join().expect("the command");
        assert_eq!((asked.code, asked.err), (Some(69), format!("{stopping}\n")));
        let late = reload(&daemon, &[]);
        assert_eq!((late.code, late.err), (Some(69), format!("{stopping}\n")));
    });
    busy.ping("still there");
    drop(busy);
    daemon.wait_for_code(0);
    let told = reload(&daemon, &[]);
    assert_eq!(told.code, Some(69), "{told:?}");
    let control = control(&daemon);
    let expected = format!(
        "could not ask daemon \"{control}\": no such file or directory\n\
         hint: is it running? [daemon].control names its socket\n"
    );
    assert_eq!(told.err, expected);
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
    for words in ["stop\n", "\n", "RELOAD\n", &"x".repeat(100), &"reload".repeat(50)] {
        let mut client = Client::connect(&control(&daemon));
        client.send(words);
        assert_eq!(client.rest(), "64 could not obey: no such command", "{words:?}");
    }
    // In two parts; with a half that is closed; and with more than one line.
    let mut client = Client::connect(&control(&daemon));
    client.send("rel");
    assert_serves(&address);
    client.send("oad\n");
    client.half_close().expect("close one half");
    assert_eq!(client.rest(), "0 reloaded, generation: 3");
    let mut client = Client::connect(&control(&daemon));
    client.send("reload\nreload\n");
    assert_eq!(client.rest(), "0 reloaded, generation: 4");
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
    let address = Address::fresh();
    let daemon = Daemon::start(&echo("echo", &address, 2));
    daemon.wait_for_idle("echo", 2);
    let used = procfs::descriptors(daemon.pid());
    let free = (0..).find(|number| !used.contains_key(number)).expect("a free number");
    let before = procfs::limit(daemon.pid(), None, "nofile", &free.to_string());
    let mut client = Client::connect(&control(&daemon));
    client.send("result\n");
    // It has tried, and sleeps until it tries again.
    let sleeps =
        || procfs::is_in_ppoll(daemon.pid()).then(|| procfs::context_switches(daemon.pid()));
    let asleep = until("the master waits", sleeps);
    until("the master has tried again", || (sleeps()? > asleep).then_some(()));
    assert_eq!(procfs::descriptors(daemon.pid()), used);
    assert_serves(&address);
    procfs::limit(daemon.pid(), None, "nofile", &before);
    assert_eq!(client.rest(), "0 not reloaded since the start");
}

#[test]
fn the_socket_is_for_the_daemon_alone() {
    let address = Address::fresh();
    let config = echo("echo", &address, 2);
    let daemon = Daemon::start(&config);
    let workers = daemon.wait_for_idle("echo", 2);
    let path = daemon.directory().join("control.sock");
    let file = fs::metadata(&path).expect("the socket");
    assert_eq!(file.permissions().mode() & 0o7777, 0o600);
    assert_eq!(file.uid(), geteuid().as_raw());
    // The workers do not have it: when the master is killed, nobody listens.
    let inode = format!("socket:[{}]", listener_inode(&path));
    assert!(procfs::descriptors(daemon.pid()).values().any(|socket| *socket == inode));
    for worker in workers {
        assert!(!procfs::descriptors(worker).values().any(|socket| *socket == inode));
    }
    // A daemon that serves something else is refused it.
    let other = Setup::new().config(&format!(
        "{}[daemon]\ncontrol = \"{}\"\n",
        echo("other", &Address::fresh(), 1),
        path.display()
    ));
    let mut other = other.launch();
    other.expect_anything();
    other.wait_for_code(73);
    assert_eq!(reload(&daemon, &[]).code, Some(0), "the first one listens on");

    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    daemon.wait_for_nothing_left();
    let left = reload(&daemon, &[]);
    assert_eq!(left.code, Some(69));
    assert!(left.err.contains("connection refused"), "{left:?}");
    let next =
        Setup::new().config(&format!("{config}[daemon]\ncontrol = \"{}\"\n", path.display()));
    let next = next.start();
    assert_eq!(reload(&daemon, &[]).code, Some(0), "what was left is replaced");
    next.stop();
    assert!(!path.exists(), "it goes with the daemon");
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
    let message = "could not bind listener \"/nowhere/at/all/control.sock\": its directory: \
                   no such file or directory\n";
    assert_eq!(checked.err, message);
}
