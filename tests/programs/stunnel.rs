//! stunnel(8) in its mode for inetd, before busybox httpd, with curl(1).

use std::fs;
use std::process::Command;

use crate::harness::{Task, Under, client, random_file, run, run_through};
use support::Directory;

run_under!([Ours, Inetd] pages_come_whole);

fn pages_come_whole(under: Under) {
    if !under.has(&["stunnel4", "busybox", "curl", "openssl"]) {
        return;
    }
    let directory = Directory::new();
    let path = |name: &str| directory.join(name).display().to_string();
    fs::create_dir(path("root")).expect("make a directory");
    random_file(&directory.join("root/large"), 20 << 20);
    let (key, certificate) = (path("key"), path("certificate"));
    let files = ["-keyout", &key, "-out", &certificate];
    let kind =
        ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test.invalid"];
    run(Command::new("openssl").arg("req").args(kind).args(files));
    let text = format!(
        "key = {key}\ncert = {certificate}\nexec = /bin/busybox\n\
         execArgs = busybox httpd -i -h {}\n",
        path("root")
    );
    let config = directory.write("stunnel.conf", &text).display().to_string();
    let command = ["/usr/bin/stunnel4", &config];
    // It logs each step of each connection.
    let keys = "service.exec.stderr = \"null\"\n";
    let served = under.serve(&Task { keys, ..Task::of(&command) });

    let to = format!("test.invalid:{}:{}", served.port(), served.ip());
    let url = format!("https://test.invalid:{}/large", served.port());
    let curl = client(&["curl", "-sSf", "--cacert", &certificate, "--resolve", &to, &url]);
    let large = run_through(curl, || served.renew());
    assert!(large == fs::read(path("root/large")).expect("read it"), "not the same came");
}
