//! The configuration: how its errors are told, what `check` finds, and that
//! what we ship and what we show is right.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use support::client::{ask, assert_refuses};
use support::command::{Finished, copy_for, finish, preforkd};
use support::{Address, Daemon, Directory, Setup, is_root, provided};

/// The smallest pool.
fn pool(name: &str, address: &Address, keys: &str) -> String {
    format!("[pool.{name}]\nlisten = \"{address}\"\nservice = \"echo\"\n{keys}")
}

/// `preforkd check` of a file.
#[track_caller]
fn check(file: &Path) -> Finished {
    finish(preforkd().arg("-c").arg(file).arg("check"))
}

/// `preforkd check` of a text; gives what is told, without the path of the file.
#[track_caller]
fn check_text(text: &str) -> (Option<i32>, String) {
    let directory = Directory::new();
    let file = directory.write("main.toml", text);
    let ended = check(&file);
    (ended.code, ended.err.replace(&format!("{}/", directory.path().display()), ""))
}

#[track_caller]
fn assert_told(text: &str, expected: &str) {
    assert_eq!(check_text(text), (Some(78), format!("{expected}\n")), "{text}");
}

// A key that can do nothing is a mistake.
#[test]
fn leftovers_is_for_services_that_run_programs() {
    assert_told(
        "[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\nleftovers = \"kill\"\n",
        "main.toml:4:13: pool.echo.leftovers: the service \"echo\" runs no program that could leave anything\n    \
         4 | leftovers = \"kill\"\n      |             ^^^^^^",
    );
}

#[test]
fn an_error_has_place_key_line_caret_and_the_nearest_key() {
    assert_told(
        "[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\nwokers = 4\n",
        "main.toml:4:1: unknown key \"wokers\" in pool.echo\n    \
         4 | wokers = 4\n      | ^^^^^^\nhint: did you mean \"workers\"?",
    );
    assert_told(
        "[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\n\tworkers = \"four\" # too few\n",
        "main.toml:4:12: pool.echo.workers: \"four\" is not a whole number from 1 to 16384\n    \
         4 | \tworkers = \"four\" # too few\n      | \t          ^^^^^^",
    );
    assert_told(
        "[daemn]\n[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\n",
        "main.toml:1:2: unknown key \"daemn\"\n    \
         1 | [daemn]\n      |  ^^^^^\nhint: did you mean \"daemon\"?",
    );
    assert_told(
        "[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"ehco\"\n",
        "main.toml:3:11: pool.echo.service: unknown service \"ehco\"\n    \
         3 | service = \"ehco\"\n      |           ^^^^^^\nhint: did you mean \"echo\"? the services are \"echo\", \"exec\"",
    );
    assert_told(
        "[log]\nlevel = \"warn\"\n[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\n",
        "main.toml:2:9: log.level: \"warn\" is not one of \"trace\", \"debug\", \"info\", \"warning\", \"error\", \"critical\"\n    \
         2 | level = \"warn\"\n      |         ^^^^^^\nhint: did you mean \"warning\"?",
    );
    assert_told(
        "[pool.echo]\nlisten = \"127.0.0.1\nservice = \"echo\"\n",
        "main.toml:2:20: the text has no closing quote\n    \
         2 | listen = \"127.0.0.1\n      |                    ^",
    );
}

/// The lines of what is told that begin with a place.
fn places(told: &str) -> Vec<&str> {
    told.lines().filter(|line| line.contains(".toml:")).collect()
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_in_order() {
    let directory = Directory::new();
    directory
        .write("a.toml", "[pool.fourth]\nlisten = \"nowhere\"\nservice = \"echo\"\nnice = 99\n");
    directory.write("b.toml", "[log]\n[pool.sixth]\nservice = \"echo\"\n");
    let file = directory.write(
        "main.toml",
        "include = [\"[ab].toml\"]\n\
         [pool.first]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\nworkers = 0\n\
         umask = 22\nenv = { \"A=B\" = \"x\" }\nlimits.nofile = \"many\"\nallow = [\"10.0.0.0/8\", \"x\"]\n\
         [daemon]\nstop_timeout = 5\n[log]\nlevle = \"info\"\n",
    );
    let ended = check(&file);
    assert_eq!(ended.code, Some(78));
    let told = ended.err.replace(&format!("{}/", directory.path().display()), "");
    let subjects: Vec<_> = places(&told)
        .iter()
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        subjects,
        [
            "main.toml:5:11: pool.first.workers:",
            "main.toml:6:9: pool.first.umask:",
            "main.toml:7:9: pool.first.env.\"A=B\":",
            "main.toml:8:17: pool.first.limits.nofile:",
            "main.toml:9:24: pool.first.allow:",
            "main.toml:11:16: daemon.stop_timeout:",
            "main.toml:13:1: unknown",
            "a.toml:2:10: pool.fourth.listen:",
            "a.toml:4:8: pool.fourth.nice:",
            "b.toml:1:2: key",
            "b.toml:2:7: missing",
        ],
        "{told}"
    );
}

