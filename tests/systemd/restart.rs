//! Connections while the daemon is started anew: its listeners live in systemd's
//! descriptor store.

use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;

use crate::lab::{Lab, shipped_address};
use support::client::assert_serves;
use support::{Address, Load, procfs};

on_both_suites!(
    a_restart_refuses_nobody,
    a_killed_master_is_replaced_and_nobody_refused,
    a_stop_lets_go_of_the_listeners,
);

const CONFIG: &str = "
    [pool.echo]
    listen = \"127.0.0.1:7007\"
    service = \"echo\"
    workers = 4
    [pool.unix]
    listen = { address = \"/run/preforkd/echo.sock\", mode = \"0666\" }
    service = \"echo\"
    workers = 2
";
const SOCKET: &str = "/run/preforkd/echo.sock";

fn addresses(lab: &Lab) -> [Address; 2] {
    [shipped_address(), Address::unix(&lab.path(SOCKET))]
}

fn inode(lab: &Lab) -> u64 {
    lab.path(SOCKET).symlink_metadata().expect("the file of the socket").ino()
}

fn a_restart_refuses_nobody(suite: &'static str) {
    let Some(lab) = Lab::with_pools(suite, CONFIG) else { return };
    assert_eq!(lab.show("NFileDescriptorStore"), "2");
    let file = inode(&lab);
    let loads = addresses(&lab).map(|address| lab.inside(|| Load::start(&address, 2, usize::MAX)));
    for _ in 0..3 {
        let old = lab.master();
        loads.iter().for_each(|load| load.wait_for(50));
        lab.sh("systemctl restart preforkd");
        assert_ne!(lab.master(), old);
        assert_eq!(lab.show("NFileDescriptorStore"), "2");
    }
    for load in loads {
        load.wait_for(50);
        load.stop();
        let tally = load.finish();
        let lost = tally.refused + tally.unanswered + tally.short + tally.wrong;
        assert_eq!(lost, 0, "{tally:?}");
    }
    assert_eq!(inode(&lab), file, "the file of the socket is the same");
}

fn a_killed_master_is_replaced_and_nobody_refused(suite: &'static str) {
    const ROUNDS: usize = 2;
    let Some(lab) = Lab::with_pools(suite, CONFIG) else { return };
    let file = inode(&lab);
    let loads = addresses(&lab).map(|address| lab.inside(|| Load::start(&address, 2, usize::MAX)));
    for round in 1..=ROUNDS {
        loads.iter().for_each(|load| load.wait_for(50));
        procfs::send(lab.master(), Signal::SIGKILL);
        lab.wait_for("NRestarts", |count| count == round.to_string());
        lab.wait_for("ActiveState", |state| state == "active");
    }
    for (load, workers) in loads.into_iter().zip([4, 2]) {
        load.wait_for(50);
        load.stop();
        // systemd kills the workers of a master that is gone, one after the other,
        // so each may cut what it has in hand, also the next try of a client whose
        // last worker was killed before; what waited is served.
        let tally = load.finish();
        assert_eq!((tally.refused, tally.wrong), (0, 0), "{tally:?}");
        assert!(tally.unanswered + tally.short <= workers * ROUNDS, "{tally:?}");
    }
    assert_eq!(inode(&lab), file, "the file of the socket is the same");
}

fn a_stop_lets_go_of_the_listeners(suite: &'static str) {
    let Some(lab) = Lab::with_pools(suite, CONFIG) else { return };
    lab.sh("systemctl stop preforkd");
    addresses(&lab).iter().for_each(|address| lab.wait_until_free(address));
    assert!(!lab.has("/run/preforkd"));
    lab.sh("systemctl start preforkd");
    for address in addresses(&lab) {
        lab.inside(|| assert_serves(&address));
    }
    // A listener that a reload removes is not kept, either.
    lab.configure("[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\nworkers = 4\n");
    lab.sh("systemctl reload preforkd");
    lab.wait_for("NFileDescriptorStore", |count| count == "1");
    assert!(!lab.has(SOCKET), "its file is removed");
    // Nor is one that the configuration has lost when the daemon starts again.
    lab.configure(CONFIG);
    lab.sh("systemctl reload preforkd");
    lab.wait_for("NFileDescriptorStore", |count| count == "2");
    lab.configure("[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\nworkers = 4\n");
    lab.sh("systemctl restart preforkd");
    lab.wait_for("NFileDescriptorStore", |count| count == "1");
    assert!(!lab.has(SOCKET), "its file is left");
    lab.inside(|| assert_serves(&shipped_address()));
}
