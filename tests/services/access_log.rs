//! `access_log`: who was here.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use nix::sys::signal::Signal;

use super::{command, echo, shell, stop_and_read, the_worker};
use support::log::Mark;
use support::{Address, Client, Daemon, Event, PATIENCE, Setup, procfs, until};

const KEY: &str = "access_log = true";

fn tcp(address: &Address) -> TcpStream {
    let client = TcpStream::connect(address.tcp()).expect("connect");
    client.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    client
}

/// The two lines of the only connection since `mark`, which agree with each other.
#[track_caller]
fn lines(daemon: &Daemon, mark: Mark, pool: &str) -> (Event, Event) {
    let closed = daemon.log().wait_since(mark, "connection closed", |_| true);
    let opened = daemon.log().wait_since(mark, "connection opened", |_| true);
    for event in [&opened, &closed] {
        assert_eq!((event.level(), event.is_of_pool(pool)), ("info", true), "{event}");
        assert!(event.has("slot") && !event.has("held_back"), "{event}");
        assert_eq!((event.pid(), event.text("peer")), (opened.pid(), opened.text("peer")));
    }
    assert!(closed.number("elapsed_ms").is_some(), "{closed}");
    (opened, closed)
}

#[track_caller]
fn bytes(closed: &Event) -> (Option<i64>, Option<i64>) {
    (closed.number("received_bytes"), closed.number("sent_bytes"))
}

#[test]
fn each_connection_has_two_lines_with_what_was_transferred() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 1, KEY));
    let worker = the_worker(&daemon, "echo");
    // However the client ends it, and whoever closes first.
    type Ending = fn(TcpStream);
    let endings: [(&str, Ending); 3] = [
        ("it closes half", |mut client| {
            client.shutdown(Shutdown::Write).expect("close half");
            client.read_to_end(&mut Vec::new()).expect("read to the end");
        }),
        ("it closes", drop),
        ("it resets", |client| {
            // What nobody has read makes the close a reset.
            client.peek(&mut [0]).expect("there is something");
        }),
    ];
    for (what, end) in endings {
        let mark = daemon.log().mark();
        let mut client = tcp(&address);
        let local = client.local_addr().expect("an address").to_string();
        client.write_all(b"hello").expect("send");
        if what != "it resets" {
            client.read_exact(&mut [0; 5]).expect("the reply");
        }
        end(client);
        let (opened, closed) = lines(&daemon, mark, "echo");
        assert_eq!((opened.pid(), opened.text("peer")), (worker, Some(local.as_str())), "{what}");
        assert_eq!(bytes(&closed), (Some(5), Some(5)), "{what}: {closed}");
        for field in ["code", "signal", "program_pid"] {
            assert!(!closed.has(field), "{closed}");
        }
        assert_eq!(closed.has("reason"), what == "it resets", "{closed}");
    }
}

#[test]
fn what_a_program_transferred_and_how_it_ended_is_told() {
    let address = Address::fresh();
    let script = "read how; echo $$; case $how in kill*) kill -TERM $$; sleep 100;; esac; \
                  head -c 100000 /dev/zero; exit $how";
    let keys = format!("{KEY}\nservice.exec.success = [0, 7, \"SIGTERM\"]");
    let daemon = Daemon::start(&shell(&address, 1, script, &keys));
    let worker = the_worker(&daemon, "exec");
    for (how, unread, code, signal, sent) in [
        ("0\n", "", Some(0), None, 100_000),
        ("7\n", "", Some(7), None, 100_000),
        // What it has not read has come all the same.
        ("0\n", "and more", Some(0), None, 100_000),
        ("kill\n", "", None, Some("SIGTERM"), 0),
    ] {
        let mark = daemon.log().mark();
        let mut client = tcp(&address);
        client.write_all(how.as_bytes()).expect("send");
        client.write_all(unread.as_bytes()).expect("send");
        let mut text = Vec::new();
        client.read_to_end(&mut text).expect("read to the end");
        let line = text.iter().position(|&byte| byte == b'\n').expect("a line");
        let pid: i64 = String::from_utf8_lossy(&text[..line]).parse().expect("a process id");
        drop(client);
        let (opened, closed) = lines(&daemon, mark, "exec");
        assert_eq!(opened.pid(), worker);
        assert_eq!(closed.number("program_pid"), Some(pid), "{closed}");
        assert_eq!((closed.number("code"), closed.text("signal")), (code, signal), "{closed}");
        let received = (how.len() + unread.len()) as i64;
        assert_eq!(bytes(&closed), (Some(received), Some(sent + line as i64 + 1)), "{closed}");
        assert!(!closed.has("reason"), "{closed}");
    }
}

