//! `per_source`, `rate` and `refusal`: no client takes what is there for all.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn6};

use super::{assert_no_worker_ended, command, echo, shell};
use support::{Address, Client, Daemon, Event, PATIENCE, Setup, procfs, provided, until};

/// A client from the source `host` of this address's own network.
#[track_caller]
fn from(address: &Address, host: usize) -> Client {
    let source = address.source(host).expect("a source");
    Client::try_connect_from(source, address).expect("connect")
}

/// The client, if an echo service holds its connection; none if it was turned away.
#[track_caller]
fn held(mut client: Client) -> Option<Client> {
    // Whoever is turned away may see its write fail.
    let _ = client.write_all(b"hello");
    let mut reply = [0; 5];
    match client.read_exact(&mut reply) {
        Ok(()) => {
            assert_eq!(&reply, b"hello");
            Some(client)
        }
        Err(error) => {
            let kinds =
                [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "{error}");
            None
        }
    }
}

/// Connects from `host`, and gives the client if it is served.
#[track_caller]
fn try_hold(address: &Address, host: usize) -> Option<Client> {
    held(from(address, host))
}

#[track_caller]
fn hold(address: &Address, host: usize) -> Client {
    try_hold(address, host).expect("the client is served")
}

fn is_refusal(event: &Event) -> bool {
    event.message() == "client refused"
}

/// Whether anything has come for this client.
fn has_reply(client: &Client) -> bool {
    let socket = match client {
        Client::Tcp(stream) => stream.as_fd(),
        Client::Unix(stream) => stream.as_fd(),
    };
    let mut sockets = [PollFd::new(socket, PollFlags::POLLIN)];
    poll(&mut sockets, PollTimeout::ZERO).expect("look at the socket") > 0
}

#[test]
fn a_program_is_told_how_many_connections_its_client_has() {
    let address = Address::fresh();
    let daemon = Daemon::start(&shell(&address, 6, "echo $TCPCONNNUM; cat", "per_source = 4"));
    let come = |host: usize, count: &str| {
        let mut client = from(&address, host);
        client.expect(&format!("{count}\n"));
        client
    };
    let clients = [come(1, "1"), come(1, "2"), come(1, "3")];
    let other = come(2, "1");
    drop(clients);
    until("five workers are free", || {
        let workers = daemon.workers("exec");
        (workers.iter().filter(|pid| procfs::is_in_accept(**pid)).count() == 5).then_some(())
    });
    let _again = come(1, "1");
    let _other = (come(2, "2"), other);
}

#[test]
fn idle_clients_of_one_address_do_not_starve_another() {
    // Without the key they do: the fifth client waits in the queue as long as they like.
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 4, ""));
    let idle: Vec<_> = (0..4).map(|_| hold(&address, 1)).collect();
    let mut other = from(&address, 2);
    other.send("hello");
    let workers = daemon.workers("echo");
    until("every worker sleeps with its idle client", || {
        let sleeps = |&pid: &i32| procfs::Process::of(pid).is_some_and(|it| it.state == 'S');
        workers.iter().all(sleeps).then_some(())
    });
    assert!(!has_reply(&other), "nobody is free for it");
    drop(idle);
    other.expect("hello");
    drop((other, daemon));

    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 5, "per_source = 3"));
    let idle: Vec<_> = (0..3).map(|_| hold(&address, 1)).collect();
    assert!(try_hold(&address, 1).is_none(), "the fourth of them is turned away");
    let other = hold(&address, 2);
    assert!(try_hold(&address, 1).is_none(), "again");
    // One that leaves makes room for one of the same address.
    drop((idle, other));
    daemon.wait_for_idle("echo", 5);
    let again: Vec<_> = (0..3).map(|_| hold(&address, 1)).collect();
    assert!(try_hold(&address, 1).is_none());
    drop(again);
    assert_no_worker_ended(&daemon);
}

// The worker of a client that has closed may not have noticed yet when the next one comes.
#[test]
fn a_client_that_comes_again_at_once_is_served() {
    for (what, config) in [
        ("its side closes first", "service = \"echo\""),
        ("ours closes first", "service.exec.command = [\"/bin/echo\", \"hello\"]"),
    ] {
        let address = Address::fresh();
        let _daemon = Daemon::start(&format!(
            "[pool.a]\nlisten = \"{address}\"\nworkers = 4\nper_source = 1\n{config}\n"
        ));
        for round in 0..100 {
            let mut client = Client::connect(&address);
            if what.starts_with("its") {
                client.ping("hello");
            } else {
                assert_eq!(client.rest(), "hello\n", "{what}, round {round}");
            }
        }
    }
}

