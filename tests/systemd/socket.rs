//! Socket activation: what systemd has bound stays its own.

use nix::sys::signal::Signal;

use crate::lab::{Lab, shipped_address};
use support::client::assert_serves;
use support::{Address, Client, Load, procfs};

on_both_suites!(the_socket_unit_starts_the_service_and_outlives_it);

const CONFIG: &str = "
    [pool.echo]
    listen = \"systemd:echo\"
    service = \"echo\"
    workers = 3
    [pool.files]
    listen = \"systemd:files\"
    service = \"echo\"
    workers = 1
";

/// A second socket, made as the comment in preforkd.socket says.
const FILES: &str = "
    [Socket]
    ListenStream=/run/files.sock
    FileDescriptorName=files
    Service=preforkd.service
";

fn the_socket_unit_starts_the_service_and_outlives_it(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.sh("systemctl stop preforkd");
    lab.configure(CONFIG);
    lab.write("/etc/systemd/system/files.socket", FILES);
    lab.wait_until_free(&shipped_address());
    lab.sh("systemctl daemon-reload; systemctl start preforkd.socket files.socket");
    assert_eq!(lab.show("ActiveState"), "inactive");

    // The first client starts the service.
    let addresses = [shipped_address(), Address::unix(&lab.path("/run/files.sock"))];
    lab.inside(|| assert_serves(&addresses[0]));
    lab.inside(|| assert_serves(&addresses[1]));
    lab.wait_for("ActiveState", |state| state == "active");
    assert_eq!(lab.show("NFileDescriptorStore"), "0", "they are systemd's already");
    lab.wait_for_entry("listening", "POOL=echo ADDRESS=127.0.0.1:7007 SOCKET=echo");
    lab.wait_for_entry("listening", "POOL=files ADDRESS=/run/files.sock SOCKET=files");

    let loads = [0, 1].map(|at| lab.inside(|| Load::start(&addresses[at], 2, usize::MAX)));
    loads.iter().for_each(|load| load.wait_for(50));
    lab.sh("systemctl restart preforkd");
    loads.iter().for_each(|load| load.wait_for(50));
    for load in loads {
        load.stop();
        let tally = load.finish();
        let lost = tally.refused + tally.unanswered + tally.short + tally.wrong;
        assert_eq!(lost, 0, "at a restart: {tally:?}");
    }

    let load = lab.inside(|| Load::start(&addresses[0], 2, usize::MAX));
    load.wait_for(50);
    procfs::send(lab.master(), Signal::SIGKILL);
    lab.wait_for("NRestarts", |count| count == "1");
    load.wait_for(50);
    load.stop();
    let tally = load.finish();
    assert_eq!((tally.refused, tally.wrong), (0, 0), "after SIGKILL: {tally:?}");

    // A stop leaves the sockets; the next client starts the service again.
    lab.wait_for("ActiveState", |state| state == "active");
    lab.sh("systemctl stop preforkd.service");
    assert!(lab.has("/run/files.sock"), "the file was removed");
    assert!(lab.inside(|| Client::try_connect(&addresses[1])).is_ok());
    lab.inside(|| assert_serves(&addresses[1]));
    lab.inside(|| assert_serves(&addresses[0]));
    lab.wait_for("ActiveState", |state| state == "active");

    // A reload that no longer wants one leaves it alone as well.
    lab.configure("[pool.echo]\nlisten = \"systemd:echo\"\nservice = \"echo\"\nworkers = 3\n");
    lab.sh("systemctl reload preforkd");
    assert!(lab.has("/run/files.sock"), "the file was removed");
    lab.configure(CONFIG);
    lab.sh("systemctl reload preforkd");
    lab.inside(|| assert_serves(&addresses[1]));
}
