//! Pools with a user of their own, by the drop-in that the manual shows.

use crate::lab::Lab;
use crate::page::drop_in;
use support::client::{ask, assert_serves};
use support::{Address, procfs};

on_both_suites!(pools_have_users_of_their_own);

fn pools_have_users_of_their_own(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.edit(&drop_in(
        "CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_NET_BIND_SERVICE CAP_SYS_NICE CAP_SYS_RESOURCE",
    ));
    lab.configure(
        "
        [pool.web]
        listen = { address = \"/run/preforkd/web.sock\", owner = \"www-data\", mode = \"0600\" }
        service.exec.command = [\"/usr/bin/id\", \"--user\", \"--name\"]
        user = \"www-data\"
        nice = -5
        limits.nofile = 100
        workers = 2
        [pool.echo]
        listen = \"127.0.0.1:7\"
        service = \"echo\"
        workers = 2
        ",
    );
    lab.sh("systemctl restart preforkd");
    let workers = lab.wait_for_idle(4);
    let web = lab.path("/run/preforkd/web.sock");
    assert_eq!(lab.inside(|| ask(&Address::unix(&web), "")), "www-data\n");
    assert_eq!(lab.sh("stat --format %U:%a /run/preforkd/web.sock"), "www-data:600\n");
    lab.inside(|| assert_serves(&Address::Tcp("127.0.0.1:7".parse().expect("an address"))));
    for pid in workers {
        let uid = procfs::status(pid, "Uid").expect("its user");
        assert_ne!(uid.split_whitespace().next(), Some("0"), "a worker is root");
        let effective = procfs::status(pid, "CapEff").expect("its capabilities");
        assert_eq!(effective.trim_start_matches('0'), "", "a worker has kept capabilities");
    }
    // The master can end the workers of others.
    lab.sh("systemctl reload preforkd; systemctl stop preforkd");
    assert_eq!(lab.show("Result"), "success");

    // Without root it is refused, by its key and line.
    lab.sh("rm -r /etc/systemd/system/preforkd.service.d; systemctl daemon-reload");
    assert_ne!(lab.try_sh("systemctl start preforkd").code, 0);
    let told = lab.sh("journalctl --sync; journalctl --no-pager -u preforkd");
    assert!(told.contains("the daemon does not run as root"), "{told}");
}