// What only the system knows is told in the same way, and all at once too.
#[test]
fn what_the_system_does_not_have_is_told_at_its_place() {
    let directory = Directory::new();
    directory.write("file", "");
    let inside = |name: &str| directory.join(name).display().to_string();
    let file = directory.write(
        "main.toml",
        &format!(
            "[pool.a]\nlisten = {{ owner = \"no-such-user\", group = \"nobody-of-this-name\", address = \"{}\" }}\nservice = \"echo\"\n\
             user = \"nobody-of-this-name\"\nworking_directory = \"{}\"\n\
             [pool.b]\nlisten = \"@preforkd-b\"\nservice.exec.command = [\"{}\", \"x\"]\n\
             group = \"no-such-group\"\nworking_directory = \"/nowhere\"\n\
             [pool.c]\nlisten = \"{}\"\nservice.exec.command = [\"no-such-program\"]\n\
             [pool.d]\nlisten = \"{}\"\nservice.exec.command = []\n",
            inside("a.sock"),
            inside("file"),
            inside("file"),
            inside("missing/c.sock"),
            inside("file"),
        ),
    );
    let ended = check(&file);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let told = ended.err.replace(&format!("{}/", directory.path().display()), "");
    for expected in [
        "main.toml:2:20: pool.a.listen.owner: could not find owner \"no-such-user\": no such user\n",
        "main.toml:2:44: pool.a.listen.group: could not find group \"nobody-of-this-name\": no such group\n",
        "main.toml:4:8: pool.a.user: could not find user \"nobody-of-this-name\": no such user",
        "main.toml:5:21: pool.a.working_directory: could not enter directory \"file\": not a directory",
        "main.toml:8:24: pool.b.service.exec.command: could not execute program \"file\": permission denied",
        "main.toml:9:9: pool.b.group: could not find group \"no-such-group\": no such group",
        "main.toml:10:21: pool.b.working_directory: could not enter directory \"/nowhere\": no such file or directory",
        "main.toml:12:10: pool.c.listen: could not bind listener \"missing/c.sock\": its directory: no such file or directory",
        "main.toml:13:24: pool.c.service.exec.command: could not execute program \"no-such-program\": not found in ",
        "main.toml:15:10: pool.d.listen: could not bind listener \"file\": a file that is not a socket is in the way",
        "main.toml:16:24: pool.d.service.exec.command: the command is empty",
    ] {
        assert!(told.contains(expected), "{expected}\nis not in\n{told}");
    }
    assert_eq!(places(&told).len(), 11, "{told}");
}

#[test]
fn include_takes_patterns_and_names() {
    let setup = Setup::new();
    let directory = setup.directory();
    fs::create_dir(directory.join("pool.d")).expect("create a directory");
    let addresses: Vec<_> = (0..4).map(|_| Address::fresh()).collect();
    directory.write("pool.d/one.toml", &pool("one", &addresses[0], ""));
    directory.write("pool.d/two.toml", &pool("two", &addresses[1], ""));
    directory.write("named.conf", &pool("three", &addresses[2], ""));
    // Editors leave such files behind.
    directory.write("pool.d/.hidden.toml", "rubbish");
    directory.write("pool.d/one.toml~", "rubbish");
    directory.write("pool.d/one.toml.dpkg-old", "rubbish");
    let config = format!(
        "include = [\"pool.d/*.toml\", \"named.conf\", \"nothing/*.toml\", \"pool.d/t*.toml\"]\n{}",
        pool("four", &addresses[3], "")
    );
    let daemon = setup.config(&config).start();
    for address in &addresses {
        assert_eq!(ask(address, "hello"), "hello");
    }
    let ready = daemon.log().wait_for("ready", |_| true);
    assert_eq!(ready.number("pools"), Some(4), "{ready}");
    // A reload finds what has come and what has gone.
    daemon.directory().write("pool.d/five.toml", &pool("five", &Address::fresh(), ""));
    fs::remove_file(daemon.directory().join("pool.d/one.toml")).expect("remove a file");
    let event = daemon.reload(&config);
    assert_eq!(
        (event.text("added"), event.text("removed")),
        (Some("five"), Some("one")),
        "{event}"
    );
    assert_refuses(&addresses[0]);
}

