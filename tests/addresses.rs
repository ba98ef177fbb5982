//! Pools on several addresses, with real sockets: whatever holds of one listener holds of
//! each of them.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::client::{ask, assert_refuses, assert_serves};
use support::load::Tally;
use support::random::Random;
use support::{Address, Client, Daemon, Load, Setup, extent, is_root, procfs, provided, until};

/// A pool named `echo` on these addresses.
fn echo(addresses: &[Address], workers: usize, keys: &str) -> String {
    let listen: Vec<_> = addresses.iter().map(Address::to_string).collect();
    // What Rust writes for these texts is TOML too.
    format!("[pool.echo]\nlisten = {listen:?}\nworkers = {workers}\nservice = \"echo\"\n{keys}\n")
}

/// The same with workers that do what they are told.
fn command(addresses: &[Address], workers: usize, keys: &str) -> String {
    echo(addresses, workers, keys).replace("\"echo\"", "\"command\"")
}

/// An address of each kind.
fn addresses(directory: &Path) -> [Address; 3] {
    [Address::fresh(), Address::unix(&directory.join("echo.sock")), Address::unnamed()]
}

/// The workers of the pool, once so many of them wait for clients.
#[track_caller]
fn idle(daemon: &Daemon, count: usize) -> Vec<i32> {
    until(&format!("{count} workers wait"), || {
        let workers = daemon.workers("echo");
        let is_it = workers.len() == count
            && workers.iter().all(|&pid| procfs::is_in_ppoll(pid) && procfs::is_settled(pid));
        is_it.then_some(workers)
    })
}

#[test]
fn one_worker_serves_every_address_and_each_has_its_line_in_the_log() {
    let setup = Setup::new();
    let all = addresses(setup.directory().path());
    let daemon = setup.config(&echo(&all, 1, "")).start();
    let pids = idle(&daemon, 1);
    for _ in 0..3 {
        all.iter().for_each(assert_serves);
    }
    assert_eq!(idle(&daemon, 1), pids);
    let events = daemon.log().events();
    let told: Vec<_> = events
        .iter()
        .filter(|event| event.message() == "listening")
        .filter_map(|event| event.text("address"))
        .collect();
    assert_eq!(told, all.each_ref().map(Address::to_string));
    assert_eq!(daemon.stop().code(), Some(0));
    all.iter().for_each(assert_refuses);
}

// The first address is busy all the time: its clients must not keep the others waiting.
#[test]
fn a_busy_address_keeps_no_other_waiting() {
    let setup = Setup::new();
    let all = addresses(setup.directory().path());
    let _daemon = setup.config(&echo(&all, 1, "")).start();
    let load = Load::start(&all[0], 8, usize::MAX);
    load.wait_for(100);
    for address in all[1..].iter().cycle().take(20) {
        assert_serves(address);
    }
    load.stop();
    let tally = load.finish();
    assert_eq!(tally, Tally { complete: tally.complete, ..Tally::default() });
}

#[test]
fn idle_workers_of_several_addresses_are_not_scheduled_once_in_two_seconds() {
    let setup = Setup::new();
    let all = addresses(setup.directory().path());
    let daemon = setup.config(&echo(&all, 3, "")).start();
    all.iter().for_each(assert_serves);
    let pids = idle(&daemon, 3);
    let count = || pids.iter().map(|&pid| procfs::context_switches(pid)).collect::<Vec<_>>();
    let before = count();
    // The time is what is tried here.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(count(), before, "context switches of the workers");
}

#[test]
fn a_program_is_told_the_address_that_its_client_has_used() {
    let all = [Address::fresh(), Address::fresh()];
    let script = "service.exec.command = [\"/bin/sh\", \"-c\", \"echo $TCPLOCALIP:$TCPLOCALPORT\"]";
    let config = echo(&all, 1, "").replace("service = \"echo\"", script);
    let _daemon = Daemon::start(&config);
    for address in &all {
        assert_eq!(ask(address, ""), format!("{address}\n"));
    }
}

