//! `rsync --daemon`, in a chroot, with rsync(1).

use std::fs;
use std::process::Command;

use crate::gate::Gate;
use crate::harness::{Task, Under, client, random_file, run};
use support::{Directory, is_root, provided};

run_under!([Ours, Inetd] a_tree_goes_there_and_back);

fn a_tree_goes_there_and_back(under: Under) {
    if !under.has(&["rsync"]) || !provided(is_root(), "root") {
        return;
    }
    let directory = Directory::new();
    let path = |name: &str| directory.join(name).display().to_string();
    for name in ["served", "sent", "back"] {
        fs::create_dir(directory.join(name)).expect("make a directory");
    }
    run(Command::new("chown").args(["nobody", &path("served")]));
    random_file(&directory.join("sent/large"), 30 << 20);
    for number in 0..200 {
        random_file(&directory.join(&format!("sent/{number}")), 3_000);
    }
    let gate = Gate::new(&directory, "transfer");
    let text = format!(
        "use chroot = yes\n[data]\npath = {}\nread only = no\nuid = nobody\ngid = nogroup\n\
         pre-xfer exec = {}\n",
        path("served"),
        gate.script("")
    );
    let config = format!("--config={}", directory.write("rsyncd.conf", &text).display());
    let command = ["/usr/bin/rsync", "--daemon", &config];
    let served = under.serve(&Task { user: Some("root"), ..Task::of(&command) });

    let url = format!("rsync://{}/data/", served.address());
    let sent = path("sent/");
    let mut there = client(&["rsync", "-rt", &sent, &url]).spawn().expect("run rsync");
    gate.pass(|| served.renew());
    assert!(there.wait().is_ok_and(|status| status.success()), "rsync failed");
    run(&mut client(&["rsync", "-rt", "--checksum", &url, &path("back/")]));
    for name in ["served", "back"] {
        run(Command::new("diff").args(["-r", &path("sent"), &path(name)]));
    }
    // What has not changed is found so.
    let again = run(&mut client(&["rsync", "-rti", &sent, &url])).out;
    assert_eq!(again, "");
}
