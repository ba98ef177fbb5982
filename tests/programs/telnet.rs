//! telnetd(8) of inetutils, which makes a terminal as root, with telnet(1).

use std::process::Command;

use crate::harness::{Task, Under, client, run, run_typing};
use support::{Directory, is_root, provided};

run_under!([Ours, Inetd] a_session_has_a_terminal);

fn a_session_has_a_terminal(under: Under) {
    if !under.has(&["telnetd", "telnet"]) || !provided(is_root(), "root") {
        return;
    }
    let directory = Directory::new();
    // It waits after its answer: telnetd drops what its terminal still holds when the
    // login ends, under inetd as well.
    let text =
        "#!/bin/sh\ntty\necho 'say it:'\nread -r line\necho \"heard: $line\"\nread -r line\n";
    let login = directory.write("login", text);
    run(Command::new("chmod").arg("755").arg(&login));
    let command = ["/usr/sbin/telnetd", "-h", "-E", &login.display().to_string()];
    let served = under.serve(&Task { user: Some("root"), ..Task::of(&command) });
    let mut telnet = client(&["telnet", &served.ip(), &served.port()]);
    let talk = [("say it:", "good day\n"), ("heard: good day", "\n")];
    let said = run_typing(&mut telnet, talk, || served.renew());
    assert!(said.contains("/dev/pts/"), "{said}");
}