#[test]
fn what_is_included_is_there_and_holds_pools_alone() {
    let directory = Directory::new();
    let address = Address::fresh();
    let write = |name: &str, text: &str| directory.write(name, text);
    let told = |text: &str| {
        let ended = check(&write("main.toml", text));
        (ended.code, ended.err.replace(&format!("{}/", directory.path().display()), ""))
    };
    let main = format!("include = [\"other.toml\"]\n{}", pool("main", &address, ""));
    let (code, text) = told(&main);
    assert_eq!(code, Some(66), "{text}");
    let expected = "main.toml:1:12: include: could not read configuration \"other.toml\": no such file or directory\n    \
                    1 | include = [\"other.toml\"]\n      |            ^^^^^^^^^^^^\n";
    assert_eq!(text, expected);
    for (key, line) in
        [("include", "include = [\"main.toml\"]"), ("daemon", "[daemon]"), ("log", "[log]")]
    {
        write("other.toml", &format!("{line}\n{}", pool("other", &Address::fresh(), "")));
        let (code, text) = told(&main);
        assert_eq!(code, Some(78), "{text}");
        assert!(text.contains(&format!("key \"{key}\" belongs in main.toml")), "{text}");
        assert!(text.contains("hint: an included file holds [pool.*] tables alone"), "{text}");
    }
    write("other.toml", "");
    assert_eq!(told(&main).0, Some(0));
}

#[test]
fn a_pool_named_twice_is_an_error_that_names_both_files() {
    let directory = Directory::new();
    fs::create_dir(directory.join("pool.d")).expect("create a directory");
    let one = directory
        .write("pool.d/one.toml", &format!("# first\n{}", pool("web", &Address::fresh(), "")));
    let two = directory.write("pool.d/two.toml", &pool("web", &Address::fresh(), ""));
    let file = directory.write("main.toml", "include = [\"pool.d/*.toml\"]\n");
    let ended = check(&file);
    assert_eq!(ended.code, Some(78));
    let expected =
        format!("{}:1:7: pool \"web\" is already in {}:2\n", two.display(), one.display());
    assert!(ended.err.starts_with(&expected), "{ended:?}");
    // In one file, TOML itself forbids it.
    let address = Address::fresh();
    let text = pool("web", &address, "") + &pool("web", &address, "");
    let (code, told) = check_text(&text);
    assert_eq!(code, Some(78));
    assert!(told.starts_with("main.toml:4:"), "{told}");
}

#[test]
fn an_address_used_twice_is_an_error_that_names_both_pools() {
    let address = Address::fresh();
    let (code, told) = check_text(&(pool("one", &address, "") + &pool("two", &address, "")));
    assert_eq!(code, Some(78));
    let expected = format!(
        "main.toml:5:10: pool.two.listen: address \"{address}\" is already that of pool \"one\" in main.toml:1\n"
    );
    assert!(told.starts_with(&expected), "{told}");
}

