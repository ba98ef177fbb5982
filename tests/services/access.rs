//! `allow` and `deny`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};

use super::{assert_no_worker_ended, echo, stop_and_read};
use support::{Address, Client, Daemon, PATIENCE, Setup, provided, until};

/// A port that no other test has on IPv6, where all share one loopback
/// address; None if there is no IPv6.
#[track_caller]
pub fn free_ipv6_port() -> Option<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    if !provided(has_ipv6, "IPv6 on loopback") {
        return None;
    }
    // Below the ports that the kernel gives to clients.
    let port = || {
        10_000 + (std::process::id() as u16 % 2000) * 10 + NEXT.fetch_add(1, Ordering::Relaxed) % 10
    };
    let port = (0..10).map(|_| port()).find(|&port| TcpListener::bind(("::", port)).is_ok())?;
    // A child that another test forks meanwhile has the listener until its exec.
    until("the port is free", || TcpStream::connect(("::1", port)).is_err().then_some(()));
    Some(port)
}

/// Whether an echo service serves this client.
#[track_caller]
fn is_served(mut client: impl Read + Write) -> bool {
    // A refused client may see its writes fail.
    let sent = client.write_all(b"hello").is_ok();
    let mut reply = [0; 5];
    match client.read_exact(&mut reply) {
        Ok(()) => {
            assert!(sent && &reply == b"hello", "{reply:?}");
            true
        }
        Err(error) => {
            let kinds =
                [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "{error}");
            false
        }
    }
}

/// Connects from the source `host` of this address's own network.
#[track_caller]
fn from(address: &Address, host: usize) -> (Client, Ipv4Addr) {
    let source = address.source(host).expect("a source");
    let client = Client::try_connect_from(source, address).expect("connect");
    (client, source)
}

#[test]
fn ipv4_clients_are_served_by_allow_and_refused_by_deny() {
    let address = Address::fresh();
    let source = |host| address.source(host).expect("a source");
    // Hosts are counted from 1, so that 1 and 2 share a /30 and 5 is outside.
    let network = {
        let [a, b, c, _] = source(1).octets();
        format!("{a}.{b}.{c}.0/30")
    };
    let (one, two) = (source(1), source(2));
    for (keys, served) in [
        (String::new(), [true, true, true]),
        (format!("allow = [\"{network}\"]"), [true, true, false]),
        (format!("deny = [\"{network}\"]"), [false, false, true]),
        (format!("allow = [\"{network}\"]\ndeny = [\"{one}\"]"), [false, true, false]),
        (format!("allow = [\"{one}\", \"{two}\"]"), [true, true, false]),
        (format!("allow = [\"::/0\", \"unix\", \"{one}\"]"), [true, false, false]),
        ("allow = [\"::/0\"]".to_owned(), [false, false, false]),
        ("deny = [\"::/0\", \"unix\"]".to_owned(), [true, true, true]),
        ("deny = [\"0.0.0.0/0\"]".to_owned(), [false, false, false]),
    ] {
        let daemon = Daemon::start(&echo(&address, 2, &keys));
        for (host, served) in [1, 2, 5].into_iter().zip(served) {
            let (client, source) = from(&address, host);
            assert_eq!(is_served(client), served, "{source} with {keys:?}");
        }
        assert_no_worker_ended(&daemon);
    }
}

#[test]
fn ipv6_clients_are_served_by_allow_and_refused_by_deny() {
    let Some(port) = free_ipv6_port() else { return };
    for (keys, served) in [
        ("", true),
        ("allow = [\"::1\"]", true),
        ("allow = [\"::/0\"]", true),
        ("allow = [\"fd00::/8\"]", false),
        ("allow = [\"127.0.0.0/8\"]", false),
        ("deny = [\"::1\"]", false),
        ("deny = [\"127.0.0.0/8\"]", true),
        ("allow = [\"::/0\"]\ndeny = [\"::/64\"]", false),
    ] {
        let config = format!(
            "[pool.echo]\nlisten = \"[::1]:{port}\"\nworkers = 2\nservice = \"echo\"\n{keys}\n"
        );
        let _daemon = Daemon::start(&config);
        let client = connect(&format!("[::1]:{port}"));
        assert_eq!(is_served(client), served, "{keys:?}");
    }
}

