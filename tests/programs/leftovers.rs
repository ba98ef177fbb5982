//! What programs leave running, and the end of the client's stream, under ours and under
//! inetd.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Task, Under, client, run};
use support::{Client, Directory, is_root, provided, until};

run_under!([Ours, Inetd]
    what_is_started_in_the_background_is_done,
    a_hook_of_git_works_on_after_the_push,
    each_mail_is_delivered_once,
    a_client_that_was_handed_on_is_served_to_the_end,
    a_stream_ends_when_the_program_closes_it,
);

/// Each way to work on without the program, ten times each.
fn what_is_started_in_the_background_is_done(under: Under) {
    if !under.has(&["setsid"]) {
        return;
    }
    let directory = Directory::new();
    let done = directory.write("done", "").display().to_string();
    let work = format!("sleep 0.3; echo done >> {done}");
    let script = format!(
        "read how; case $how in group) ({work}) & ;; session) setsid sh -c '{work}' & ;; \
         both) (setsid sh -c '{work}' &) ;; esac; echo started"
    );
    let served = under.serve(&Task::of(&["/bin/sh", "-c", &script]));
    for how in ["group", "session", "both"].repeat(10) {
        let mut client = Client::connect(served.address());
        client.send(&format!("{how}\n"));
        client.expect("started\n");
    }
    served.renew();
    until("all of it is done", || {
        let lines = fs::read_to_string(&done).ok()?.lines().count();
        (lines == 30).then_some(())
    });
}

/// A hook that starts something slow does not hold up the push, and the slow part is done.
fn a_hook_of_git_works_on_after_the_push(under: Under) {
    if !under.has(&["git", "git-daemon"]) {
        return;
    }
    const PUSHES: usize = 5;
    let directory = Directory::new();
    let path = |name: &str| directory.join(name).display().to_string();
    let config = directory.write("config", "[user]\nname = x\nemail = x@localhost\n");
    let variable = format!("GIT_CONFIG_GLOBAL={}", config.display());
    let git = |words: &[&str]| {
        run(&mut client(&[&["/usr/bin/env", &variable, "/usr/bin/git"], words].concat()))
    };
    fs::create_dir(directory.join("served")).expect("make a directory");
    let (bare, work, done) = (path("served/x.git"), path("work"), path("done"));
    git(&["init", "-q", "--bare", "-b", "main", &bare]);
    git(&["-C", &bare, "config", "daemon.receivepack", "true"]);
    let hook = directory.join("served/x.git/hooks/post-receive");
    let script =
        format!("#!/bin/sh\n(sleep 0.5; echo done >> {done}) >/dev/null 2>&1 </dev/null &\n");
    fs::write(&hook, script).expect("write the hook");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("make it a program");
    git(&["init", "-q", "-b", "main", &work]);
    let base_path = format!("--base-path={}", path("served"));
    let served = path("served");
    let options = ["daemon", "--inetd", "--export-all", "--reuseaddr", &base_path, &served];
    let command = [&["/usr/bin/env", &variable, "/usr/bin/git"], &options[..]].concat();
    let served = under.serve(&Task::of(&command));
    let url = format!("git://{}/x.git", served.address());
    for _ in 0..PUSHES {
        git(&["-C", &work, "commit", "-q", "--allow-empty", "-m", "next"]);
        git(&["-C", &work, "push", "-q", &url, "main"]);
    }
    until("every hook has done its work", || {
        let lines = fs::read_to_string(&done).ok()?.lines().count();
        (lines == PUSHES).then_some(())
    });
}