#[test]
fn without_a_pool_there_is_nothing_to_run() {
    for text in ["", "# nothing\n", "[log]\n", "include = [\"nothing/*.toml\"]\n"] {
        let (code, told) = check_text(text);
        assert_eq!(code, Some(78), "{told}");
        assert!(told.starts_with("main.toml: no pool is configured\nhint: "), "{told}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_by_its_name() {
    let directory = Directory::new();
    let missing = directory.join("missing.toml");
    let ended = check(&missing);
    assert_eq!(ended.code, Some(66), "{ended:?}");
    assert_eq!(
        ended.err,
        format!(
            "could not read configuration \"{}\": no such file or directory\n",
            missing.display()
        )
    );
    let ended = check(directory.path());
    assert_eq!(ended.code, Some(66), "{ended:?}");
    assert!(ended.err.ends_with(": it is a directory\n"), "{ended:?}");
    let file = directory.join("latin1.toml");
    fs::write(&file, b"# first\n# caf\xe9\n").expect("write");
    let ended = check(&file);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.err.ends_with(": line 2 is not UTF-8\n"), "{ended:?}");
    let file = directory.write("large.toml", &"# filler\n".repeat(200_000));
    let ended = check(&file);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.err.ends_with(": it is larger than 1 MiB\n"), "{ended:?}");
    if provided(is_root(), "root, to be somebody else") {
        let file = directory.write("closed.toml", "");
        let program = copy_for(&directory, 65_534);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).expect("close the file");
        let ended =
            finish(Command::new(program).arg("-c").arg(&file).arg("check").uid(65_534).gid(65_534));
        assert_eq!(ended.code, Some(66), "{ended:?}");
        assert!(ended.err.ends_with("closed.toml\": permission denied\n"), "{ended:?}");
    }
}

// Nobody writes into the FIFO: a master that opens it would wait for ever.
#[test]
fn a_reload_refuses_what_may_keep_it_waiting() {
    let setup = Setup::new();
    let included = setup.directory().join("pool.d/more.toml");
    fs::create_dir(setup.directory().join("pool.d")).expect("create a directory");
    let address = Address::fresh();
    let config = format!("include = [\"pool.d/*.toml\"]\n{}", pool("echo", &address, ""));
    let daemon = setup.config(&config).start();
    let refused = |file: &Path| {
        let reason = format!(
            "could not read configuration \"{}\": it is not a regular file",
            file.display()
        );
        let event = daemon.fail_to_reload();
        assert!(event.text("reason").is_some_and(|told| told.contains(&reason)), "{event}");
        assert_eq!(ask(&address, "hello"), "hello");
    };
    mkfifo(&included, Mode::S_IRWXU).expect("make a FIFO");
    refused(&included);
    // Nor does a start wait for it: `check` finds that.
    assert_eq!(check(daemon.config_path()).code, Some(66));
    fs::remove_file(&included).expect("remove the FIFO");
    symlink("/dev/full", &included).expect("link to a device");
    refused(&included);
    fs::remove_file(&included).expect("remove the link");
    fs::remove_file(daemon.config_path()).expect("remove the configuration");
    mkfifo(daemon.config_path(), Mode::S_IRWXU).expect("make a FIFO");
    refused(daemon.config_path());
}

// As the shell gives it, with <(command) or after a bar.
#[test]
fn a_start_takes_its_configuration_from_a_pipe() {
    let directory = Directory::new();
    let file = directory.write("main.toml", &pool("echo", &Address::fresh(), ""));
    let ended = finish(
        Command::new("sh")
            .args(["-c", "cat \"$1\" | \"$0\" -c /dev/stdin check"])
            .arg(preforkd().get_program())
            .arg(&file),
    );
    let expected =
        Finished { code: Some(0), out: "/dev/stdin: ok\n".to_owned(), err: String::new() };
    assert_eq!(ended, expected);
}

#[test]
fn check_says_that_a_file_is_right_and_nothing_else() {
    let directory = Directory::new();
    let file = directory.write("main.toml", &pool("echo", &Address::fresh(), ""));
    let ended = check(&file);
    let expected =
        Finished { code: Some(0), out: format!("{}: ok\n", file.display()), err: String::new() };
    assert_eq!(ended, expected);
    // As it was named, wherever we are.
    let ended =
        finish(preforkd().current_dir(directory.path()).args(["check", "--config", "main.toml"]));
    assert_eq!(ended, Finished { out: "main.toml: ok\n".to_owned(), ..expected });
}

/// Everything in a directory: path, inode, size, mode, time of change.
fn contents(directory: &Path) -> Vec<(PathBuf, u64, u64, u32, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("an entry").path();
        let file = fs::symlink_metadata(&path).expect("look at a file");
        found.push((path.clone(), file.ino(), file.size(), file.mode(), file.ctime_nsec()));
        if file.is_dir() {
            found.extend(contents(&path));
        }
    }
    found.sort();
    found
}

