//! The harness itself, where a fault of it would hide others.

use std::process::{Command, Stdio};

use support::{provided, skipped};

#[test]
fn skipped_tests_are_counted_once_and_by_what_they_need() {
    assert_eq!(skipped::summary(""), "no test was skipped\n");
    let notes = "a x\troot\na x\troot\na y\troot\nb x\tstrace\nb z\troot\nb z\tstrace\ntorn";
    assert_eq!(
        skipped::summary(notes),
        "skipped tests: 4\n     3  for lack of root\n     2  for lack of strace\n"
    );
}

// Two runs at once must not count each other's tests.
#[test]
fn each_run_counts_its_own_skipped_tests() {
    let this = std::env::current_exe().expect("the path of the test");
    // The shell is what cargo is otherwise: the parent of the test binaries.
    let script = "\"$0\" -q --ignored --exact skips >/dev/null 2>&1; \
                  \"$0\" -q --ignored --exact $1 >/dev/null 2>&1; \
                  \"$0\" -q --ignored --exact --nocapture tells; true";
    let run = |second: &str| {
        Command::new("sh")
            .args(["-c", script])
            .arg(&this)
            .arg(second)
            .env_remove("CI")
            .stdout(Stdio::piped())
            .spawn()
            .expect("run a shell")
    };
    let runs = [run("skips_too"), run("skips"), run("skips_too")];
    let counts: Vec<_> = runs
        .into_iter()
        .map(|run| {
            let said = run.wait_with_output().expect("its output").stdout;
            let said = String::from_utf8_lossy(&said).into_owned();
            let count = said.lines().find_map(|line| line.strip_prefix("skipped tests: "));
            count.unwrap_or(&said).to_owned()
        })
        .collect();
    assert_eq!(counts, ["2", "1", "2"]);
}

#[test]
#[ignore = "a part of another test"]
fn skips() {
    assert!(!provided(false, "something that nobody has"));
}

#[test]
#[ignore = "a part of another test"]
fn skips_too() {
    assert!(!provided(false, "something that nobody has"));
}

#[test]
#[ignore = "a part of another test"]
fn tells() {
    println!("\n{}", skipped::tell());
}
