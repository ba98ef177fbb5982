//! A peer's own configuration, imported: ours answers as the peer did.

use std::path::PathBuf;

use crate::harness::{Served, Task, Under, run};
use support::client::ask;
use support::command::preforkd;
use support::{Daemon, Directory};

run_under!([Inetd, Xinetd] an_imported_service_answers_as_before);

fn an_imported_service_answers_as_before(under: Under) {
    if !under.has(&["cat", "sh", "tcpd", "in.fingerd", "rsync"]) {
        return;
    }
    let directory = Directory::new();
    let text = "[alpha]\ncomment = the first\npath = /tmp\n[beta]\npath = /tmp\n";
    let config = format!("--config={}", directory.write("rsyncd.conf", text).display());
    let cat = ["/bin/cat"];
    let script = directory.write("script", "echo $0:$#:$1:$2\n").display().to_string();
    let name = ["/bin/sh", &script, "one", "--two=2"];
    let finger = ["/usr/sbin/tcpd"];
    let rsync = ["/usr/bin/rsync", "--daemon", &config];
    let tasks = [
        (Task::of(&cat), "what is sent\n"),
        (Task::of(&name), ""),
        (Task { argv0: Some("/usr/sbin/in.fingerd"), ..Task::of(&finger) }, "nobody-at-all\r\n"),
        (Task::of(&rsync), "@RSYNCD: 31.0\n\n"),
    ];
    for (task, request) in &tasks {
        let peer = under.serve(task);
        let address = peer.address().clone();
        let before = ask(&address, request);
        assert!(!before.is_empty(), "{:?} says nothing", task.command);
        let pools = imported(&peer);
        drop(peer);
        let daemon = Daemon::start(&pools);
        assert_eq!(ask(&address, request), before, "{pools}");
        // in.fingerd and rsync may end with another status than 0.
        daemon.expect(&["program exited"]);
    }
}

/// The pools for what the peer has as its configuration.
#[track_caller]
fn imported(peer: &Served) -> String {
    let file: PathBuf = peer.configuration().expect("the file of the peer");
    run(preforkd().arg("import").arg(file)).out
}