#[test]
fn check_changes_nothing() {
    let directory = Directory::new();
    let inside = |name: &str| directory.join(name).display().to_string();
    let tcp = Address::fresh();
    // A socket that a daemon has left behind, which `run` would replace.
    drop(std::os::unix::net::UnixListener::bind(directory.join("stale.sock")).expect("bind"));
    let file = directory.write(
        "main.toml",
        &format!(
            "[daemon]\ncontrol = \"{}\"\npid_file = \"{}\"\n[log]\nfile = \"{}\"\n{}{}{}\
             [pool.exec]\nlisten = \"{}\"\nservice.exec.command = [\"/usr/bin/touch\", \"{}\"]\n",
            inside("control.sock"),
            inside("pid"),
            inside("log"),
            pool("tcp", &tcp, ""),
            pool("stale", &Address::unix(&directory.join("stale.sock")), ""),
            pool("new", &Address::unix(&directory.join("new.sock")), ""),
            inside("exec.sock"),
            inside("touched"),
        ),
    );
    let before = contents(directory.path());
    let ended = check(&file);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(contents(directory.path()), before);
    assert_refuses(&tcp);
}

#[test]
fn check_does_not_disturb_a_daemon_that_runs() {
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("echo.sock"));
    let config =
        pool("tcp", &Address::fresh(), "workers = 1\n") + &pool("unix", &unix, "workers = 1\n");
    let daemon = setup.config(&config).start();
    let mark = daemon.log().mark();
    for _ in 0..5 {
        let ended = check(daemon.config_path());
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    assert_eq!(ask(&unix, "hello"), "hello");
    // All of the log is read only when the daemon has ended.
    daemon.stop();
    let mut told = daemon.log().since(mark);
    told.retain(|event| event.level() != "debug");
    assert_eq!(told[0].message(), "stopping", "{told:?}");
}

// What stops a daemon at its start is known before, told in the same words and
// with the same code.
#[test]
fn check_finds_what_run_would_refuse() {
    let directory = Directory::new();
    let inside = |name: &str| directory.join(name).display().to_string();
    directory.write("file", "");
    directory.write("script", "#!/bin/sh\n");
    let echo = |keys: &str| pool("echo", &Address::fresh(), keys);
    let exec = |command: &str| {
        format!(
            "[pool.exec]\nlisten = \"{}\"\nservice.exec.command = {command}\n",
            Address::fresh()
        )
    };
    let on = |listen: &str| format!("[pool.echo]\nlisten = {listen}\nservice = \"echo\"\n");
    for (text, code) in [
        ("[pool.echo".to_owned(), 78),
        (echo("worker = 1\n"), 78),
        (echo("user = \"nobody-of-this-name\"\n"), 78),
        (echo("group = \"nobody-of-this-name\"\n"), 78),
        (echo("working_directory = \"/nowhere\"\n"), 78),
        (echo(&format!("working_directory = \"{}\"\n", inside("file"))), 78),
        (exec("[]"), 78),
        (exec("[\"\"]"), 78),
        (exec("\"cat\""), 78),
        (exec("[\"no-such-program\"]"), 78),
        (exec("[\"/no/such/program\"]"), 78),
        (exec("[\"relative/path\"]"), 78),
        (exec("[\"/tmp\"]"), 78),
        (exec(&format!("[\"{}\"]", inside("script"))), 78),
        (exec("[\"cat\"]\nservice.exec.stder = \"log\""), 78),
        (exec("[\"cat\"]\nservice.exec.stderr = \"file\""), 78),
        (on(&format!("\"{}\"", inside("missing/echo.sock"))), 73),
        (on(&format!("\"{}\"", inside("file/echo.sock"))), 73),
        (on(&format!("\"{}\"", inside("file"))), 73),
        (on(&format!("{{ address = \"{}\", owner = \"no-such-user\" }}", inside("s"))), 78),
        (on(&format!("{{ address = \"{}\", group = \"no-such-group\" }}", inside("s"))), 78),
        // No machine has this address: it is for documentation (RFC 5737).
        (on("\"203.0.113.1:7007\""), 73),
        (format!("[log]\nfile = \"{}\"\n{}", inside("missing/log"), echo("")), 71),
        (format!("[log]\nfile = \"{}\"\n{}", directory.path().display(), echo("")), 71),
    ] {
        let file = directory.write("main.toml", &text);
        let checked = check(&file);
        let ran = finish(preforkd().arg("-c").arg(&file).arg("run"));
        assert_eq!(checked, ran, "check and run disagree about\n{text}");
        assert!(!ran.err.is_empty() && ran.out.is_empty(), "{ran:?}");
        assert_eq!(ran.code, Some(code), "{text}\n{}", ran.err);
    }
}

