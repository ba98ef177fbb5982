//! What fails around the daemon: the system calls, the disk, the log.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use nix::unistd::ttyname;

use super::{echo, sturdy};
use support::client::assert_serves;
use support::command::{finish, preforkd};
use support::{
    Address, Client, Daemon, Event, PATIENCE, Setup, has_strace, is_root, log, procfs, provided,
    until,
};

#[test]
fn a_fork_that_fails_is_tried_again() {
    let address = Address::fresh();
    let mut setup = Setup::new().config(&format!("{}min_uptime = \"0s\"\n", echo(&address, 4)));
    // Root is above this limit. A user whom nobody else uses.
    let user = is_root().then(|| 60_000 + std::process::id() % 5_000);
    if let Some(user) = user {
        setup = setup.user(user);
    }
    let mut daemon = setup.start();
    let victims = daemon.wait_for_idle("echo", 4);
    let old = procfs::limit(daemon.pid(), user, "nproc", "1");
    let mark = daemon.log().mark();
    procfs::send(victims[0], Signal::SIGKILL);
    procfs::send(victims[1], Signal::SIGKILL);
    daemon.log().wait_count(mark, 3, "a failed fork", |event| event.is_bad());
    assert_serves(&address);
    // Time for a loop that does not wait to show itself.
    thread::sleep(Duration::from_secs(1));
    let lines = daemon.log().since(mark).len();
    assert!(lines < 40, "{lines} lines");
    until("the master waits", || procfs::is_in_ppoll(daemon.pid()).then_some(()));
    assert_eq!(daemon.children().len(), 2);
    procfs::limit(daemon.pid(), user, "nproc", &old);
    daemon.wait_for_idle("echo", 4);
    assert_eq!(daemon.zombies(), [0; 0]);
    daemon.expect_anything();
}

#[test]
fn a_worker_out_of_descriptors_waits_and_recovers() {
    let address = Address::fresh();
    let mut daemon = Daemon::start(&echo(&address, 2));
    let pids = daemon.wait_for_idle("echo", 2);
    let old: Vec<_> = pids.iter().map(|&pid| procfs::limit(pid, None, "nofile", "3")).collect();
    // Those two sleep with a descriptor already reserved; what comes then
    // finds none.
    assert_serves(&address);
    assert_serves(&address);
    let mark = daemon.log().mark();
    let mut waiting = Client::connect(&address);
    waiting.send("patience");
    waiting.half_close().expect("close one half");
    let ticks =
        || pids.iter().filter_map(|&pid| procfs::Process::of(pid)).map(|p| p.ticks).sum::<u64>();
    let before = ticks();
    thread::sleep(Duration::from_secs(2));
    // 100 of them are a second of a processor.
    assert!(ticks() - before < 50, "{} ticks in 2 s", ticks() - before);
    let lines = daemon.log().since(mark).len();
    assert!(lines < 40, "{lines} lines");
    for (&pid, old) in pids.iter().zip(&old) {
        if procfs::is_alive(pid) {
            procfs::limit(pid, None, "nofile", old);
        }
    }
    assert_eq!(waiting.rest(), "patience");
    daemon.wait_for_idle("echo", 2);
    daemon.expect_anything();
}

#[test]
fn an_accept_that_fails_does_not_stop_a_worker() {
    if !provided(has_strace(), "strace") {
        return;
    }
    for fault in
        ["ECONNABORTED", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPROTO", "EPERM", "EINTR"]
    {
        let address = Address::fresh();
        let inject = format!("inject=accept4:error={fault}:when=2..4");
        let setup = Setup::new().config(&echo(&address, 2));
        let mut daemon =
            setup.wrapper(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject]).start();
        let pids = daemon.workers("echo");
        for _ in 0..12 {
            assert_serves(&address);
        }
        assert_eq!(daemon.workers("echo"), pids, "with {fault}");
        let lines = daemon.log().events().len();
        assert!(lines < 30, "with {fault} {lines} lines");
        daemon.expect_anything();
    }
}

