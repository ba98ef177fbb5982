//! `git daemon --inetd`: a push and a clone, each with all workers replaced in its middle.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::gate::Gate;
use crate::harness::{Served, Task, Under, client, random_file, run};
use support::Directory;

run_under!([Ours, Inetd] a_push_and_a_clone_are_whole);

const GIT: &str = "/usr/bin/git";

/// A repository to push to and to clone, and one with 8 MB in a commit. What runs on the
/// side of the server waits in each transfer at a [`Gate`].
struct Repositories {
    directory: Directory,
}

impl Repositories {
    fn new() -> Self {
        let it = Repositories { directory: Directory::new() };
        let pack = it.gate("clone").script("exec \"$@\"\n");
        let receive = it.gate("push").script("");
        it.directory.write(
            "config",
            &format!(
                "[user]\nname = x\nemail = x@localhost\n[uploadpack]\npackObjectsHook = {pack}\n"
            ),
        );
        fs::create_dir(it.directory.join("served")).expect("make a directory");
        let bare = it.path("served/x.git");
        it.git(&["init", "-q", "--bare", "-b", "main", &bare]);
        it.git(&["-C", &bare, "config", "daemon.receivepack", "true"]);
        fs::copy(receive, it.directory.join("served/x.git/hooks/pre-receive")).expect("the hook");
        let work = it.path("work");
        it.git(&["init", "-q", "-b", "main", &work]);
        random_file(&Path::new(&work).join("data"), 8 << 20);
        it.git(&["-C", &work, "add", "."]);
        it.git(&["-C", &work, "commit", "-q", "-m", "data"]);
        it
    }

    fn gate<'a>(&'a self, name: &'a str) -> Gate<'a> {
        Gate::new(&self.directory, name)
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn variable(&self) -> String {
        format!("GIT_CONFIG_GLOBAL={}", self.path("config"))
    }

    fn command(&self, words: &[&str]) -> Command {
        let variable = self.variable();
        client(&[&["/usr/bin/env", &variable, GIT], words].concat())
    }

    fn git(&self, words: &[&str]) -> String {
        run(&mut self.command(words)).out
    }

    /// Runs a client, and replaces the workers while the server is in its middle.
    fn git_through(&self, gate: &str, words: &[&str], served: &Served) {
        let mut child = self.command(words).spawn().expect("run git");
        self.gate(gate).pass(|| {
            served.renew();
            let left = served.descendants();
            assert!(left.iter().any(|process| process.name == "git"), "the program is gone");
        });
        assert!(child.wait().is_ok_and(|status| status.success()), "{words:?} failed");
    }
}

fn a_push_and_a_clone_are_whole(under: Under) {
    if !under.has(&["git", "git-daemon"]) {
        return;
    }
    let repositories = Repositories::new();
    let (base, variable) = (repositories.path("served"), repositories.variable());
    let base_path = format!("--base-path={base}");
    let options = ["--inetd", "--export-all", "--reuseaddr", &base_path, &base];
    let command = [&["/usr/bin/env", &variable, GIT, "daemon"], &options[..]].concat();
    let served = under.serve(&Task::of(&command));
    let url = format!("git://{}/x.git", served.address());
    let (work, copy) = (repositories.path("work"), repositories.path("copy"));
    repositories.git_through("push", &["-C", &work, "push", "-q", &url, "main"], &served);
    repositories.git_through("clone", &["clone", "-q", &url, &copy], &served);
    for repository in [&copy, &repositories.path("served/x.git")] {
        repositories.git(&["-C", repository, "fsck", "--full"]);
        let commit = |of: &str| repositories.git(&["-C", of, "rev-parse", "main"]);
        assert_eq!(commit(repository), commit(&work));
    }
    run(Command::new("cmp").args([format!("{work}/data"), format!("{copy}/data")]));
}