#[test]
fn check_finds_what_run_would_refuse_to_somebody() {
    const SOMEBODY: u32 = 65_534;
    if !provided(is_root(), "root, to be somebody else") {
        return;
    }
    let directory = Directory::new();
    let program = copy_for(&directory, SOMEBODY);
    fs::create_dir(directory.join("of_root")).expect("create a directory");
    fs::write(directory.join("log_of_root"), "").expect("write");
    let inside = |name: &str| directory.join(name).display().to_string();
    let on = |listen: &str| format!("[pool.echo]\nlisten = {listen}\nservice = \"echo\"\n");
    let logged =
        |file: &str| format!("[log]\nfile = \"{file}\"\n{}", pool("echo", &Address::fresh(), ""));
    let first_port = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let any_port = first_port.is_ok_and(|port| port.trim() == "0");
    for text in [
        on(if any_port { "\"/nobody.sock\"" } else { "\"127.0.0.1:9\"" }),
        on(&format!("\"{}\"", inside("of_root/echo.sock"))),
        on(&format!("{{ address = \"{}\", owner = \"root\" }}", inside("echo.sock"))),
        logged(&inside("of_root/log")),
        logged(&inside("log_of_root")),
    ] {
        let file = directory.write("main.toml", &text);
        let run = |command: &str| {
            finish(
                Command::new(&program)
                    .arg("-c")
                    .arg(&file)
                    .arg(command)
                    .uid(SOMEBODY)
                    .gid(SOMEBODY),
            )
        };
        let (checked, ran) = (run("check"), run("run"));
        assert_eq!(ran.code, Some(77), "{text}\n{ran:?}");
        assert_eq!(checked, ran, "check and run disagree about\n{text}");
        let told = ran.err.lines().next().unwrap_or_default();
        let reasons = ["permission denied", "operation not permitted"];
        assert!(reasons.iter().any(|reason| told.ends_with(reason)), "{told}");
    }
}

/// The root of the repository.
fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files in here, folders included, whose name ends like this.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_configuration_that_we_ship_is_right() {
    let shipped = [
        files(&repository().join("etc"), ".toml"),
        files(&repository().join("packaging"), ".toml"),
    ]
    .concat();
    assert!(shipped.iter().any(|file| file.ends_with("etc/preforkd.toml")), "{shipped:?}");
    for file in shipped {
        let ended = check(&file);
        let expected = Finished {
            code: Some(0),
            out: format!("{}: ok\n", file.display()),
            err: String::new(),
        };
        assert_eq!(ended, expected);
    }
}

/// Every key, with its default.
const FULL: &str = "packaging/doc/examples/full.toml";

/// What a line of the full example that is commented out says, if it is a key.
fn commented_out(line: &str) -> Option<&str> {
    let key = line.strip_prefix('#')?;
    // Prose has a blank after its mark.
    key.starts_with(|c: char| c.is_ascii_lowercase()).then_some(key)
}

/// The keys whose commented line is an example: the comment above it says another default.
fn examples_in(text: &str) -> BTreeSet<&str> {
    let paragraphs = text.split("\n\n").filter(|paragraph| paragraph.contains("Default:"));
    paragraphs.flat_map(str::lines).filter_map(commented_out).map(key).collect()
}

fn key(line: &str) -> &str {
    line.split([' ', '=']).next().unwrap_or_default()
}

#[test]
fn what_the_full_example_has_commented_out_is_right_too() {
    let text = fs::read_to_string(repository().join(FULL)).expect("read the file");
    let lines: Vec<_> = text.lines().map(|line| commented_out(line).unwrap_or(line)).collect();
    let count = text.lines().filter_map(commented_out).count();
    assert!(count > 20, "only {count} keys are commented out");
    let (code, told) = check_text(&lines.join("\n"));
    // What only root may, somebody else is told about.
    assert!(code == Some(0) || (code == Some(77) && !is_root()), "{told}");
}