/// Kills all workers some times, and checks that they come back.
#[track_caller]
fn assert_lives(daemon: &Daemon, address: &Address, workers: usize) {
    for _ in 0..3 {
        for pid in daemon.wait_for_children(workers) {
            procfs::send(pid, Signal::SIGKILL);
            until("the worker is dead", || (!procfs::is_alive(pid)).then_some(()));
        }
        daemon.wait_for_children(workers);
        assert_serves(address);
    }
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTTIN] {
        daemon.signal(signal);
    }
    daemon.wait_for_children(workers + 1);
    assert_serves(address);
}

#[test]
fn a_full_disk_under_the_log_file_is_survived() {
    let tool = Command::new("unshare").args(["--mount", "true"]).status();
    if !provided(tool.is_ok_and(|status| status.success()), "root, for a small disk of its own") {
        return;
    }
    let address = Address::fresh();
    let setup = Setup::new();
    let disk = setup.directory().join("disk");
    fs::create_dir(&disk).expect("create a mount point");
    let config = format!(
        "{}[log]\nformat = \"json\"\nfile = \"{}\"\n",
        sturdy(&address, 2),
        disk.join("log").display()
    );
    let mount = format!("mount -t tmpfs -o size=64k none '{}' && exec \"$@\"", disk.display());
    let daemon =
        setup.config(&config).wrapper(&["unshare", "--mount", "sh", "-c", &mount, "sh"]).launch();
    let inside = std::path::PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), disk.display()));
    let lines = || log::read_file(&inside.join("log"));
    until("the log is there", || {
        lines().iter().any(|event| event.message() == "ready").then_some(())
    });

    let filler = inside.join("filler");
    let mut file = fs::File::create(&filler).expect("create a file on the small disk");
    while file.write(&[b'x'; 512]).is_ok_and(|size| size > 0) {}
    // What is left of the last page of the log itself is filled by the daemon.
    for _ in 0..5 {
        assert_lives(&daemon, &address, 2);
        let mark = daemon.wait_for_children(3);
        daemon.signal(Signal::SIGTTOU);
        until("one less", || (daemon.children().len() < mark.len()).then_some(()));
    }
    let full = lines().len();
    drop(file);
    fs::remove_file(filler).expect("make room");
    assert_lives(&daemon, &address, 2);
    until("the log goes on", || (lines().len() > full + 3).then_some(()));
    let broken: Vec<_> =
        lines().iter().filter(|event| event.level().is_empty()).map(Event::to_string).collect();
    assert!(
        broken.len() <= 1,
        "only the line that met the end of the disk may be cut: {broken:#?}"
    );
}

#[test]
fn a_log_file_that_may_not_grow_is_survived() {
    let address = Address::fresh();
    let setup = Setup::new();
    // Of the 32 KiB that it may have it has nearly all.
    let log = setup.directory().write("log", &"x".repeat(32 * 1024 - 200));
    let config =
        format!("{}[log]\nformat = \"json\"\nfile = \"{}\"\n", sturdy(&address, 2), log.display());
    let limit = ["sh", "-c", "ulimit -f 64; exec \"$@\"", "sh"];
    let daemon = setup.config(&config).wrapper(&limit).launch();
    assert_lives(&daemon, &address, 2);
    for _ in 0..5 {
        daemon.signal(Signal::SIGUSR1);
        daemon.signal(Signal::SIGHUP);
        assert_lives(&daemon, &address, 2);
    }
    assert_eq!(fs::metadata(&log).expect("the log").len(), 32 * 1024, "it is full");
}

#[test]
fn a_log_that_can_never_be_written_is_survived() {
    let address = Address::fresh();
    let config = format!("{}[log]\nformat = \"json\"\nfile = \"/dev/full\"\n", sturdy(&address, 2));
    let daemon = Setup::new().config(&config).launch();
    assert_lives(&daemon, &address, 2);
}