/// How many sockets a worker has. Only root can see that.
fn sockets(pid: i32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// A port that was free a moment ago over both families.
fn free_port() -> u16 {
    let any = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("listen somewhere");
    any.local_addr().expect("its address").port()
}

/// What an echo at this address sends back.
fn echoed(address: SocketAddr) -> String {
    use std::io::{Read, Write};
    let mut client = std::net::TcpStream::connect(address).expect("connect");
    client.write_all(b"hello").expect("write");
    client.shutdown(std::net::Shutdown::Write).expect("close one half");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("read");
    text
}

#[test]
fn both_families_of_one_port_are_served_in_whichever_order_they_are_written() {
    for reversed in [false, true] {
        let port = free_port();
        let mut listen = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
        if reversed {
            listen.reverse();
        }
        let config = format!("[pool.echo]\nlisten = {listen:?}\nworkers = 2\nservice = \"echo\"\n");
        let daemon = Daemon::start(&config);
        assert_eq!(echoed(([127, 0, 0, 1], port).into()), "hello");
        assert_eq!(echoed((Ipv6Addr::LOCALHOST, port).into()), "hello");
        drop(daemon);
        // By itself it has the clients of both.
        let alone = config.replace(&format!("{listen:?}"), &format!("\"[::]:{port}\""));
        let _daemon = Daemon::start(&alone);
        assert_eq!(echoed(([127, 0, 0, 1], port).into()), "hello");
        assert_eq!(echoed((Ipv6Addr::LOCALHOST, port).into()), "hello");
    }
}

// An option of a bound socket: what a fresh start would do is not what a reload can.
#[test]
fn a_reload_that_would_bind_a_running_address_otherwise_is_refused() {
    let port = free_port();
    let (both, alone) =
        (format!("[\"0.0.0.0:{port}\", \"[::]:{port}\"]"), format!("\"[::]:{port}\""));
    let config =
        |listen: &str| format!("[pool.echo]\nlisten = {listen}\nworkers = 2\nservice = \"echo\"\n");
    for (before, after) in [(&both, &alone), (&alone, &both)] {
        let daemon = Daemon::start(&config(before));
        daemon.expect(&["reload failed"]);
        daemon.rewrite_config(&config(after));
        let event = daemon.fail_to_reload();
        let reason =
            format!("could not change ipv6_only of listener \"[::]:{port}\": it stays bound");
        assert!(event.text("reason").is_some_and(|text| text.contains(&reason)), "{event}");
        assert_eq!(echoed(([127, 0, 0, 1], port).into()), "hello");
        assert_eq!(echoed((Ipv6Addr::LOCALHOST, port).into()), "hello");
        daemon.rewrite_config(&config(before));
        daemon.reload(&config(before));
    }
}

// The waiting is over at SIGTERM, whenever that comes: before ppoll, in it, or behind it
// with a client on its way.
#[test]
fn retirements_of_workers_on_several_addresses_lose_nothing() {
    let setup = Setup::new();
    let all = addresses(setup.directory().path());
    let config = |round: usize| {
        echo(&all, 4, &format!("min_uptime = \"0s\"\nmax_requests = 50\nenv.ROUND = \"{round}\""))
    };
    let daemon = setup.config(&config(0)).start();
    daemon.expect(&["worker exited"]);
    let loads = all.each_ref().map(|address| Load::start(address, 6, usize::MAX));
    let ended = || loads.iter().map(Load::ended).sum::<usize>();
    let (wanted, mut random, mut round) = (extent(30_000, 500_000), Random::new(), 0);
    while ended() < wanted || round < 20 {
        round += 1;
        daemon.reload(&config(round));
        for step in [Signal::SIGTTIN, Signal::SIGTTOU] {
            let mark = daemon.log().mark();
            daemon.signal(step);
            daemon.log().wait_since(mark, "scaled", |_| true);
        }
        for _ in 0..20 {
            let living = || Some(daemon.children()).filter(|workers| !workers.is_empty());
            let workers = until("a worker lives", living);
            procfs::send_if_there(random.one_of(&workers), Signal::SIGTERM);
        }
        loads.iter().for_each(|load| load.wait_for(50));
    }
    loads.iter().for_each(Load::stop);
    let mut complete = 0;
    for load in loads {
        let tally = load.finish();
        assert_eq!(tally, Tally { complete: tally.complete, ..Tally::default() });
        complete += tally.complete;
    }
    assert_eq!(daemon.stop().code(), Some(0));
    daemon.wait_for_nothing_left();
    let events = daemon.log().events();
    let ends = events.iter().filter(|event| event.is_end());
    let served: i64 = ends.filter_map(|event| event.number("served")).sum();
    assert_eq!(served, complete as i64, "the workers counted other connections than the clients");
}

// Whether a pool has one address or several, and in which order, is all the same to an
// address that stays.
#[test]
fn a_reload_that_adds_drops_and_moves_addresses_loses_nobody_on_those_that_stay() {
    let setup = Setup::new();
    let stays = [Address::fresh(), Address::unix(&setup.directory().join("stays.sock"))];
    let comes = [Address::fresh(), Address::unix(&setup.directory().join("comes.sock"))];
    let [tcp, unix] = stays.clone();
    let [new_tcp, new_unix] = comes.clone();
    let lists = [
        vec![unix.clone(), new_tcp.clone(), tcp.clone()],
        vec![new_unix.clone(), tcp.clone(), unix.clone(), new_tcp.clone()],
        vec![tcp.clone(), unix.clone()],
        // And to a pool of their own, with one address each.
        vec![unix.clone()],
    ];
    let daemon = setup.config(&echo(&stays, 3, "")).start();
    let socket = procfs::listener(tcp.tcp());
    let file = fs::symlink_metadata(unix.to_string()).map(|file| inode(&file)).expect("the socket");
    let loads = stays.each_ref().map(|address| Load::start(address, 6, usize::MAX));
    for list in lists.iter().cycle().take(extent(16, 400)) {
        let mut config = echo(list, 3, "");
        if !list.contains(&tcp) {
            config += &echo(std::slice::from_ref(&tcp), 3, "").replace("pool.echo", "pool.own");
        }
        daemon.reload(&config);
        for address in &comes {
            match list.contains(address) {
                true => assert_serves(address),
                false => until("nobody listens there", || {
                    Client::try_connect(address).is_err().then_some(())
                }),
            }
        }
        loads.iter().for_each(|load| load.wait_for(200));
    }
    loads.iter().for_each(Load::stop);
    for load in loads {
        let tally = load.finish();
        assert_eq!(tally, Tally { complete: tally.complete, ..Tally::default() });
    }
    assert_eq!(procfs::listener(tcp.tcp()), socket);
    let now = fs::symlink_metadata(unix.to_string()).map(|file| inode(&file));
    assert_eq!(now.expect("the socket"), file);
}

fn inode(file: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}

// A reload that fails keeps none of what it has bound.
#[test]
fn a_reload_that_cannot_bind_one_address_binds_none() {
    let setup = Setup::new();
    let [stays, comes, taken] = [(); 3].map(|()| Address::fresh());
    let daemon = setup.config(&echo(std::slice::from_ref(&stays), 2, "")).start();
    daemon.expect(&["reload failed"]);
    let other = TcpListener::bind(taken.tcp()).expect("take the address");
    daemon.rewrite_config(&echo(&[comes.clone(), stays.clone(), taken.clone()], 2, ""));
    let event = daemon.fail_to_reload();
    let reason = format!("could not bind listener \"{taken}\": address already in use");
    assert!(event.text("reason").is_some_and(|text| text.contains(&reason)), "{event}");
    assert_refuses(&comes);
    assert_serves(&stays);
    daemon.wait_for_idle("echo", 2);
    drop(other);
    daemon.reload(&echo(&[comes.clone(), stays.clone(), taken.clone()], 2, ""));
    [comes, stays, taken].iter().for_each(assert_serves);
}

#[test]
fn clients_that_wait_in_each_queue_are_served_at_a_stop() {
    for dies in [false, true] {
        let setup = Setup::example("testsvc");
        let all = addresses(setup.directory().path());
        let daemon = setup.config(&command(&all, 1, "")).start();
        let mut busy = Client::connect(&all[0]);
        busy.send("echo\n");
        busy.ping("in hand");
        if dies {
            daemon.expect(&["worker exited"]);
            Client::connect(&all[1]).send("exit 3\n");
        }
        // The worker is busy, so these wait; and they have not even said what they want.
        let mut waiting: Vec<_> =
            all.iter().cycle().take(12).map(|address| Client::connect(address)).collect();
        daemon.signal(Signal::SIGTERM);
        daemon.log().wait_for("stopping", |_| true);
        daemon.wait_until_obeyed();
        busy.ping("still in hand");
        drop(busy);
        // One worker serves them, in an order that is its own.
        for (number, client) in waiting.iter_mut().enumerate() {
            client.send(&format!("echo\nclient {number}"));
            client.half_close().expect("close one half");
        }
        for (number, client) in waiting.iter_mut().enumerate() {
            assert_eq!(client.rest(), format!("client {number}"));
        }
        daemon.wait_for_code(0);
        all.iter().for_each(assert_refuses);
    }
}

// They wait in ppoll when the stop comes, and nobody else wakes them up.
#[test]
fn idle_workers_of_several_addresses_leave_at_a_stop() {
    for kinds in [vec![0, 0], vec![1, 1], vec![2, 1], vec![0, 1, 2]] {
        let setup = Setup::new();
        let mut number = 0;
        let all: Vec<_> = kinds
            .iter()
            .map(|&kind| match kind {
                0 => Address::fresh(),
                1 => {
                    number += 1;
                    Address::unix(&setup.directory().join(&format!("{number}.sock")))
                }
                _ => Address::unnamed(),
            })
            .collect();
        let config = format!("[daemon]\nstop_timeout = \"1h\"\n{}", echo(&all, 3, ""));
        let daemon = setup.config(&config).start();
        idle(&daemon, 3);
        assert_eq!(daemon.stop().code(), Some(0));
        daemon.wait_for_nothing_left();
        all.iter().for_each(assert_refuses);
        for end in daemon.log().events().iter().filter(|event| event.is_end()) {
            assert_eq!(end.text("cause"), Some("stopped"), "{end}");
        }
    }
}

// PEERS: "one program's shutdown() of the inherited listener makes all others deaf".
#[test]
fn listeners_that_a_worker_shut_down_are_mended_each() {
    let setup = Setup::example("testsvc");
    let all = addresses(setup.directory().path());
    let daemon = setup.config(&command(&all, 3, "min_uptime = \"0s\"")).start();
    daemon.expect(&["worker exited", "listener mended", "could not adjust listener"]);
    for round in 0..3 {
        idle(&daemon, 3);
        let mark = daemon.log().mark();
        assert_eq!(ask(&all[round], "deafen\n"), "3\n");
        daemon
            .log()
            .wait_count(mark, 3, "listeners mended", |event| event.message() == "listener mended");
        // Workers that were forked without the abstract one are replaced, too.
        until("every worker has every listener", || {
            let all = idle(&daemon, 3);
            (!is_root() || all.iter().all(|&pid| sockets(pid) == 3)).then_some(())
        });
        for address in &all {
            assert!(ask(address, "pid\n").ends_with('\n'), "{address}, round {round}");
        }
    }
    daemon.stop();
    all.iter().for_each(assert_refuses);
}

// Those of a socket unit stay for the next daemon, and so do their clients.
#[test]
fn sockets_of_systemd_are_served_next_to_one_of_our_own_and_stay() {
    let [passed, own] = [(); 2].map(|()| Address::fresh());
    let socket = TcpListener::bind(passed.tcp()).expect("listen");
    let script = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b exec \"$@\" 3<&0 4<&0 </dev/null";
    let config = format!(
        "[pool.echo]\nlisten = [\"systemd:a\", \"{own}\", \"systemd:b\"]\nworkers = 1\n\
         service = \"echo\"\n"
    );
    let daemon = Setup::new()
        .stdin(OwnedFd::from(socket.try_clone().expect("keep it")))
        .wrapper(&["sh", "-c", script, "sh"])
        .config(&config)
        .start();
    [&passed, &own, &passed].into_iter().for_each(assert_serves);
    let mut busy = Client::connect(&own);
    busy.ping("in hand");
    let (mut waits, stays) = (Client::connect(&own), Client::connect(&passed));
    daemon.signal(Signal::SIGTERM);
    daemon.log().wait_for("stopping", |_| true);
    daemon.wait_until_obeyed();
    drop(busy);
    waits.ping("waited");
    drop(waits);
    daemon.wait_for_code(0);
    assert_refuses(&own);
    let (_, peer) = socket.accept().expect("the client that waits for the next daemon");
    let Client::Tcp(stays) = stays else { panic!("it is TCP") };
    assert_eq!(peer, stays.local_addr().expect("its own address"));
}

/// Has a worker set O_NONBLOCK on its listener, as programs do.
#[track_caller]
fn unblock(address: &Address) {
    assert_eq!(ask(address, "unblock\n"), "1\n");
}

// All processes share the flag with the listener (issue of pools for any program).
#[test]
fn a_listener_that_somebody_made_non_blocking_costs_an_idle_worker_nothing() {
    for kind in 0..3 {
        let setup = Setup::example("testsvc");
        let address = addresses(setup.directory().path())[kind].clone();
        let config = command(std::slice::from_ref(&address), 3, "");
        let daemon = setup.config(&config).start();
        unblock(&address);
        // Those that sleep in accept do so until their next client: each gets one.
        let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&address)).collect();
        for client in &mut clients {
            client.send("echo\n");
            client.ping("in hand");
        }
        drop(clients);
        let pids = idle(&daemon, 3);
        let count = || pids.iter().map(|&pid| procfs::context_switches(pid)).collect::<Vec<_>>();
        let before = count();
        // The time is what is tried here.
        thread::sleep(Duration::from_secs(2));
        assert_eq!(count(), before, "context switches of the workers");
        daemon.reload(&command(std::slice::from_ref(&address), 3, "env.NEW = \"1\""));
        assert!(ask(&address, "pid\n").ends_with('\n'));
        assert_eq!(daemon.stop().code(), Some(0));
    }
}