fn connect(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().expect("an address");
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    stream
}

// The kernel shows an IPv4 client of such a listener as ::ffff:127.0.0.1.
#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
    let Some(port) = free_ipv6_port() else { return };
    for (keys, v4_served, v6_served) in [
        ("", true, true),
        ("allow = [\"127.0.0.0/8\"]", true, false),
        ("allow = [\"::1\"]", false, true),
        ("deny = [\"127.0.0.1\"]", false, true),
        // The networks of IPv6 that hold such addresses hold such a client, too.
        ("deny = [\"::/0\"]", false, false),
        ("deny = [\"::/64\"]", false, false),
        ("deny = [\"::1\"]", true, false),
        ("allow = [\"::/0\"]", true, true),
        ("allow = [\"::/0\"]\ndeny = [\"0.0.0.0/0\"]", false, true),
    ] {
        let config = format!(
            "[pool.echo]\nlisten = \"[::]:{port}\"\nworkers = 2\nservice = \"echo\"\n{keys}\n"
        );
        let _daemon = Daemon::start(&config);
        assert_eq!(
            is_served(connect(&format!("127.0.0.1:{port}"))),
            v4_served,
            "IPv4 with {keys:?}"
        );
        assert_eq!(is_served(connect(&format!("[::1]:{port}"))), v6_served, "IPv6 with {keys:?}");
    }
}

#[test]
fn unix_clients_are_served_by_allow_and_refused_by_deny() {
    let setup = Setup::new();
    let address = Address::unix(&setup.directory().join("echo.sock"));
    for (keys, served) in [
        ("", true),
        ("allow = [\"unix\"]", true),
        ("deny = [\"unix\"]", false),
        ("allow = [\"0.0.0.0/0\", \"::/0\"]", false),
        ("deny = [\"0.0.0.0/0\", \"::/0\"]", true),
        ("allow = [\"unix\"]\ndeny = [\"unix\"]", false),
    ] {
        let _daemon = Daemon::start(&echo(&address, 2, keys));
        assert_eq!(is_served(Client::connect(&address)), served, "{keys:?}");
    }
}

// A client can cause it as often as it likes.
#[test]
fn a_refusal_is_told_at_level_debug_alone() {
    let address = Address::fresh();
    let config = echo(&address, 1, "deny = [\"127.0.0.0/8\"]");
    let daemon = Daemon::start(&format!("[log]\nlevel = \"info\"\nformat = \"json\"\n{config}"));
    daemon.wait_for_children(1);
    let mark = daemon.log().mark();
    for _ in 0..20 {
        assert!(!is_served(Client::connect(&address)));
    }
    let told = stop_and_read(&daemon, mark);
    assert!(told.is_empty(), "{told:?}");

    let daemon = Daemon::start(&format!("[log]\nlevel = \"debug\"\nformat = \"json\"\n{config}"));
    let (client, source) = from(&address, 7);
    assert!(!is_served(client));
    let event = daemon.log().wait_for("client refused", |_| true);
    assert_eq!(event.level(), "debug", "{event}");
    assert!(event.is_of_pool("echo"), "{event}");
    assert!(
        event.text("peer").is_some_and(|peer| peer.starts_with(&format!("{source}:"))),
        "{event}"
    );
}

// A refused client is none that was served.
#[test]
fn a_refused_client_counts_for_no_quota() {
    let address = Address::fresh();
    let source = address.source(1).expect("a source");
    let keys = format!("allow = [\"{source}\"]\nmax_requests = 3\nmax_requests_jitter = \"0%\"");
    let daemon = Daemon::start(&echo(&address, 1, &keys));
    let worker = daemon.wait_for_idle("echo", 1)[0];
    for _ in 0..10 {
        assert!(!is_served(from(&address, 2).0));
    }
    assert!(is_served(from(&address, 1).0) && is_served(from(&address, 1).0));
    assert_eq!(daemon.wait_for_idle("echo", 1), [worker]);
    assert!(is_served(from(&address, 1).0));
    let end = daemon.log().wait_for("worker exited", |_| true);
    assert_eq!(
        (end.pid(), end.text("cause"), end.number("served")),
        (worker, Some("recycled"), Some(3)),
        "{end}"
    );
}
