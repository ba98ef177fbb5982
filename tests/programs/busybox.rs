//! busybox httpd(8), with curl(1): a page, and a large one with all workers replaced in its
//! middle.

use std::fs;

use crate::harness::{Task, Under, client, random_file, run, run_through};
use support::Directory;

run_under!([Ours, Inetd] pages_come_whole);

fn pages_come_whole(under: Under) {
    if !under.has(&["busybox", "curl"]) {
        return;
    }
    let directory = Directory::new();
    directory.write("index.html", "hello\n");
    random_file(&directory.join("large"), 40 << 20);
    let root = directory.path().display().to_string();
    let served = under.serve(&Task::of(&["/bin/busybox", "httpd", "-i", "-h", &root]));
    let url = |name: &str| format!("http://{}/{name}", served.address());
    let curl = |name: &str| client(&["curl", "-sSf", &url(name)]);
    assert_eq!(run(&mut curl("")).out, "hello\n");
    let large = run_through(curl("large"), || served.renew());
    assert!(large == fs::read(directory.join("large")).expect("read it"), "not the same came");
    assert_ne!(support::command::finish(&mut curl("absent")).code, Some(0));
}