/// exim4 -bs takes a mail and forks its delivery, which here takes longer than the session.
fn each_mail_is_delivered_once(under: Under) {
    if !under.has(&["exim4"]) || !provided(is_root(), "root, for exim") {
        return;
    }
    const MAILS: usize = 6;
    let directory = Directory::new();
    run(Command::new("chmod").arg("755").arg(directory.path()));
    for name in ["spool", "mail", "log"] {
        let path = directory.join(name);
        fs::create_dir(&path).expect("make a directory");
        run(Command::new("chown").arg("Debian-exim:").arg(&path));
    }
    let root = directory.path().display();
    // The transport hands the mail to a program that is slow.
    let deliver = directory.write(
        "deliver",
        &format!("#!/bin/sh\nsleep 1\ncat > {root}/mail/$$.tmp && mv {root}/mail/$$.tmp {root}/mail/$$.mail\n"),
    );
    run(Command::new("chmod").arg("755").arg(&deliver));
    let text = format!(
        "primary_hostname = localhost\nspool_directory = {root}/spool\n\
         log_file_path = {root}/log/%slog\nacl_smtp_rcpt = accept\nkeep_environment =\n\
         never_users =\nbegin acl\naccept:\n  accept\nbegin routers\nall:\n  driver = accept\n  \
         transport = slow\nbegin transports\nslow:\n  driver = pipe\n  \
         command = {}\n  user = Debian-exim\n  return_output = false\n",
        deliver.display()
    );
    let config = directory.write("exim.conf", &text).display().to_string();
    run(Command::new("chmod").arg("644").arg(&config));
    let command = ["/usr/sbin/exim4", "-C", &config, "-bs"];
    let served = under.serve(&Task { user: Some("root"), ..Task::of(&command) });
    for number in 0..MAILS {
        let mut smtp = Client::connect(served.address());
        say(&mut smtp, None, "220");
        for line in ["HELO localhost", "MAIL FROM:<a@localhost>", "RCPT TO:<b@localhost>", "DATA"] {
            let code = if line == "DATA" { "354" } else { "250" };
            say(&mut smtp, Some(&format!("{line}\r\n")), code);
        }
        say(&mut smtp, Some(&format!("Subject: {number}\r\n\r\nmail {number}\r\n.\r\n")), "250");
        say(&mut smtp, Some("QUIT\r\n"), "221");
    }
    let mails = || {
        let files = fs::read_dir(directory.join("mail")).expect("the mails").flatten();
        let mut mails: Vec<_> = files
            .filter(|file| file.path().extension().is_some_and(|it| it == "mail"))
            .map(|file| fs::read_to_string(file.path()).expect("a mail"))
            .collect();
        mails.sort();
        mails
    };
    until("every mail is delivered", || (mails().len() >= MAILS).then_some(()));
    // What a queue runner finds would be delivered again.
    let exim = ["/usr/sbin/exim4", "-C", &config, "-qff"];
    run(&mut client(&exim));
    let bodies: Vec<_> = mails();
    assert_eq!(bodies.len(), MAILS, "{bodies:?}");
    for number in 0..MAILS {
        let body = format!("mail {number}\n");
        assert_eq!(bodies.iter().filter(|mail| mail.contains(&body)).count(), 1, "{bodies:?}");
    }
}

/// Sends a command of SMTP, and reads an answer of one line.
#[track_caller]
fn say(client: &mut Client, command: Option<&str>, code: &str) {
    if let Some(command) = command {
        client.send(command);
    }
    let mut line = String::new();
    while !line.ends_with('\n') {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("read an answer");
        line.push(char::from(byte[0]));
    }
    assert!(line.starts_with(code), "{command:?}: {line}");
}

/// The program hands its client to a child with a session of its own, and ends.
fn a_client_that_was_handed_on_is_served_to_the_end(under: Under) {
    if !under.has(&["setsid"]) {
        return;
    }
    let child = "for i in 1 2 3 4 5; do sleep 0.1; read word; echo \"$i $word\"; done";
    let script = format!("exec 3<&0; setsid sh -c '{child}' <&3 &");
    let served = under.serve(&Task::of(&["/bin/sh", "-c", &script]));
    // With nothing unread at the end of the program, and with all of it.
    for is_early in [false, true] {
        let mut client = Client::connect(served.address());
        if is_early {
            client.send("one\ntwo\nthree\nfour\nfive\n");
        } else {
            std::thread::sleep(Duration::from_millis(200));
            client.send("one\ntwo\nthree\nfour\nfive\n");
        }
        let mut text = String::new();
        client.read_to_string(&mut text).expect("read to the end");
        assert_eq!(text, "1 one\n2 two\n3 three\n4 four\n5 five\n");
    }
}

/// The program closes the connection and works on.
fn a_stream_ends_when_the_program_closes_it(under: Under) {
    if !under.has(&[]) {
        return;
    }
    let script = "echo answered; exec <&- >&- 2>&-; sleep 1000";
    let keys = "service.exec.end_of_stream = \"close\"";
    let served = under.serve(&Task { keys, ..Task::of(&["/bin/sh", "-c", script]) });
    served.expect(&["program killed", "connection cut", "leftovers killed"]);
    let began = Instant::now();
    for _ in 0..4 {
        let mut client = Client::connect(served.address());
        client.write_all(b"").expect("nothing");
        // Its time limit is far below that of the program.
        assert_eq!(client.rest(), "answered\n");
    }
    assert!(began.elapsed() < Duration::from_secs(1000));
    if let Some(daemon) = served.daemon() {
        daemon.signal(nix::sys::signal::Signal::SIGINT);
        daemon.wait_for_code(0);
    }
}
