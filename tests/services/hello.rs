//! A service of the reader's own: `examples/hello.rs`.

use std::fs;
use std::process::Command;

use support::client::ask;
use support::command::finish;
use support::{Address, Daemon, Setup};

fn hello(address: &Address, options: &str) -> String {
    format!("[pool.hello]\nlisten = \"{address}\"\nworkers = 2\nservice.hello = {{ {options} }}\n")
}

#[test]
fn the_example_is_a_daemon() {
    let address = Address::fresh();
    let daemon = Daemon::start_example("hello", &hello(&address, "greeting = \"hi\""));
    let text = ask(&address, "");
    assert!(text.starts_with("hi, 127.") && text.ends_with('\n'), "{text:?}");
    let pids = daemon.wait_for_idle("hello", 2);
    // It takes a reload like any other.
    daemon.reload(&hello(&address, "greeting = \"good day\""));
    // Until the last of the old ones has left, it may take a client.
    pids.into_iter().for_each(super::wait_for_end);
    assert!(ask(&address, "").starts_with("good day, 127."));
}

#[test]
fn faults_in_the_options_of_the_example_are_told_with_their_place() {
    let setup = Setup::example("hello");
    let file = setup.directory().path().join("preforkd.toml");
    let program = setup.program().to_owned();
    let check = |text: &str| {
        fs::write(&file, text).expect("write the configuration");
        finish(Command::new(&program).arg("-c").arg(&file).arg("check"))
    };
    let address = Address::fresh();
    let told = check(&hello(&address, "greting = \"hi\", greeting = \"hi\""));
    assert_eq!(told.code, Some(78), "{told:?}");
    let expected = format!(
        "{}:4:19: unknown key \"greting\" in pool.hello.service.hello\n    \
         4 | service.hello = {{ greting = \"hi\", greeting = \"hi\" }}\n      \
         |                   ^^^^^^^\nhint: did you mean \"greeting\"?\n",
        file.display()
    );
    assert_eq!(told.err, expected);
    let told = check(&hello(&address, ""));
    assert_eq!(told.code, Some(78), "{told:?}");
    assert!(told.err.contains(":4:9: missing key \"greeting\""), "{told:?}");
    // The built-in ones are there beside it.
    let told = check(&format!("[pool.a]\nlisten = \"{address}\"\nservice = \"helo\"\n"));
    assert!(
        told.err.contains("hint: did you mean \"hello\"? the services are \"echo\", \"exec\""),
        "{told:?}"
    );
    assert!(told.err.contains("\"hello\""), "{told:?}");
    let told = check(&format!("[pool.a]\nlisten = \"{address}\"\nservice = \"echo\"\n"));
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
}

// "About 20 lines": what the README shows of it has to fit on its page.
#[test]
fn the_example_is_short() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello.rs");
    let text = fs::read_to_string(path).expect("read the example");
    let program = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = program
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"));
    assert!(lines.clone().count() <= 20, "{} lines", lines.count());
}
