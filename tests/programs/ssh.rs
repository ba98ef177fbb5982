//! `sshd -i` with ssh(1): it sets its user by itself, so it runs as root, and it ends each
//! good session with status 255.

use std::fs::{self, File};
use std::process::Command;

use crate::harness::{Served, Task, Under, client, random_file, run, run_through};
use support::command::finish;
use support::{Directory, Event, is_root, provided};

run_under!([Ours, Inetd] sessions_are_whole);

/// What only ours has.
mod ours_alone {
    #[test]
    fn good_sessions_are_no_warnings() {
        super::good_sessions_are_no_warnings(super::Under::Ours);
    }
}

/// Keys, a configuration and a known host of the test's own.
fn configure(directory: &Directory) -> String {
    for key in ["host", "user"] {
        let file = directory.join(key);
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file));
    }
    let path = |name: &str| directory.join(name).display().to_string();
    let text = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
         PermitRootLogin yes\nPasswordAuthentication no\nUseDNS no\n",
        path("host"),
        path("user.pub")
    );
    directory.write("sshd_config", &text).display().to_string()
}

fn ssh(served: &Served, directory: &Directory, command: &str) -> Command {
    let path = |name: &str| directory.join(name).display().to_string();
    let host = fs::read_to_string(directory.join("host.pub")).expect("the host's key");
    let known = format!("[{}]:{} {host}", served.ip(), served.port());
    let known = directory.write("known", &known).display().to_string();
    let known = format!("UserKnownHostsFile={known}");
    let (key, port) = (path("user"), served.port());
    let options = ["-F", "none", "-o", &known, "-o", "StrictHostKeyChecking=yes", "-i", &key];
    let target = ["-o", "IdentitiesOnly=yes", "-p", &port, &format!("root@{}", served.ip())];
    client(&[&["ssh", "-q"], &options[..], &target[..], &[command]].concat())
}

fn sessions_are_whole(under: Under) {
    if !under.has(&["sshd", "ssh", "ssh-keygen"]) || !provided(is_root(), "root") {
        return;
    }
    // The package makes it when it starts its service.
    fs::create_dir_all("/run/sshd").expect("the directory that sshd wants");
    let directory = Directory::new();
    let config = configure(&directory);
    let command = ["/usr/sbin/sshd", "-i", "-f", &config];
    let keys = "service.exec.success = [0, 255]\n";
    let served = under.serve(&Task { user: Some("root"), keys, ..Task::of(&command) });
    let ssh = |command: &str| ssh(&served, &directory, command);

    assert_eq!(run(&mut ssh("echo hello; id -u")).out, "hello\n0\n");
    assert_eq!(finish(&mut ssh("exit 7")).code, Some(7));
    // Down, with all workers replaced in the middle, and up.
    let (large, back) = (directory.join("large"), directory.join("back"));
    random_file(&large, 30 << 20);
    let text = fs::read(&large).expect("read it");
    let came = run_through(ssh(&format!("cat {}", large.display())), || served.renew());
    assert!(came == text, "not the same came");
    let mut upload = ssh(&format!("cat > {}", back.display()));
    upload.stdin(File::open(&large).expect("open it"));
    assert!(upload.status().is_ok_and(|status| status.success()), "the upload failed");
    assert!(fs::read(&back).expect("read what came") == text, "not the same was sent");
}

fn good_sessions_are_no_warnings(under: Under) {
    if !under.has(&["sshd", "ssh", "ssh-keygen"]) || !provided(is_root(), "root") {
        return;
    }
    fs::create_dir_all("/run/sshd").expect("the directory that sshd wants");
    let directory = Directory::new();
    let config = configure(&directory);
    let command = ["/usr/sbin/sshd", "-i", "-f", &config];
    let keys = "access_log = true\nservice.exec.success = [0, 255]";
    let served = under.serve(&Task { user: Some("root"), keys, ..Task::of(&command) });
    for _ in 0..3 {
        assert_eq!(run(&mut ssh(&served, &directory, "echo hello")).out, "hello\n");
    }
    let daemon = served.daemon().expect("ours");
    let is_end = |event: &Event| event.message() == "connection closed";
    let ends = daemon.log().wait_count(daemon.log().start(), 3, "the ends", is_end);
    for end in ends {
        assert_eq!((end.level(), end.number("code")), ("info", Some(255)), "{end}");
        assert!(end.number("received_bytes") > Some(1000), "keys were exchanged: {end}");
    }
    // The harness finds any warning when the daemon ends.
}
