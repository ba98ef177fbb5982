//! The journal while its socket is made anew, as `systemctl restart
//! systemd-journald.socket` does.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

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

    /// Reads entries up to one that holds this.
    #[track_caller]
    fn wait_for(&self, text: &str) {
        let mut bytes = [0; 8192];
        loop {
            let length = self.0.recv(&mut bytes).expect(text);
            if String::from_utf8_lossy(&bytes[..length]).contains(text) {
                return;
            }
        }
    }
}

/// A daemon that finds this directory where the journal has its sockets.
#[track_caller]
fn start(setup: Setup, directory: &Path, address: &Address) -> Daemon {
    let config = "[log]\nformat = \"journal\"\n".to_owned()
        + &shell(address, 1, "echo words >&2; echo done", "");
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
                  mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
    let directory = directory.display().to_string();
    setup.config(&config).wrapper(&["unshare", "--mount", "sh", "-c", script, &directory]).launch()
}

#[test]
fn a_journal_that_is_made_anew_is_found_again() {
    let tool = Command::new("unshare").args(["--mount", "true"]).status();
    if !provided(tool.is_ok_and(|status| status.success()), "root, for a /run of its own") {
        return;
    }
    let address = Address::fresh();
    let setup = Setup::new();
    let directory = setup.directory().join("journal");
    fs::create_dir(&directory).expect("create a directory");
    let socket = directory.join("socket");
    let journal = Journal::bind(&socket);
    let daemon = start(setup, &directory, &address);
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
