//! preforkd@NAME.service: a daemon for each configuration.

use std::path::Path;

use crate::lab::{Lab, package, shipped_address};
use support::client::assert_serves;
use support::{Address, Client};

on_both_suites!(
    two_instances_know_nothing_of_each_other,
    an_upgrade_restarts_the_instances_that_can_start,
);

fn address(port: u16) -> Address {
    Address::Tcp(format!("127.0.0.1:{port}").parse().expect("an address"))
}

/// A pool `echo` with so many workers.
fn echo(port: u16, workers: usize) -> String {
    format!("[pool.echo]\nlisten = \"127.0.0.1:{port}\"\nservice = \"echo\"\nworkers = {workers}\n")
}

/// A container with the service and two instances.
fn with_instances(suite: &'static str) -> Option<Lab> {
    let lab = Lab::with_package(suite)?;
    lab.write("/etc/preforkd/web.toml", &echo(8001, 2));
    lab.write("/etc/preforkd/mail.toml", &echo(8002, 2));
    lab.sh("systemctl enable --now preforkd@web preforkd@mail");
    Some(lab)
}

fn property(lab: &Lab, unit: &str, name: &str) -> String {
    lab.sh(&format!("systemctl show -P {name} {unit}")).trim_end().to_owned()
}

fn two_instances_know_nothing_of_each_other(suite: &'static str) {
    let Some(lab) = with_instances(suite) else { return };
    let units = ["preforkd", "preforkd@web", "preforkd@mail"];
    let masters = || units.map(|unit| property(&lab, unit, "MainPID"));
    let before = masters();
    for address in [shipped_address(), address(8001), address(8002)] {
        lab.inside(|| assert_serves(&address));
    }
    for socket in ["preforkd", "preforkd-web", "preforkd-mail"] {
        assert!(lab.has(&format!("/run/{socket}/control.sock")), "no socket in {socket}");
    }

    // A reload of one, with a client of it and of the other.
    let connect = |port| {
        let mut client = lab.inside(|| Client::connect(&address(port)));
        client.ping("before");
        client
    };
    let (mut web, mut mail) = (connect(8001), connect(8002));
    lab.write("/etc/preforkd/web.toml", &(echo(8001, 3) + &echo(8003, 1).replace("echo]", "new]")));
    lab.sh("systemctl reload preforkd@web");
    lab.inside(|| assert_serves(&address(8003)));
    lab.sh("preforkd -c /etc/preforkd/web.toml reload");
    // By the name alone, too, as an administrator in that directory writes it.
    lab.sh("cd /etc/preforkd; preforkd -c mail.toml reload");
    // One that fails says so, and changes nothing.
    lab.write("/etc/preforkd/web.toml", &(echo(8001, 3) + "wokers = 1\n"));
    assert_ne!(lab.try_sh("systemctl reload preforkd@web").code, 0);
    web.ping("after");
    mail.ping("after");
    drop((web, mail));
    assert_eq!(masters(), before);

    // A sandbox of its own.
    lab.write("/etc/systemd/system/preforkd@mail.service.d/x.conf", "[Service]\nProtectHome=no\n");
    lab.sh("systemctl daemon-reload; systemctl restart preforkd@mail");
    for (unit, wanted) in units.into_iter().zip(["yes", "yes", "no"]) {
        assert_eq!(property(&lab, unit, "ProtectHome"), wanted, "{unit}");
    }
    lab.sh("systemctl stop preforkd@web");
    assert!(!lab.has("/run/preforkd-web"));
    for address in [shipped_address(), address(8002)] {
        lab.inside(|| assert_serves(&address));
    }
}

fn an_upgrade_restarts_the_instances_that_can_start(suite: &'static str) {
    let Some(lab) = with_instances(suite) else { return };
    lab.copy(package::second(), "/root");
    let master = |unit| property(&lab, unit, "MainPID");
    let (web, mail) = (master("preforkd@web"), master("preforkd@mail"));
    lab.write("/etc/preforkd/mail.toml", &(echo(8002, 2) + "wokers = 1\n"));
    let said = lab.try_sh("dpkg --install /root/preforkd_0.1.0-2_*.deb");
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("preforkd@mail was not restarted"), "{said:?}");
    assert_ne!(master("preforkd@web"), web);
    assert_eq!(master("preforkd@mail"), mail);
    for port in [8001, 8002] {
        lab.inside(|| assert_serves(&address(port)));
    }
    lab.sh("dpkg --remove preforkd");
    assert_eq!(lab.sh("pgrep preforkd || :"), "", "after the removal");
}

/// What an instance may be other than the service.
const OF_INSTANCES: [&str; 4] = ["Description=", "ExecStart=", "ExecReload=", "RuntimeDirectory="];

// The sandbox of both is one; a line that is added to one file is to be in the other.
#[test]
fn the_template_is_the_service_otherwise() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for (one, other) in
        [("preforkd.service", "preforkd@.service"), ("notify-reload.conf", "notify-reload@.conf")]
    {
        let [one, other] = [one, other].map(|name| {
            let text = std::fs::read_to_string(units.join(name)).expect("a unit file");
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let is_shared = |line: &&str| !OF_INSTANCES.iter().any(|key| line.starts_with(key));
            let lines = lines.filter(|line| !line.is_empty()).filter(is_shared);
            lines.map(str::to_owned).collect::<Vec<_>>()
        });
        assert_eq!(one, other);
    }
}
