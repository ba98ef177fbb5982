//! `cvs pserver`, which becomes the user of its repository's list, with cvs(1).

use std::fs;
use std::process::Command;

use crate::harness::{Task, Under, client, random_file, run};
use support::{Directory, is_root, provided};

run_under!([Ours, Inetd] a_checkout_and_a_commit_are_whole);

fn a_checkout_and_a_commit_are_whole(under: Under) {
    if !under.has(&["cvs", "openssl"]) || !provided(is_root(), "root") {
        return;
    }
    let directory = Directory::new();
    let path = |name: &str| directory.join(name).display().to_string();
    let root = path("root");
    run(Command::new("cvs").args(["-d", &root, "init"]));
    let secret = run(Command::new("openssl").args(["passwd", "-6", "secret"])).out;
    directory.write("root/CVSROOT/passwd", &format!("tester:{}:nobody\n", secret.trim()));
    run(Command::new("chown").args(["-R", "nobody", &root]));
    let allow = format!("--allow-root={root}");
    let command = ["/usr/bin/cvs", "-f", &allow, "pserver"];
    let served = under.serve(&Task { user: Some("root"), ..Task::of(&command) });

    let from = format!(":pserver:tester:secret@{}:{}{root}", served.ip(), served.port());
    let cvs = |place: &str, words: &[&str]| {
        let mut command = client(&[&["cvs", "-f", "-Q", "-d", &from], words].concat());
        run(command.current_dir(directory.join(place)).env("HOME", directory.path()))
    };
    for place in ["first", "one", "two"] {
        fs::create_dir(directory.join(place)).expect("make a directory");
    }
    random_file(&directory.join("first/large"), 4 << 20);
    cvs("first", &["import", "-kb", "-m", "import", "module", "vendor", "release"]);
    cvs("one", &["checkout", "module"]);
    run(Command::new("cmp").args([path("first/large"), path("one/module/large")]));
    served.renew();
    random_file(&directory.join("one/module/large"), 4 << 20);
    cvs("one/module", &["commit", "-m", "another one"]);
    cvs("two", &["checkout", "module"]);
    run(Command::new("cmp").args([path("one/module/large"), path("two/module/large")]));
}