#[test]
fn a_stderr_whose_reader_has_gone_is_survived() {
    let address = Address::fresh();
    let (reader, writer) = std::io::pipe().expect("create a pipe");
    let daemon = Setup::new().config(&sturdy(&address, 2)).stderr(writer).launch();
    daemon.wait_for_children(2);
    drop(reader);
    assert_lives(&daemon, &address, 2);
}

#[test]
fn a_stderr_that_is_closed_from_the_start_is_survived() {
    let address = Address::fresh();
    let setup = Setup::new().config(&sturdy(&address, 2));
    let daemon = setup.wrapper(&["sh", "-c", "exec \"$@\" 2>&-", "sh"]).launch();
    assert_lives(&daemon, &address, 2);
    // No file that the daemon opens may get the number of stderr by chance.
    let target = procfs::descriptors(daemon.pid()).remove(&2);
    assert!(target.is_none_or(|target| target == "/dev/null"));
}

#[test]
fn a_stderr_that_nobody_reads_does_not_block_the_master() {
    let address = Address::fresh();
    let (mut reader, writer) = std::io::pipe().expect("create a pipe");
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096))
        .expect("make the pipe small");
    let config = format!("{}[log]\nformat = \"json\"\nlevel = \"trace\"\n", sturdy(&address, 8));
    let daemon = Setup::new().config(&config).stderr(writer).launch();
    assert_lives(&daemon, &address, 8);
    assert_eq!(daemon.stop().code(), Some(0));
    daemon.wait_for_nothing_left();
    // Lines may be lost then, but what is there is whole.
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read the log at last");
    let broken: Vec<_> =
        text.lines().filter(|line| Event::parse(line).level().is_empty()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(text.ends_with('\n'));
}

#[test]
fn a_stderr_that_nobody_reads_does_not_block_the_workers() {
    // Each line is longer than what a pipe takes in one piece, or a small socket at all.
    let script = "printf '%048000d\\n' 7 >&2; cat";
    for unread in UNREAD {
        let address = Address::fresh();
        let config = format!(
            "[log]\nformat = \"json\"\n[pool.loud]\nlisten = \"{address}\"\nworkers = 2\nservice.exec.command = [\"/bin/sh\", \"-c\", {script:?}]\n"
        );
        let (_reader, setup) = unread(Setup::new().config(&config));
        let daemon = setup.launch();
        daemon.wait_for_children(2);
        for _ in 0..5 {
            assert_serves(&address);
        }
        assert_eq!(daemon.stop().code(), Some(0));
    }
}

// What is wrong with so many files is one line, and a long one.
#[test]
fn a_long_line_that_nobody_reads_does_not_block_the_master() {
    for unread in UNREAD {
        let address = Address::fresh();
        // Nothing else is to fill what the line will not fit into.
        let config =
            "[log]\nformat = \"json\"\nlevel = \"error\"\n".to_owned() + &sturdy(&address, 2);
        let (_reader, setup) = unread(Setup::new().config(&config));
        let daemon = setup.launch();
        daemon.wait_for_children(2);
        let pools = daemon.directory().join("pool.d");
        fs::create_dir(&pools).expect("create a directory");
        let wrong = format!("[pool.x]\nworkers = \"{}\"\n", "x".repeat(1000));
        for number in 0..60 {
            daemon.directory().write(&format!("pool.d/{number}.toml"), &wrong);
        }
        let include = format!("include = [\"{}/*.toml\"]\n", pools.display());
        daemon.rewrite_config(&(include + &config));
        for _ in 0..30 {
            let mut reload = preforkd();
            let ended = finish(reload.arg("reload").arg("-c").arg(daemon.config_path()));
            assert_eq!(ended.code, Some(78), "{ended:?}");
            assert!(ended.err.len() > 50_000, "{} bytes", ended.err.len());
        }
        assert_serves(&address);
        assert_eq!(daemon.stop().code(), Some(0));
    }
}

/// Gives a daemon a stderr that nobody reads, and the end at which nobody does.
type Unread = fn(Setup) -> (OwnedFd, Setup);