#[test]
fn on_a_unix_socket_no_bytes_are_told() {
    let setup = Setup::new();
    let address = Address::unix(&setup.directory().join("echo.sock"));
    let daemon = Daemon::start(&echo(&address, 1, KEY));
    let mark = daemon.log().mark();
    Client::connect(&address).ping("hello");
    let (_, closed) = lines(&daemon, mark, "echo");
    assert_eq!((closed.text("peer"), bytes(&closed)), (Some("unix"), (None, None)), "{closed}");
}

#[test]
fn a_connection_that_breaks_off_has_its_reason() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 1, &format!("{KEY}\nidle_timeout = \"50ms\"")));
    let mark = daemon.log().mark();
    let mut client = tcp(&address);
    assert_eq!(client.read_to_end(&mut Vec::new()).expect("read to the end"), 0);
    let (_, closed) = lines(&daemon, mark, "echo");
    assert!(closed.text("reason").is_some_and(|it| it.contains("timed out")), "{closed}");
}

#[test]
fn refused_clients_are_told_with_their_reason() {
    for (keys, reason) in [
        ("deny = [\"127.0.0.0/8\"]", "deny"),
        ("allow = [\"192.0.2.1\"]", "allow"),
        ("rate = { limit = \"1/h\", burst = 1 }", "rate"),
    ] {
        let address = Address::fresh();
        let daemon = Daemon::start(&echo(&address, 1, &format!("{KEY}\n{keys}")));
        // More than a pool tells without the key. The first one may be served.
        for _ in 0..20 {
            let client = tcp(&address);
            client.shutdown(Shutdown::Write).expect("close half");
            let _ = (&client).read_to_end(&mut Vec::new());
        }
        let is_refusal = |event: &Event| event.message() == "client refused";
        let told = daemon.log().wait_count(daemon.log().start(), 19, "refusals", is_refusal);
        for event in told {
            assert_eq!((event.level(), event.text("reason")), ("info", Some(reason)), "{event}");
        }
    }
}

#[test]
fn a_worker_that_dies_tells_of_its_client_in_its_last_line() {
    let address = Address::fresh();
    let keys = format!("{KEY}\nmin_uptime = \"0s\"");
    let daemon = Daemon::start_example("testsvc", &command(&address, 1, &keys));
    daemon.expect(&["worker killed"]);
    let worker = the_worker(&daemon, "command");
    let mark = daemon.log().mark();
    let mut client = Client::connect(&address);
    client.send("sleep\n");
    client.expect(&format!("{worker}\n"));
    let opened = daemon.log().wait_since(mark, "connection opened", |_| true);
    procfs::send(worker, Signal::SIGKILL);
    let end = daemon.log().wait_since(mark, "worker killed", |_| true);
    assert_eq!((end.pid(), end.text("peer")), (opened.pid(), opened.text("peer")), "{end}");
    drop(client);
    let told = stop_and_read(&daemon, mark);
    assert!(!told.iter().any(|event| event.message() == "connection closed"), "{told:?}");
}

#[test]
fn without_the_key_nothing_is_told() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 1, ""));
    let mark = daemon.log().mark();
    for _ in 0..5 {
        Client::connect(&address).ping("hello");
    }
    until("the worker is idle", || procfs::is_in_accept(the_worker(&daemon, "echo")).then_some(()));
    let told = stop_and_read(&daemon, mark);
    assert!(told.is_empty(), "{told:?}");
}
