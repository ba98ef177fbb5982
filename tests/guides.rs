//! The documents' sessions on a terminal, run as they stand: each command, and what it
//! says. What differs from run to run is left out of the comparison.
//!
//! A session runs in namespaces of its own: its ports are free there, and all that it
//! starts ends with it. The guide for operators is run by `tests/systemd/guide.rs`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use support::guide::{Step, comparable, steps};
use support::{Directory, PATIENCE, is_root, provided};

/// What the documents call a directory that a test has to itself.
const PLACE: &str = "/tmp/preforkd-tour";

#[test]
fn the_readme_does_what_it_says() {
    run("README.md");
}

#[test]
fn the_tour_does_what_it_says() {
    run("packaging/doc/tour.md");
}

#[test]
fn the_guide_for_embedding_does_what_it_says() {
    run("packaging/doc/embedding.md");
}

// As printed: a newcomer copies both, and gets no other file.
#[test]
fn the_example_of_the_guide_is_a_crate_that_compiles() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let is_there = Command::new(&cargo).arg("--version").stdout(Stdio::null()).status();
    if !provided(is_there.is_ok_and(|status| status.success()), "cargo") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("packaging/doc/embedding.md")).expect("the guide");
    let block = |kind: &str| {
        let (_, rest) = guide.split_once(&format!("\n```{kind}\n")).expect(kind);
        rest.split("\n```").next().expect("its end").to_owned() + "\n"
    };
    let directory = Directory::new();
    symlink(root, directory.join("preforkd")).expect("the source next to it");
    let hello = directory.join("hello");
    fs::create_dir_all(hello.join("src")).expect("make the crate");
    fs::write(hello.join("Cargo.toml"), block("toml")).expect("write Cargo.toml");
    fs::write(hello.join("src/main.rs"), block("rust")).expect("write src/main.rs");
    // The versions that this tree was built with are there without a network.
    fs::copy(root.join("Cargo.lock"), hello.join("Cargo.lock")).expect("pin the versions");
    // Its dependencies are compiled once: the next run finds them there.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("embedding");
    let check = Command::new(cargo)
        .args(["check", "--offline", "--all-targets", "--quiet"])
        .current_dir(&hello)
        .env("CARGO_TARGET_DIR", built)
        .env("RUSTFLAGS", "-Dwarnings")
        .output()
        .expect("run cargo");
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{said}");
}

fn run(document: &str) {
    let tools = ["unshare --version", "ip -V", "pkill --version"];
    let there = tools.iter().all(|tool| {
        let mut words = tool.split(' ');
        let mut command = Command::new(words.next().expect("a word"));
        command.args(words).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    });
    if !provided(is_root() && there, "root, unshare, ip and pkill, for namespaces of its own") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(document)).expect("read the document");
    let directory = Directory::new();
    let place = directory.join("tour").display().to_string();
    let text = text.replace(PLACE, &place);
    let steps = steps(&text, "$");
    assert!(steps.len() > 2, "{document} has no session");
    let mut session = Session::start(&directory);
    for step in &steps {
        session.take(document, step);
    }
}

/// A shell, and what it and all that it starts say, as one stream.
struct Session {
    shell: Child,
    lines: Receiver<String>,
}

impl Session {
    fn start(directory: &Directory) -> Self {
        let programs = directory.join("bin");
        fs::create_dir(&programs).expect("make a directory");
        symlink(env!("CARGO_BIN_EXE_preforkd"), programs.join("preforkd")).expect("link it");
        let built = Path::new(env!("CARGO_BIN_EXE_preforkd")).with_file_name("examples");
        symlink(built.join("hello"), programs.join("hello")).expect("link it");
        let path = std::env::var("PATH").unwrap_or_default();
        let (reader, writer) = std::io::pipe().expect("make a pipe");
        let shell = Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"])
            .current_dir(directory.path())
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().expect("a second descriptor"))
            .stderr(writer)
            .spawn()
            .expect("start a shell");
        let (sender, lines) = channel();
        thread::spawn(move || {
            let read = BufReader::new(reader).lines().map_while(Result::ok);
            read.map(|line| sender.send(line)).find(Result::is_err)
        });
        let mut session = Session { shell, lines };
        // And none of the directories that a daemon of this machine has made.
        session.write("ip link set lo up; mount -t tmpfs none /run");
        session
    }

    fn write(&mut self, command: &str) {
        let input = self.shell.stdin.as_mut().expect("its input");
        writeln!(input, "{command}").expect("write to the shell");
    }

    /// Runs a command, and waits until it has ended and all has been said that the
    /// document prints.
    #[track_caller]
    fn take(&mut self, document: &str, step: &Step) {
        const DONE: &str = "-- done --";
        self.write(&format!("{}\necho '{DONE}'", step.command));
        let end = Instant::now() + PATIENCE;
        let (mut said, mut is_done) = (Vec::new(), false);
        while !is_done || said.len() < step.said.len() {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line == DONE => is_done = true,
                Ok(line) => said.push(line),
                Err(_) => break,
            }
        }
        let (found, wanted) = (comparable(&said), comparable(&step.said));
        assert!(is_done, "{document}: {:?} does not end; it said {said:#?}", step.command);
        assert_eq!(found, wanted, "{document}: what {:?} says, and should say", step.command);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // And with it, as PID 1 of its namespace, all that it has started.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
