//! What `apt` does with the package.

use crate::lab::{Lab, package, shipped_address};
use support::client::assert_serves;
use support::{Client, Load, until};

on_both_suites!(
    it_installs_a_service_that_serves,
    an_upgrade_loses_no_connection,
    an_upgrade_over_a_fault_keeps_the_old_daemon,
    what_the_administrator_changed_stays,
    the_units_follow_an_upgrade_of_systemd,
);

const APT: &str = "apt-get install --yes --quiet=2 --option Dpkg::Use-Pty=0 ";

fn it_installs_a_service_that_serves(suite: &'static str) {
    let Some(lab) = Lab::boot(suite) else { return };
    lab.copy(package::first(), "/root");
    lab.sh(&format!("{APT} /root/preforkd_0.1.0-1_*.deb"));
    assert_eq!(lab.show("ActiveState"), "active");
    lab.inside(|| assert_serves(&shipped_address()));

    // The files, and none that is not as it was shipped.
    lab.sh("dpkg --verify preforkd");
    for file in [
        "/usr/sbin/preforkd",
        "/etc/preforkd/pool.d",
        "/usr/lib/systemd/system/preforkd.service",
        "/usr/lib/systemd/system/preforkd@.service",
        "/usr/lib/systemd/system/preforkd.socket",
        "/usr/share/bash-completion/completions/preforkd",
        "/usr/share/zsh/vendor-completions/_preforkd",
        "/usr/share/fish/vendor_completions.d/preforkd.fish",
        "/usr/share/doc/preforkd/copyright",
        "/usr/share/doc/preforkd/examples/full.toml",
        "/usr/share/doc/preforkd/from-inetd.md",
        "/usr/share/doc/preforkd/operating.md",
        "/usr/lib/preforkd/check-as-service",
        "/etc/logrotate.d/preforkd",
    ] {
        assert!(lab.has(file), "no {file}");
    }
    let conffiles = lab.sh("dpkg-query --show --showformat '${Conffiles}' preforkd");
    assert!(conffiles.contains(" /etc/preforkd/preforkd.toml "), "{conffiles}");
    for page in ["8 preforkd", "5 preforkd.toml"] {
        let warnings = lab.try_sh(&format!("man --warnings {page} >/dev/null")).err;
        assert_eq!(warnings, "", "man {page}");
    }

    // The user, the units and the catalog are known.
    let user = lab.sh("getent passwd preforkd");
    assert!(user.ends_with(":/:/usr/sbin/nologin\n"), "{user}");
    assert_eq!(lab.sh("systemctl is-enabled preforkd.service"), "enabled\n");
    assert_eq!(lab.try_sh("systemctl is-enabled preforkd.socket").out, "disabled\n");
    let kind = if lab.is_modern() { "notify-reload" } else { "notify" };
    assert_eq!(lab.show("Type"), kind);
    let catalog = lab.sh("journalctl --list-catalog | grep --count preforkd: || :");
    let entries = include_str!("../../packaging/catalog/preforkd.catalog").matches("\n-- ").count();
    assert_eq!(catalog.trim(), entries.to_string(), "the entries of the catalog");
}

fn an_upgrade_loses_no_connection(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.copy(package::second(), "/root");
    let address = shipped_address();
    let master = lab.master();
    let load = lab.inside(|| Load::start(&address, 2, usize::MAX));
    let mut client = lab.inside(|| Client::connect(&address));
    client.ping("before");
    load.wait_for(100);
    let upgrade = lab.spawn(&format!("{APT} /root/preforkd_0.1.0-2_*.deb"));
    // The old daemon has it in hand, and finishes it.
    lab.wait_for("ActiveState", |state| state == "deactivating");
    client.ping("meanwhile");
    drop(client);
    let said = upgrade.join().expect("the upgrade");
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    load.wait_for(100);
    load.stop();
    let tally = load.finish();
    let lost = tally.refused + tally.unanswered + tally.short + tally.wrong;
    assert_eq!(lost, 0, "{tally:?}");
    assert_ne!(lab.master(), master, "the new daemon runs");
    assert_eq!(lab.show("NRestarts"), "0");
}