/// A port that has a name wherever /etc/services is.
const NAMED: (&str, u16) = ("postgresql", 5432);

#[test]
fn a_port_may_have_a_name_and_is_the_same_as_its_number() {
    let has_name = fs::read_to_string("/etc/services").is_ok_and(|text| text.contains(NAMED.0));
    if !provided(has_name, "/etc/services") {
        return;
    }
    let Address::Tcp(fresh) = Address::fresh() else { panic!("it is TCP") };
    let address = Address::Tcp(std::net::SocketAddrV4::new(*fresh.ip(), NAMED.1));
    let on = |port: &str| {
        let listen = format!("{}:{port}", fresh.ip());
        format!("[pool.echo]\nlisten = \"{listen}\"\nworkers = 2\nservice = \"echo\"\n")
    };
    let daemon = Daemon::start(&on(NAMED.0));
    assert_serves(&address);
    let (workers, socket) = (daemon.wait_for_idle("echo", 2), procfs::listener(address.tcp()));
    for port in ["5432", NAMED.0] {
        assert_eq!(daemon.reload(&on(port)).text("renewed"), None);
        assert_eq!(daemon.wait_for_idle("echo", 2), workers);
    }
    assert_eq!(procfs::listener(address.tcp()), socket);
    daemon.expect(&["reload failed"]);
    for (config, reason) in [
        (on("no-such-port"), "could not find port \"no-such-port\": no such service"),
        (
            on("5432") + &on(NAMED.0).replace("pool.echo", "pool.other"),
            "is already that of pool \"echo\"",
        ),
    ] {
        daemon.rewrite_config(&config);
        let event = daemon.fail_to_reload();
        assert!(event.text("reason").is_some_and(|text| text.contains(reason)), "{event}");
    }
    assert_eq!(daemon.wait_for_idle("echo", 2), workers);
}