/// All kinds of stderr that may have no room.
const UNREAD: [Unread; 4] = [
    |setup| {
        let (reader, writer) = std::io::pipe().expect("create a pipe");
        (reader.into(), setup.stderr(writer))
    },
    // As systemd gives one to a service, or another supervisor.
    |setup| {
        let (reader, writer) = UnixStream::pair().expect("create sockets");
        // Room for the lines of a start, and not for a long one.
        setsockopt(&writer, SndBuf, &16_384).expect("make the socket small");
        (reader.into(), setup.stderr(OwnedFd::from(writer)))
    },
    // As after `sudo -u`: the terminal of the session is somebody else's.
    |setup| unread_terminal(setup, "exec <\"$0\"; chmod 0 \"$0\"; exec \"$@\" </dev/null"),
    // As after `su -c`: the terminal is not even that of the session.
    |setup| unread_terminal(setup, "chmod 0 \"$0\"; exec \"$@\""),
];

/// A terminal that the daemon may not open once this script has run, which gets
/// its path, and the command of the daemon.
fn unread_terminal(setup: Setup, script: &str) -> (OwnedFd, Setup) {
    let OpenptyResult { master: reader, slave: terminal } =
        openpty(None, None).expect("open a terminal");
    let path = ttyname(&terminal).expect("the name of the terminal").display().to_string();
    let setup = setup.wrapper(&["sh", "-c", script, &path]).stderr(terminal);
    // Root may open what it likes. A user whom nobody else uses.
    let user = is_root().then(|| 60_000 + std::process::id() % 5_000);
    let Some(user) = user else { return (reader, setup) };
    chown(&path, Some(user), None).expect("give the terminal away");
    (reader, setup.user(user))
}

// The master tells it of every reload, and of the stop.
#[test]
fn a_service_manager_that_does_not_read_holds_nobody_up() {
    let address = Address::fresh();
    let setup = Setup::new();
    let path = setup.directory().join("notify");
    let manager = UnixDatagram::bind(&path).expect("bind the socket of a service manager");
    let filler = UnixDatagram::unbound().expect("make a socket");
    filler.set_nonblocking(true).expect("make it non-blocking");
    let variable = path.display().to_string();
    let daemon = setup.config(&echo(&address, 2)).variable("NOTIFY_SOCKET", &variable).start();
    while filler.send_to(b"full", &path).is_ok() {}
    for workers in 3..6 {
        daemon.reload(&echo(&address, workers));
    }
    assert_serves(&address);
    // What it had to be told waits for it.
    manager.set_read_timeout(Some(PATIENCE)).expect("bound the wait");
    let mut reloads = 0;
    while reloads < 3 {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).expect("a message");
        reloads += i32::from(bytes[..length].starts_with(b"RELOADING=1\n"));
    }
    while filler.send_to(b"full", &path).is_ok() {}
    assert_eq!(daemon.stop().code(), Some(0));
}

// ppoll fails where the limit of descriptors is lower than their number (EINVAL).
#[test]
fn a_wait_that_fails_does_not_end_the_daemon() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 3));
    daemon.expect(&["could not wait for events"]);
    daemon.wait_for_idle("echo", 3);
    // One descriptor is what the log polls; the master waits for two.
    let limit = procfs::limit(daemon.pid(), None, "nofile", "1");
    // It wakes up, obeys, and finds the limit at its next wait.
    daemon.signal(Signal::SIGTTOU);
    let told = daemon.log().wait_for("could not wait for events", |_| true);
    assert_eq!(told.text("reason"), Some("invalid argument"), "{told}");
    daemon.signal(Signal::SIGTTOU);
    daemon.wait_for_children(1);
    procfs::limit(daemon.pid(), None, "nofile", &limit);
    daemon.signal(Signal::SIGTTIN);
    daemon.wait_for_idle("echo", 2);
    assert_serves(&address);
    let lines = daemon.log().events();
    assert_eq!(lines.iter().filter(|it| it.message() == "could not wait for events").count(), 1);
}