#[test]
fn of_clients_at_the_same_moment_as_many_are_served_as_may_be() {
    let (clients, limit) = (6, 2);
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, clients, &format!("per_source = {limit}")));
    for round in 0..30 {
        daemon.wait_for_idle("echo", clients);
        let start = Barrier::new(clients);
        let served: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..clients)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        try_hold(&address, 1)
                    })
                })
                .collect();
            threads.into_iter().filter_map(|it| it.join().expect("a client")).collect()
        });
        assert_eq!(served.len(), limit, "round {round}");
    }
}

#[test]
fn a_worker_that_is_killed_leaves_nothing_behind() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 4, "per_source = 2\nmin_uptime = \"0s\""));
    daemon.expect(&["worker killed"]);
    for round in 0..5 {
        let idle = daemon.wait_for_idle("echo", 4);
        let held: Vec<_> = (0..2).map(|_| hold(&address, 1)).collect();
        assert!(try_hold(&address, 1).is_none(), "round {round}");
        let is_busy = |pid: &&i32| !procfs::is_in_accept(**pid);
        let busy = until("two workers are busy, the third has gone back to accept", || {
            let busy: Vec<_> = idle.iter().filter(is_busy).copied().collect();
            (busy.len() == 2).then_some(busy)
        });
        let mark = daemon.log().mark();
        busy.iter().for_each(|&pid| procfs::send(pid, Signal::SIGKILL));
        daemon.log().wait_count(mark, 2, "their ends", Event::is_end);
        drop(held);
    }
    daemon.wait_for_idle("echo", 4);
    let _held: Vec<_> = (0..2).map(|_| hold(&address, 1)).collect();
    assert!(try_hold(&address, 1).is_none());
}

#[test]
fn a_reload_changes_the_limits_and_forgets_nobody() {
    let address = Address::fresh();
    let config = |keys: &str| echo(&address, 4, keys);
    let daemon = Daemon::start(&config("per_source = 1"));
    let first = hold(&address, 1);
    assert!(try_hold(&address, 1).is_none());
    // One of an old generation without a client may accept until it is asked to retire.
    let reload = |keys: &str, retiring: usize| {
        let mark = daemon.log().mark();
        daemon.reload(&config(keys));
        daemon.log().wait_count(mark, retiring, "the idle ones leave", Event::is_end);
    };
    // The worker of an old generation keeps its client, who counts.
    reload("per_source = 2", 3);
    let second = hold(&address, 1);
    assert!(try_hold(&address, 1).is_none());
    reload("per_source = 1", 3);
    drop(first);
    daemon.log().wait_for("worker exited", |event| event.number("served") == Some(1));
    assert!(try_hold(&address, 1).is_none(), "the second one is still there");
    drop(second);
    daemon.wait_for_idle("echo", 4);
    let third = hold(&address, 1);
    assert!(try_hold(&address, 1).is_none());
    reload("", 3);
    let more: Vec<_> = (0..4).map(|_| hold(&address, 1)).collect();
    drop((third, more));
}

#[test]
fn connections_that_begin_too_often_are_refused() {
    for (keys, served, reason) in [
        // None comes back in the time of a test.
        ("rate = { limit = \"1/h\", burst = 3 }", [true, true, true, false, false], "rate"),
        ("rate = \"2/h\"", [true, true, false, false, false], "rate"),
        (
            "per_source.rate = { limit = \"1/h\", burst = 2 }",
            [true, true, true, false, true],
            "per_source.rate",
        ),
        // What its source may not have takes nothing from all others.
        (
            "per_source.rate = \"1/h\"\nrate = { limit = \"1/h\", burst = 3 }",
            [true, false, true, false, true],
            "per_source.rate",
        ),
    ] {
        let address = Address::fresh();
        let daemon = Daemon::start(&echo(&address, 2, keys));
        let hosts = [1, 1, 2, 1, 3];
        let hosts = if reason == "rate" { [1, 2, 3, 4, 5] } else { hosts };
        let found = hosts.map(|host| try_hold(&address, host).is_some());
        assert_eq!(found, served, "{keys}");
        let event = daemon.log().wait_for("client refused", |_| true);
        assert_eq!((event.text("reason"), event.level()), (Some(reason), "info"), "{event}");
    }
}

