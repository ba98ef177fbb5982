//! popa3d(8), which needs root and becomes the owner of the mailbox, with curl(1).

use std::fs;
use std::process::Command;

use crate::harness::{Task, Under, client, run};
use support::command::finish;
use support::{Directory, is_root, provided};

run_under!([Ours, Inetd] mail_is_fetched);

/// The user that the program sees, and no other one.
const USER: &str = "tester:x:4321:4321::/nonexistent:/bin/sh";

/// Writes a mailbox, and a script that runs the program with a user database of its own.
fn prepare(directory: &Directory, mails: usize) -> String {
    let path = |name: &str| directory.join(name).display().to_string();
    let mail = format!("From x@localhost Sat Nov 28 00:00:00 2026\nSubject: one\n\n{}\n", body());
    fs::create_dir(path("mail")).expect("make a directory");
    directory.write("mail/tester", &mail.repeat(mails));
    run(Command::new("chown").args(["4321:mail", &path("mail/tester")]));
    let users = fs::read_to_string("/etc/passwd").expect("read the users");
    directory.write("passwd", &format!("{users}{USER}\n"));
    let secret = run(Command::new("openssl").args(["passwd", "-6", "secret"])).out;
    directory.write("shadow", &format!("tester:{}:19000:0:99999:7:::\n", secret.trim()));
    run(Command::new("chmod").args(["600", &path("shadow")]));
    let binds = [("passwd", "/etc/passwd"), ("shadow", "/etc/shadow"), ("mail", "/var/mail")];
    let bind = |(from, to): (&str, &str)| format!("mount --bind {} {to}\n", path(from));
    let script = binds.map(bind).concat() + "exec /usr/sbin/popa3d\n";
    directory.write("script", &format!("set -e\n{script}")).display().to_string()
}

fn body() -> String {
    (0..20_000).map(|number| format!("line {number}\n")).collect()
}

fn mail_is_fetched(under: Under) {
    let programs = ["popa3d", "curl", "unshare", "openssl"];
    if !under.has(&programs) || !provided(is_root(), "root") {
        return;
    }
    let directory = Directory::new();
    let script = prepare(&directory, 3);
    let command = ["/usr/bin/unshare", "--mount", "/bin/sh", &script];
    let served = under.serve(&Task { user: Some("root"), ..Task::of(&command) });
    let curl = |name: &str, more: &[&str]| {
        let url = format!("pop3://{}/{name}", served.address());
        client(&[&["curl", "-sS", "-u", "tester:secret", &url], more].concat())
    };
    assert_eq!(run(&mut curl("", &[])).out.lines().count(), 3);
    assert!(run(&mut curl("2", &[])).out.replace('\r', "").ends_with(&body()), "not all came");
    run(&mut curl("1", &["-I", "--request", "DELE"]));
    assert_eq!(run(&mut curl("", &[])).out.lines().count(), 2);
    // Another password.
    let refused = finish(&mut curl("", &["-u", "tester:wrong"]));
    assert_ne!(refused.code, Some(0), "{refused:?}");
}
