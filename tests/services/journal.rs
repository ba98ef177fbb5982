//! A journal that restarts, as `systemctl restart systemd-journald.socket` does, or
//! that hangs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, listen, socket,
};

use super::shell;
use support::client::ask;
use support::{Address, Daemon, PATIENCE, Setup, provided};

/// The end of the socket at which the journal would read.
struct Journal(UnixDatagram);

impl Journal {
    #[track_caller]
    fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("bind the socket of a journal");
        socket.set_read_timeout(Some(PATIENCE)).expect("bound the wait");
        Journal(socket)
    }

    /// Reads entries up to one that holds this, and gives it.
    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        let mut bytes = [0; 8192];
        loop {
            let length = self.0.recv(&mut bytes).expect(text);
            let entry = String::from_utf8_lossy(&bytes[..length]);
            if entry.contains(text) {
                return entry.into_owned();
            }
        }
    }
}

/// The end of the socket at which the journal would accept streams.
struct Streams {
    listener: UnixListener,
    path: PathBuf,
}

impl Streams {
    #[track_caller]
    fn bind(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).expect("bind the socket of a journal");
        listener.set_nonblocking(true).expect("make it non-blocking");
        Streams { listener, path }
    }

    /// Takes connections until no other client can get as far as waiting for us.
    #[track_caller]
    fn fill(&self) -> Vec<OwnedFd> {
        listen(&self.listener, Backlog::new(0).expect("a backlog")).expect("shorten the queue");
        let address = UnixAddr::new(&self.path).expect("an address");
        let mut waiting = Vec::new();
        loop {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let client = socket(AddressFamily::Unix, SockType::Stream, flags, None);
            let client = client.expect("make a socket");
            match connect(client.as_raw_fd(), &address) {
                Ok(()) => waiting.push(client),
                Err(errno) => {
                    assert_eq!(errno, Errno::EAGAIN);
                    return waiting;
                }
            }
        }
    }

    /// The identifiers of those that have connected since the last look.
    #[track_caller]
    fn identifiers(&self) -> Vec<String> {
        let accepted = std::iter::from_fn(|| self.listener.accept().ok());
        let first_line = |(stream, _)| BufReader::new(stream).lines().next();
        accepted.map(|stream| first_line(stream).expect("a header").expect("a line")).collect()
    }
}

fn config(pools: &[(&str, &Address, usize)]) -> String {
    let pools = pools.iter().map(|(name, address, workers)| {
        shell(address, *workers, "echo words >&2; echo done", "")
            .replace("exec]", &format!("{name}]"))
    });
    "[log]\nformat = \"journal\"\n".to_owned() + &pools.collect::<String>()
}

/// Whether a daemon can be given sockets of a journal that are ours.
#[track_caller]
fn can_have_a_journal() -> bool {
    let tool = Command::new("unshare").args(["--mount", "true"]).status();
    provided(tool.is_ok_and(|status| status.success()), "root, for a /run of its own")
}

/// A directory for the sockets of a journal.
#[track_caller]
fn place(setup: &Setup) -> PathBuf {
    let directory = setup.directory().join("journal");
    fs::create_dir(&directory).expect("create a directory");
    directory
}

/// A daemon that finds this directory where the journal has its sockets.
#[track_caller]
fn start(setup: Setup, directory: &Path, config: &str) -> Daemon {
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
                  mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
    let directory = directory.display().to_string();
    setup.config(config).wrapper(&["unshare", "--mount", "sh", "-c", script, &directory]).launch()
}

#[test]
fn a_journal_that_is_made_anew_is_found_again() {
    if !can_have_a_journal() {
        return;
    }
    let address = Address::fresh();
    let setup = Setup::new();
    let directory = place(&setup);
    let socket = directory.join("socket");
    let journal = Journal::bind(&socket);
    let daemon = start(setup, &directory, &config(&[("exec", &address, 1)]));
    journal.wait_for("MESSAGE=ready");

    // A worker is the first who notices, and the master has its part of it.
    drop(journal);
    fs::remove_file(&socket).expect("remove the socket");
    assert_eq!(ask(&address, ""), "done\n");
    let journal = Journal::bind(&socket);
    assert_eq!(ask(&address, ""), "done\n");
    journal.wait_for("MESSAGE=words\n");
    daemon.signal(Signal::SIGTTIN);
    journal.wait_for("MESSAGE=scaled");

    // Somebody still has the old one open, so that nothing fails.
    fs::remove_file(&socket).expect("remove the socket");
    let next = Journal::bind(&socket);
    daemon.signal(Signal::SIGUSR1);
    next.wait_for("MESSAGE=log reopened");
    assert_eq!(ask(&address, ""), "done\n");
    next.wait_for("MESSAGE=words\n");
}