#[test]
fn the_rate_comes_back() {
    let address = Address::fresh();
    let _daemon = Daemon::start(&echo(&address, 2, "rate = { limit = \"20/s\", burst = 1 }"));
    for _ in 0..5 {
        until("a client is served again", || try_hold(&address, 1));
    }
}

#[test]
fn a_client_that_is_turned_away_is_told_the_refusal() {
    let address = Address::fresh();
    let keys = "per_source = 1\nrefusal = \"421 later\\r\\n\"\ndeny = [\"127.255.255.254\"]";
    let daemon = Daemon::start(&echo(&address, 3, keys));
    let idle = hold(&address, 1);
    for _ in 0..20 {
        assert_eq!(from(&address, 1).rest(), "421 later\r\n");
    }
    // What the client has sent before does not take the text back.
    for _ in 0..20 {
        let mut client = from(&address, 1);
        let _ = client.write_all(&[b'x'; 10_000]);
        let mut text = String::new();
        let _ = client.read_to_string(&mut text);
        assert!(text.is_empty() || text == "421 later\r\n", "{text:?}");
    }
    let other = hold(&address, 2);
    drop((idle, other, daemon));

    // The lists refuse without a word.
    let address = Address::fresh();
    let source = address.source(1).expect("a source");
    let keys = format!("deny = [\"{source}\"]\nrate = \"100/s\"\nrefusal = \"421 later\\r\\n\"");
    let _daemon = Daemon::start(&echo(&address, 1, &keys));
    assert_eq!(from(&address, 1).rest(), "");
}

#[test]
fn refusals_are_counted_and_few_of_them_are_told() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 3, "per_source = 1"));
    let mark = daemon.log().mark();
    let idle = hold(&address, 1);
    for _ in 0..60 {
        assert!(try_hold(&address, 1).is_none());
    }
    drop(idle);
    daemon.stop();
    until("the log ends", || daemon.log().is_closed().then_some(()));
    let told = daemon.log().since(mark);
    let ends: i64 = told.iter().filter_map(|event| event.number("refused")).sum();
    assert_eq!(ends, 60, "each of them is counted by its worker");
    let lines: Vec<_> = told.into_iter().filter(is_refusal).collect();
    // Ten at once, and one a second after that.
    assert!((10..30).contains(&lines.len()), "{} lines", lines.len());
    let source = address.source(1).expect("a source");
    for event in &lines {
        assert_eq!((event.level(), event.text("reason")), ("info", Some("per_source")), "{event}");
        let peer = event.text("peer").unwrap_or_default();
        assert!(peer.starts_with(&format!("{source}:")) && event.is_of_pool("echo"), "{event}");
    }
}

#[test]
fn a_unix_socket_has_no_sources_and_a_rate() {
    let setup = Setup::new();
    let address = Address::unix(&setup.directory().join("echo.sock"));
    let daemon = Daemon::start(&echo(&address, 4, "per_source = 1\nrate = \"3/h\""));
    let served: Vec<_> = (0..3).filter_map(|_| held(Client::connect(&address))).collect();
    assert_eq!(served.len(), 3);
    assert!(held(Client::connect(&address)).is_none());
    let event = daemon.log().wait_for("client refused", |_| true);
    assert_eq!((event.text("reason"), event.text("peer")), (Some("rate"), Some("unix")), "{event}");
}

// A program whose client could still keep the worker counts until the worker is free.
#[test]
fn a_client_of_a_program_counts_until_its_worker_is_free() {
    let address = Address::fresh();
    let daemon = Daemon::start(&shell(&address, 3, "echo words", "per_source = 1"));
    let mut first = from(&address, 1);
    // What nobody reads makes the worker wait for this client.
    first.send("unread");
    first.expect("words\n");
    until("the worker waits for its client to close", || {
        let workers = daemon.workers("exec");
        let is_free = |pid: &i32| procfs::is_in_accept(*pid);
        let programs = workers.iter().any(|&pid| !procfs::children(pid).is_empty());
        (!programs && workers.iter().filter(|pid| !is_free(pid)).count() == 1).then_some(())
    });
    assert_eq!(from(&address, 1).rest(), "", "it has gone only when it has closed");
    assert_eq!(from(&address, 2).rest(), "words\n");
    drop(first);
    until("it is served again", || (from(&address, 1).rest() == "words\n").then_some(()));
}

