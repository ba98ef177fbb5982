//! What the unit forbids, and that it is well written.

use std::fs;

use crate::lab::Lab;
use crate::page::drop_ins;
use support::procfs;

on_both_suites!(the_unit_is_tight_and_well_written, every_drop_in_of_the_manual_works);

fn the_unit_is_tight_and_well_written(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let verified = lab
        .try_sh("systemd-analyze verify preforkd.service preforkd@x.service preforkd.socket 2>&1");
    assert_eq!((verified.code, verified.out.as_str()), (0, ""));
    lab.sh("systemd-analyze security --threshold=20 preforkd.service");
    let user = lab.sh("id --user preforkd");
    for pid in lab.workers().into_iter().chain([lab.master()]) {
        let status = |key| procfs::status(pid, key).expect("the status of a process");
        let ids: Vec<_> = status("Uid").split_whitespace().map(str::to_owned).collect();
        assert_eq!(ids, vec![user.trim(); 4], "not root");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(set).trim_start_matches('0'), "", "{set}");
        }
        assert_eq!((status("NoNewPrivs"), status("Seccomp")), ("1".to_owned(), "2".to_owned()));
        // Its view of the file system.
        let view = |path: &str| format!("/proc/{pid}/root{path}");
        assert!(fs::read_dir(view("/root")).map_or(true, |mut files| files.next().is_none()));
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).expect("its mounts");
        let is_read_only = |place: &str| {
            let mount = mounts.lines().rev().find(|line| line.split(' ').nth(1) == Some(place));
            mount
                .and_then(|line| line.split(' ').nth(3))
                .is_some_and(|options| options.starts_with("ro"))
        };
        assert!(is_read_only("/"), "{mounts}");
        assert!(!is_read_only("/run/preforkd"), "{mounts}");
    }
}

fn every_drop_in_of_the_manual_works(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let examples = drop_ins();
    assert!(examples.len() >= 5, "the examples are not found");
    for example in examples {
        lab.edit(&example);
        let verified = lab.try_sh("systemd-analyze verify preforkd.service 2>&1");
        assert_eq!((verified.code, verified.out.as_str()), (0, ""), "{example}");
        let said = lab.try_sh("systemctl restart preforkd");
        assert_eq!(said.code, 0, "{example}{}", said.err);
        let master = lab.master();
        lab.sh("systemctl reload preforkd");
        let writable = |path: &str| {
            let said = lab.try_sh(&format!(
                "nsenter --target $(systemctl show -P MainPID preforkd) \
                 --mount setpriv --reuid preforkd --regid preforkd --clear-groups touch {path}/x"
            ));
            said.code == 0
        };
        // An earlier drop-in has made the directory.
        let is_open = example.contains("ProtectSystem=no");
        let has_state = example.contains("StateDirectory=preforkd") || is_open;
        assert_eq!(writable("/var/lib/preforkd"), has_state, "with {example}");
        // The unit itself has it, for whoever is its user.
        if !example.contains("\nUser=") {
            assert!(writable("/var/log/preforkd"), "with {example}");
        }
        if example.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE") {
            let ambient = procfs::status(master, "CapAmb").expect("its capabilities");
            assert_eq!(ambient.trim_start_matches('0'), "400");
        }
        if example.contains("SupplementaryGroups=www-data") {
            let group = lab.sh("getent group www-data | cut -d: -f3");
            let groups = procfs::status(master, "Groups").expect("its groups");
            assert!(groups.split(' ').any(|id| id == group.trim()), "{groups}");
        }
    }
}