// The master would wait as long as the journal hangs, and all its pools with it.
#[test]
fn a_journal_that_accepts_no_stream_holds_nobody_up() {
    if !can_have_a_journal() {
        return;
    }
    let (address, other) = (Address::fresh(), Address::fresh());
    let setup = Setup::new();
    let directory = place(&setup);
    let journal = Journal::bind(&directory.join("socket"));
    let streams = Streams::bind(directory.join("stdout"));
    let _waiting = streams.fill();
    let pools = [("one", &address, 1), ("other", &other, 1)];
    let daemon = start(setup, &directory, &config(&pools[..1]));
    journal.wait_for("MESSAGE=could not open journal stream, pool: one, reason: ");
    journal.wait_for("MESSAGE=ready");
    assert_eq!(ask(&address, ""), "done\n");
    daemon.rewrite_config(&config(&pools));
    daemon.signal(Signal::SIGHUP);
    journal.wait_for("MESSAGE=could not open journal stream, pool: other, reason: ");
    journal.wait_for("MESSAGE=reloaded");
    assert_eq!(ask(&other, ""), "done\n");
}

#[test]
fn a_reload_opens_streams_for_new_workers_only() {
    if !can_have_a_journal() {
        return;
    }
    let addresses = [Address::fresh(), Address::fresh(), Address::fresh()];
    let setup = Setup::new();
    let directory = place(&setup);
    let journal = Journal::bind(&directory.join("socket"));
    let streams = Streams::bind(directory.join("stdout"));
    let [kept, resized, added] = &addresses;
    let before = config(&[("kept", kept, 1), ("resized", resized, 1)]);
    let daemon = start(setup, &directory, &before);
    journal.wait_for("MESSAGE=ready");
    assert_eq!(streams.identifiers(), ["preforkd/kept", "preforkd/resized"]);
    daemon.rewrite_config(&config(&[
        ("kept", kept, 1),
        ("resized", resized, 2),
        ("added", added, 1),
    ]));
    daemon.signal(Signal::SIGHUP);
    journal.wait_for("MESSAGE=reloaded");
    assert_eq!(streams.identifiers(), ["preforkd/added"]);
}

#[test]
fn an_entry_has_the_id_of_its_event_and_native_fields() {
    if !can_have_a_journal() {
        return;
    }
    let address = Address::fresh();
    let setup = Setup::new();
    let directory = place(&setup);
    let journal = Journal::bind(&directory.join("socket"));
    let _daemon = start(setup, &directory, &config(&[("exec", &address, 1)]));
    let started = journal.wait_for("MESSAGE=worker started");
    for field in [
        "MESSAGE_ID=7915a8a9c7b842ebb08acdc476073b97\n",
        "POOL=exec\n",
        "SLOT=0\n",
        "GENERATION=1\n",
        "WORKER_PID=",
    ] {
        assert!(started.contains(field), "{field}: {started}");
    }
    assert_eq!(ask(&address, ""), "done\n");
    let words = journal.wait_for("MESSAGE=words\n");
    for field in [
        "MESSAGE_ID=9feb22aef1fe47dbaaf06210a6486e78\n",
        "SYSLOG_IDENTIFIER=preforkd/exec\n",
        "POOL=exec\n",
        "PROGRAM=/bin/sh\n",
        "PROGRAM_PID=",
    ] {
        assert!(words.contains(field), "{field}: {words}");
    }
}

// There is nothing to open again, and nothing is said of it.
#[test]
fn standard_error_is_not_said_to_be_reopened() {
    let address = Address::fresh();
    let daemon = Daemon::start(&shell(&address, 1, "echo done", ""));
    let mark = daemon.log().mark();
    daemon.signal(Signal::SIGUSR1);
    daemon.reload(&shell(&address, 2, "echo done", ""));
    let told = daemon.log().since(mark);
    assert!(!told.iter().any(|event| event.message() == "log reopened"), "{told:?}");
}