// "A line with one # before a key shows the default": if the # is taken away, nothing
// changes.
#[test]
fn the_defaults_that_the_full_example_shows_are_the_defaults() {
    let text = fs::read_to_string(repository().join(FULL)).expect("read the file");
    let address = Address::fresh();
    let setup = Setup::new();
    let own = |line: &str| {
        let directory = setup.directory();
        match key(line) {
            "listen" => format!("listen = \"{address}\""),
            "control" => format!("control = \"{}\"", directory.join("control.sock").display()),
            _ => line.to_owned(),
        }
    };
    let with = |wanted: &dyn Fn(&str) -> bool| -> String {
        text.lines()
            .map(|line| match commented_out(line) {
                // In both: a reload does not move it.
                Some(line) if key(line) == "control" => own(line),
                Some(line) if wanted(key(line)) && key(line) != "format" => own(line),
                _ if line.is_empty() || line.starts_with('#') => line.to_owned(),
                _ if line == "[log]" => "[log]\nformat = \"json\"".to_owned(),
                _ => own(line),
            })
            .map(|line| line + "\n")
            .collect()
    };
    let examples = examples_in(&text);
    assert!(examples.contains("request_timeout") && !examples.contains("kill_timeout"));
    let is_default = |key: &str| !examples.contains(key) && !key.starts_with("limits.");
    let (bare, full) = (with(&|_| false), with(&is_default));
    let daemon = setup.config(&bare).start();
    let pids = daemon.wait_for_children(4);
    let event = daemon.reload(&full);
    for field in ["added", "removed", "renewed", "resized"] {
        assert_eq!(event.text(field).unwrap_or_default(), "", "{event}");
    }
    assert_eq!(daemon.wait_for_children(4), pids);
}

/// The blocks of a text that are marked as TOML: between fences, or between
/// the lines `.EX` and `.EE` of a manual page.
fn examples(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<Vec<&str>> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        match &mut current {
            None if trimmed == "```toml" => current = Some(Vec::new()),
            None => {}
            Some(lines) if trimmed == "```" => {
                found.push(lines.join("\n") + "\n");
                current = None;
            }
            Some(lines) => lines.push(line),
        }
    }
    found
}

// What a reader copies has to work. A block without a pool is shown to be put
// beside one.
#[test]
fn every_example_that_we_show_is_right() {
    let documents = [
        files(&repository().join("packaging"), ".md"),
        files(&repository().join("packaging"), ".adoc"),
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
            .map(|name| repository().join(name))
            .to_vec(),
    ]
    .concat();
    for document in documents {
        let Ok(text) = fs::read_to_string(&document) else {
            continue;
        };
        // A Cargo.toml is none of ours.
        for example in examples(&text).into_iter().filter(|it| !it.contains("[package]")) {
            let whole = if example.contains("[pool.") {
                example.clone()
            } else {
                format!("{example}\n{}", pool("beside", &Address::fresh(), ""))
            };
            let (_, told) = check_text(&whole);
            // A user, a directory or a program of the example need not exist here.
            let about_system = told
                .lines()
                .filter(|line| line.contains("main.toml:"))
                .all(|line| line.contains(": could not ") || line.contains(": cannot "));
            assert!(
                told.is_empty() || about_system,
                "in {}:\n{example}\n{told}",
                document.display()
            );
        }
    }
}

#[test]
fn examples_are_found() {
    let text =
        "words\n```toml\n[log]\nlevel = \"info\"\n```\n```sh\nls\n```\n  ```toml\n  a = 1\n  ```\n";
    assert_eq!(examples(text), ["[log]\nlevel = \"info\"\n", "  a = 1\n"]);
}

// A reload tells all of it in one field, and in the same words.
#[test]
fn a_reload_tells_errors_as_check_does() {
    let address = Address::fresh();
    let daemon = Daemon::start(&pool("echo", &address, "workers = 1\n"));
    daemon.rewrite_config_raw(&pool("echo", &address, "wokers = 1\nworkers = 0\n"));
    let event = daemon.fail_to_reload();
    let ended = check(daemon.config_path());
    assert_eq!(event.text("reason"), Some(ended.err.trim_end()), "{event}");
    assert!(ended.err.contains("wokers") && ended.err.contains("0 is not"), "{ended:?}");
}
