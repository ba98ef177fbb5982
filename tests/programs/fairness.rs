//! Limits for one address, and how often clients may come: `per_source` and `rate` beside
//! the `per_source` and `cps` of xinetd.

use std::io::{ErrorKind, Read, Write};

use crate::harness::{Served, Task, Under};
use support::{Client, until};

run_under!([Ours, Xinetd]
    idle_clients_of_one_address_leave_room_for_another,
    so_many_clients_begin_at_once,
);

const CAT: [&str; 1] = ["/bin/cat"];

/// Connects from the source `host` of the server's own network; gives the client if a
/// program serves it.
#[track_caller]
fn try_hold(served: &Served, host: usize) -> Option<Client> {
    let address = served.address();
    let source = address.source(host).expect("a source");
    let turned_away = [
        ErrorKind::UnexpectedEof,
        ErrorKind::ConnectionReset,
        ErrorKind::BrokenPipe,
        ErrorKind::ConnectionRefused,
    ];
    let answer = Client::try_connect_from(source, address).and_then(|mut client| {
        client.write_all(b"hello")?;
        client.read_exact(&mut [0; 5])?;
        Ok(client)
    });
    match answer {
        Ok(client) => Some(client),
        Err(error) => {
            assert!(turned_away.contains(&error.kind()), "{error}");
            None
        }
    }
}

fn idle_clients_of_one_address_leave_room_for_another(under: Under) {
    if !under.has(&["cat"]) {
        return;
    }
    let (keys, xinetd) = ("per_source = 3", "  per_source = 3");
    let served = under.serve(&Task { workers: 5, keys, xinetd, ..Task::of(&CAT) });
    let hold = |host| try_hold(&served, host).expect("it is served");
    let idle: Vec<_> = (0..3).map(|_| hold(1)).collect();
    assert!(try_hold(&served, 1).is_none(), "the fourth of one address");
    let other = hold(2);
    assert!(try_hold(&served, 1).is_none(), "again");
    drop(idle);
    // xinetd counts a client until it has reaped its program.
    let _again = until("one of that address is served again", || try_hold(&served, 1));
    drop(other);
}

fn so_many_clients_begin_at_once(under: Under) {
    if !under.has(&["cat"]) {
        return;
    }
    let (keys, xinetd) = ("rate = { limit = \"10/s\", burst = 2 }", "  cps = 2 3600");
    let served = under.serve(&Task { workers: 5, keys, xinetd, ..Task::of(&CAT) });
    let mut turned_away = 0;
    let _held = until("a client comes too soon", || {
        let held: Vec<_> = (1..=4).filter_map(|host| try_hold(&served, host)).collect();
        turned_away += 4 - held.len();
        assert!(held.len() >= 2 || turned_away > 2, "both of the burst are served at first");
        (turned_away > 0).then_some(held)
    });
    match under {
        // xinetd stops the service for so many seconds, for everybody.
        Under::Xinetd => assert!(try_hold(&served, 5).is_none()),
        _ => drop(until("a client is served again", || try_hold(&served, 5))),
    }
}
