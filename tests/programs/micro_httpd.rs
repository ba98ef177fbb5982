//! micro-httpd(8) with curl(1). The end of its page is the end of the connection.

use std::fs;

use crate::harness::{Task, Under, client, random_file, run, run_through};
use support::Directory;

run_under!([Ours, Inetd, Tcpserver] pages_come_whole);

fn pages_come_whole(under: Under) {
    if !under.has(&["micro-httpd", "curl"]) {
        return;
    }
    let directory = Directory::new();
    directory.write("index.html", "hello\n");
    random_file(&directory.join("large.bin"), 10 << 20);
    let root = directory.path().display().to_string();
    let served = under.serve(&Task::of(&["/usr/sbin/micro-httpd", &root]));
    let curl =
        |name: &str| client(&["curl", "-sSf", &format!("http://{}/{name}", served.address())]);
    for _ in 0..10 {
        assert_eq!(run(&mut curl("")).out, "hello\n");
    }
    let large = run_through(curl("large.bin"), || served.renew());
    assert!(large == fs::read(directory.join("large.bin")).expect("read it"), "not the same came");
}