// Over a file with a fault the new daemon would not start, and the listeners be lost.
fn an_upgrade_over_a_fault_keeps_the_old_daemon(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.copy(package::second(), "/root");
    let master = lab.master();
    let good = lab.read("/etc/preforkd/preforkd.toml");
    lab.configure(&format!("{good}\nwokers = 3\n"));
    let said = lab.try_sh(&format!("{APT} /root/preforkd_0.1.0-2_*.deb"));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("unknown key \"wokers\""), "{said:?}");
    assert!(said.err.contains("preforkd was not restarted"), "{said:?}");
    assert_eq!((lab.master(), lab.show("ActiveState")), (master, "active".into()));
    lab.inside(|| assert_serves(&shipped_address()));
    lab.configure(&good);
    lab.sh("systemctl restart preforkd");
    assert_ne!(lab.master(), master);
    lab.inside(|| assert_serves(&shipped_address()));
}

fn what_the_administrator_changed_stays(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.copy(package::second(), "/root");
    let file = "/etc/preforkd/preforkd.toml";
    let mine = lab.read(file).replace("workers = 4", "workers = 3");
    lab.configure(&mine);
    lab.write(
        "/etc/preforkd/pool.d/mine.toml",
        "[pool.mine]\nlisten = \"@mine\"\nservice = \"echo\"\n",
    );
    lab.sh(&format!("{APT} --reinstall /root/preforkd_0.1.0-1_*.deb"));
    assert_eq!(lab.read(file), mine, "after the same version again");
    assert_eq!(lab.show("ActiveState"), "active");

    // Who has stopped and disabled it does not want it started.
    lab.sh("systemctl disable --now preforkd");
    lab.sh(&format!("{APT} /root/preforkd_0.1.0-2_*.deb"));
    assert_eq!(lab.read(file), mine, "after an upgrade");
    assert_eq!(lab.show("ActiveState"), "inactive");
    assert_eq!(lab.try_sh("systemctl is-enabled preforkd").out, "disabled\n");
    lab.sh("systemctl enable --now preforkd");

    lab.sh("apt-get remove --yes --quiet=2 preforkd");
    assert_eq!(lab.read(file), mine, "after the removal");
    let left = lab.sh("pgrep preforkd || systemctl is-active preforkd || :");
    assert_eq!(left, "inactive\n", "after the removal");
    lab.sh(&format!("{APT} /root/preforkd_0.1.0-1_*.deb"));
    assert_eq!(lab.read(file), mine, "after the installation");
    lab.sh("systemctl is-active preforkd");

    lab.sh("rm /root/*.deb /etc/preforkd/pool.d/mine.toml; apt-get purge --yes --quiet=2 preforkd");
    // systemd removes the service's own /tmp when it comes to it.
    until("nothing is left after the purge", || {
        let left = lab.try_sh("find / -xdev -name '*preforkd*'");
        (left.code == 0 && left.out.is_empty()).then_some(())
    });
    assert_eq!(lab.sh("journalctl --list-catalog | grep preforkd || :"), "", "after the purge");
}

fn the_units_follow_an_upgrade_of_systemd(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let dropin = "/usr/lib/systemd/system/preforkd.service.d/10-notify-reload.conf";
    assert_eq!(lab.has(dropin), lab.is_modern());
    // As if systemd had been of the other kind when the package was installed.
    let other = if lab.is_modern() { "252" } else { "257" };
    let fake = format!(
        "#!/bin/sh\n[ \"$1\" != --version ] || exec echo systemd {other}\n\
         exec /usr/bin/systemctl \"$@\"\n"
    );
    lab.write("/usr/local/bin/systemctl", &fake);
    let trigger =
        "dpkg-trigger --by-package=systemd /usr/lib/systemd/systemd; dpkg --triggers-only preforkd";
    lab.sh(&format!("chmod +x /usr/local/bin/systemctl; {trigger}"));
    assert_eq!(lab.has(dropin), !lab.is_modern());
    lab.sh(&format!("rm /usr/local/bin/systemctl; {trigger}"));
    assert_eq!(lab.has(dropin), lab.is_modern());
    let kind = if lab.is_modern() { "notify-reload" } else { "notify" };
    assert_eq!(lab.show("Type"), kind);
    lab.sh("systemctl is-active preforkd");
}
