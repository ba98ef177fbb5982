//! The service with a log file: what the journal still gets, what a full disk does to the
//! file, and its rotation; and a start that fails before there is any log.

use serde_json::Value;

use crate::lab::{Lab, text};
use support::client::ask;
use support::{Address, until};

on_both_suites!(
    the_journal_still_gets_what_concerns_the_service,
    a_start_that_fails_is_told_as_an_entry,
    a_full_disk_tears_no_line_and_is_told_at_once,
    rotation_keeps_what_it_rotates,
);

const LOG: &str = "/var/log/preforkd/preforkd.log";
const POOL: &str = "
    [log]
    file = \"/var/log/preforkd/preforkd.log\"
    format = \"json\"
    [pool.shell]
    listen = \"127.0.0.1:7007\"
    service.exec.command = [\"/bin/sh\", \"-c\", 'read -r line; eval \"$line\"']
    workers = 3
";

fn address() -> Address {
    crate::lab::shipped_address()
}

/// The messages of the daemon in the journal that are entries of its own.
fn entries(lab: &Lab) -> Vec<Value> {
    let mut entries = lab.journal("_SYSTEMD_UNIT=preforkd.service");
    entries.retain(|entry| text(entry, "_TRANSPORT") == "journal");
    entries
}

fn messages(lab: &Lab) -> Vec<String> {
    let event = |entry: &Value| {
        let message = text(entry, "MESSAGE");
        message.split(", ").next().unwrap_or(message).to_owned()
    };
    entries(lab).iter().map(event).collect()
}

fn the_journal_still_gets_what_concerns_the_service(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.sh("systemctl stop preforkd; journalctl --rotate; journalctl --vacuum-time=1us");
    lab.configure(POOL);
    lab.sh("systemctl start preforkd");
    lab.configure(&POOL.replace("workers = 3", "workers = 4"));
    lab.sh("systemctl reload preforkd");
    lab.configure("[pool");
    assert_ne!(lab.try_sh("systemctl reload preforkd").code, 0);
    lab.sh("systemctl stop preforkd");
    lab.wait_for_entry("stopped", "CAUSE=SIGTERM");
    let expected = ["logging to file", "ready", "reloaded", "reload failed", "stopping", "stopped"];
    assert_eq!(messages(&lab), expected);
    let first = &entries(&lab)[0];
    assert_eq!((text(first, "LOG"), text(first, "PRIORITY")), (LOG, "6"), "{first}");
    // The file has all of it, and what concerns the pools.
    let file = lab.read(LOG);
    for message in ["listening", "pool reloaded", "reload failed", "stopped"] {
        assert!(file.contains(&format!("\"msg\":\"{message}\"")), "{message}: {file}");
    }
}

fn a_start_that_fails_is_told_as_an_entry(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let good = POOL.replace("file = ", "#file = ");
    for (config, reason) in [
        (good.replace("workers", "wokers"), "unknown key \"wokers\""),
        (good.replace("workers", "user = \"nobody\"\nworkers"), "cannot become user \"nobody\""),
        (POOL.replace("/var/log/preforkd/", "/var/log/"), "could not open log"),
    ] {
        lab.sh("systemctl stop preforkd; journalctl --rotate; journalctl --vacuum-time=1us");
        lab.configure(&config);
        assert_ne!(lab.try_sh("systemctl start preforkd").code, 0);
        let entry = lab.wait_for_entry("could not start", "PRIORITY=2");
        assert_eq!(text(&entry, "MESSAGE_ID"), "fb617930ed974422bc0cdf2d88593b5f", "{entry}");
        assert_eq!(text(&entry, "SYSLOG_IDENTIFIER"), "preforkd", "{entry}");
        assert!(text(&entry, "REASON").contains(reason), "{entry}");
        // Once: nothing repeats it as a line without fields.
        let lines = lab.journal("_COMM=preforkd");
        let lines = lines.iter().filter(|entry| text(entry, "_TRANSPORT") == "stdout");
        assert_eq!(lines.count(), 0);
    }
}

fn a_full_disk_tears_no_line_and_is_told_at_once(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.sh("systemctl stop preforkd; mkdir -p /var/log/preforkd
            mount -t tmpfs -o size=64k,mode=750 none /var/log/preforkd
            chown preforkd:preforkd /var/log/preforkd");
    lab.configure(POOL);
    lab.sh("systemctl start preforkd");
    let complain = |count: usize| {
        let loud = format!("for i in $(seq {count}); do echo a line of a program >&2; done\n");
        lab.inside(|| ask(&address(), &loud));
    };
    complain(20);
    lab.sh("dd if=/dev/zero of=/var/log/preforkd/filler bs=512 status=none || :");
    complain(60);
    // The master, too, loses lines, and says so where there is room.
    lab.sh("systemctl kill --kill-whom=main --signal=TTIN preforkd");
    lab.sh("systemctl kill --kill-whom=main --signal=TTIN preforkd");
    lab.wait_for("StatusText", |status| status.contains("the log has no room, lines lost: "));
    let entry = lab.wait_for_entry("log lines lost", "PRIORITY=4");
    assert!(text(&entry, "COUNT").parse::<u64>().is_ok_and(|count| count > 0), "{entry}");
    let lost = |lab: &Lab| lab.read(LOG).matches("\"log lines lost\"").count();
    // A line that is short enough may still have found room in the last block.
    let before = lost(&lab);

    // Nothing happens but that there is room again.
    lab.sh("rm /var/log/preforkd/filler");
    until("the file has it", || (lost(&lab) > before).then_some(()));
    lab.wait_for("StatusText", |status| !status.contains("lines lost"));
    complain(20);
    for line in lab.read(LOG).lines() {
        let record: Result<Value, _> = serde_json::from_str(line);
        assert!(record.is_ok(), "a torn line: {line}");
    }
}

fn rotation_keeps_what_it_rotates(suite: &'static str) {
    const ROUNDS: usize = 17;
    let Some(lab) = Lab::with_package(suite) else { return };
    let rotate = "logrotate --force /etc/logrotate.d/preforkd 2>&1";
    // Without a log file there is nothing to do, and nothing to say.
    assert_eq!(lab.sh(rotate), "");
    assert_eq!(lab.sh("ls -A /var/log/preforkd"), "");
    lab.configure(POOL);
    lab.sh("systemctl restart preforkd");
    for round in 0..ROUNDS {
        lab.inside(|| ask(&address(), &format!("echo in round {round}. >&2\n")));
        until("the line is there", || {
            lab.read(LOG).contains(&format!("in round {round}.")).then_some(())
        });
        assert_eq!(lab.sh(rotate), "");
        until("all write to the new file", || {
            let has_old = "for pid in $(pgrep preforkd); do readlink /proc/$pid/fd/*; done | \
                           grep -c 'preforkd[.]log[.]' || :";
            (lab.has(LOG) && lab.sh(has_old).trim() == "0").then_some(())
        });
    }
    let files = lab.sh("ls /var/log/preforkd");
    let rotated = files.lines().filter(|file| file.starts_with("preforkd.log.")).count();
    let packed = files.lines().filter(|file| file.ends_with(".gz")).count();
    assert_eq!((rotated, packed), (14, 13), "{files}");
    // The lines of the last rounds are there, each in its own file.
    let kept = lab.sh("cd /var/log/preforkd; cat preforkd.log.1; zcat preforkd.log.*.gz");
    for round in ROUNDS - 14..ROUNDS {
        assert!(kept.contains(&format!("in round {round}.")), "{round}: {kept}");
    }
    assert_eq!(lab.sh("stat --format %U:%a /var/log/preforkd"), "preforkd:750\n");

    // A service that does not run has nothing to be told.
    lab.sh("systemctl stop preforkd");
    assert_eq!(lab.sh(rotate), "");
}
