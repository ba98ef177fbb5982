//! The service `echo`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use super::{assert_no_worker_ended, echo, the_worker, wait_for_close};
use support::client::assert_serves;
use support::{Address, Client, Daemon, Setup, procfs, until};

/// Bytes that repeat at no power of two, so that a piece that is lost, doubled
/// or out of place shows.
fn text(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// Sends and receives at the same time: what is on its way may be more than
/// the sockets hold.
#[track_caller]
fn assert_echoes(address: &Address, size: usize) {
    let mut receiving = Client::connect(address);
    let mut sending = clone(&receiving);
    let sent = text(size);
    let copy = sent.clone();
    let sender = thread::spawn(move || {
        sending.write_all(&copy).expect("send");
        sending.half_close().expect("close one half");
    });
    let mut received = Vec::new();
    receiving.read_to_end(&mut received).expect("receive");
    sender.join().expect("the sender");
    assert_eq!(received.len(), sent.len());
    assert!(received == sent, "the {size} bytes came back changed");
}

fn clone(client: &Client) -> Client {
    match client {
        Client::Tcp(stream) => Client::Tcp(stream.try_clone().expect("another handle")),
        Client::Unix(stream) => Client::Unix(stream.try_clone().expect("another handle")),
    }
}

#[test]
fn any_size_comes_back_and_a_half_close_ends_it() {
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("echo.sock"));
    for address in [Address::fresh(), unix] {
        let daemon = Daemon::start(&echo(&address, 2, ""));
        for size in [0, 1, 2, 4095, 4096, 16_383, 16_384, 16_385, 65_536, 1 << 20, 24 << 20] {
            assert_echoes(&address, size);
        }
        assert_no_worker_ended(&daemon);
    }
}

#[test]
fn what_came_is_sent_back_before_the_client_goes_on() {
    let address = Address::fresh();
    let _daemon = Daemon::start(&echo(&address, 1, ""));
    let mut client = Client::connect(&address);
    for round in 0..200 {
        client.ping(&format!("round {round}"));
    }
    // A reply to what came before the half-close, after it.
    client.send("last words");
    client.half_close().expect("close one half");
    assert_eq!(client.rest(), "last words");
}

#[test]
fn a_client_that_reads_late_gets_all() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 1, ""));
    let worker = the_worker(&daemon, "echo");
    let mut client = Client::connect(&address);
    client.ping("I am here");
    // Until nothing more fits: the worker waits for us, and we for it.
    client.set_timeouts(Duration::from_millis(300)).expect("set a time-out");
    let pattern = text(251 * 1000);
    let mut sent = 0;
    while let Ok(size) = client.write(&pattern[sent % 251..][..251 * 999]) {
        sent += size;
    }
    client.set_timeouts(support::PATIENCE).expect("set a time-out");
    let mut received = vec![0; sent];
    client.read_exact(&mut received).expect("receive");
    assert!(received == text(sent), "the {sent} bytes came back changed");
    drop(client);
    assert_eq!(the_worker(&daemon, "echo"), worker);
}

#[test]
fn a_client_that_breaks_off_costs_the_worker_nothing() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 1, ""));
    let worker = the_worker(&daemon, "echo");
    for _ in 0..50 {
        // Closed with bytes unread, a connection ends with a reset.
        let mut client = Client::connect(&address);
        client.send(&"x".repeat(100_000));
        drop(client);
        // One end after the other, the sending one last.
        let mut client = Client::connect(&address);
        client.ping("hello");
        if let Client::Tcp(stream) = &client {
            stream.shutdown(Shutdown::Read).expect("close one half");
        }
        client.send("and no reply");
        client.half_close().expect("close the other half");
        wait_for_close(&mut client);
    }
    assert_serves(&address);
    assert_eq!(the_worker(&daemon, "echo"), worker);
    until("the worker holds no connection", || {
        // Its listener alone; what it was started with may be a socket, too.
        let files = procfs::descriptors(worker).split_off(&3);
        (files.values().filter(|target| target.starts_with("socket:")).count() == 1).then_some(())
    });
}