// What a worker gone wild writes concerns its own pool at most, and as long as it lives.
#[test]
fn a_worker_gone_wild_harms_its_own_pool_and_only_while_it_lives() {
    let (address, other) = (Address::fresh(), Address::fresh());
    let config = format!(
        "{}per_source = {{ limit = 2, rate = \"1000/s\" }}\nrate = \"10000/s\"\nmin_uptime = \"0s\"\n{}",
        command(&address, 3, ""),
        echo(&other, 2, "per_source = 1")
    );
    let mut daemon = Daemon::start_example("testsvc", &config);
    let mut vandal = from(&address, 1);
    vandal.send("scribble\n");
    let mut line = [0; 6];
    vandal.read_exact(&mut line).expect("it has begun");
    for _ in 0..50 {
        daemon.wait_for_idle("echo", 2);
        let idle = hold(&other, 1);
        assert!(try_hold(&other, 1).is_none(), "the other pool");
        drop(idle);
        // Clients of its own pool may be turned away, or served.
        let mut client = from(&address, 2);
        let _ = client.write_all(b"pid\n");
        let _ = client.read_to_string(&mut String::new());
    }
    let workers = daemon.workers("command");
    let is_vandal = |pid: &i32| !procfs::is_in_accept(*pid);
    let mark = daemon.log().mark();
    let pid = until("only the vandal is busy", || {
        let busy: Vec<_> = workers.iter().copied().filter(is_vandal).collect();
        (busy.len() == 1).then(|| busy[0])
    });
    procfs::send(pid, Signal::SIGKILL);
    daemon.log().wait_since(mark, "worker killed", |event| event.pid() == pid);
    daemon.wait_for_idle("command", 3);
    // Nothing of it is left: two of a source are served, a third is not.
    let talk = |host| {
        let mut client = from(&address, host);
        let _ = client.write_all(b"echo\n");
        held(client)
    };
    for host in [1, 2, 3] {
        let two: Vec<_> = (0..2).map(|_| talk(host).expect("it is served")).collect();
        assert!(talk(host).is_none(), "host {host}");
        drop(two);
        daemon.wait_for_idle("command", 3);
    }
    daemon.expect_anything();
}

/// Makes a network of this thread's own, with addresses of these networks on its loopback.
/// False if it may not.
fn unshare_network(addresses: &[&str]) -> bool {
    // SAFETY: unshare(2) takes a number, and this flag concerns the calling thread alone.
    if unsafe { nix::libc::unshare(nix::libc::CLONE_NEWNET) } != 0 {
        return false;
    }
    let ip = |words: &[&str]| Command::new("ip").args(words).status().is_ok_and(|it| it.success());
    let add = |address: &&str| ip(&["address", "add", address, "dev", "lo", "nodad"]);
    ip(&["link", "set", "lo", "up"]) && addresses.iter().all(add)
}

#[test]
fn a_source_of_ipv6_is_a_network_of_64_bits() {
    let hosts = ["2001:db8:0:1::1/128", "2001:db8:0:1::2/128", "2001:db8:0:2::1/128"];
    // In a thread, because the network is that of the thread and its children.
    let thread = thread::spawn(move || {
        if !provided(unshare_network(&hosts), "root, iproute2 and IPv6") {
            return;
        }
        let [one, neighbour, other] = hosts.map(|it| it.trim_end_matches("/128"));
        let served = |from: &str| {
            let from: Ipv6Addr = from.parse().expect("an address");
            let socket = socket::socket(
                AddressFamily::Inet6,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )
            .expect("a socket");
            let address = |ip, port| SockaddrIn6::from(SocketAddrV6::new(ip, port, 0, 0));
            socket::bind(socket.as_raw_fd(), &address(from, 0)).expect("bind");
            socket::connect(socket.as_raw_fd(), &address(Ipv6Addr::LOCALHOST, 7007))
                .expect("connect");
            let client = Client::Tcp(socket.into());
            client.set_timeouts(PATIENCE).expect("set a time-out");
            held(client)
        };
        for (keys, shared) in
            [("1", true), ("{ limit = 1, ipv6 = 128 }", false), ("{ limit = 1, ipv6 = 48 }", true)]
        {
            let config = format!(
                "[pool.echo]\nlisten = \"[::]:7007\"\nworkers = 4\nservice = \"echo\"\n\
                 per_source = {keys}\n"
            );
            let _daemon = Daemon::start(&config);
            let first = served(one).expect("the first one is served");
            let second = served(neighbour);
            assert_eq!(second.is_none(), shared, "its neighbour, with {keys}");
            let third = served(other);
            assert_eq!(third.is_none(), keys.contains("48"), "one of another /64, with {keys}");
            drop((first, second, third));
        }
    });
    thread.join().expect("the test");
}