#[test]
fn a_link_local_address_is_served_on_its_interface() {
    let has_tools = |tool: &str| std::process::Command::new(tool).arg("-V").output().is_ok();
    if !provided(is_root() && has_tools("ip") && has_tools("unshare"), "root, ip and unshare") {
        return;
    }
    let script = "ip link add link0 type veth peer name peer0 && ip link set lo up && \
                  ip link set peer0 up && ip link set link0 up && \
                  ip address add fe80::1/64 dev link0 nodad && exec \"$@\"";
    let config = |link: &str| {
        let listen = format!("[fe80::1%{link}]:7007");
        format!("[pool.echo]\nlisten = \"{listen}\"\nworkers = 1\nservice = \"echo\"\n")
    };
    let wrapper = ["unshare", "-n", "sh", "-c", script, "sh"];
    let daemon = Setup::new().config(&config("link0")).wrapper(&wrapper).start();
    let namespace = fs::File::open(format!("/proc/{}/ns/net", daemon.pid())).expect("its network");
    let client = thread::spawn(move || {
        let number = std::os::fd::AsRawFd::as_raw_fd(&namespace);
        // SAFETY: the number is that of an open file; only this thread goes there.
        assert_eq!(unsafe { nix::libc::setns(number, nix::libc::CLONE_NEWNET) }, 0);
        let link = nix::net::if_::if_nametoindex("link0").expect("the interface");
        let ip = "fe80::1".parse().expect("an address");
        echoed(std::net::SocketAddrV6::new(ip, 7007, 0, link).into())
    });
    assert_eq!(client.join().expect("the client"), "hello");
    daemon.expect(&["reload failed"]);
    daemon.rewrite_config(&config("link1"));
    let event = daemon.fail_to_reload();
    let reason = "could not bind listener \"[fe80::1%link1]:7007\": no such device";
    assert!(event.text("reason").is_some_and(|text| text.contains(reason)), "{event}");
}
