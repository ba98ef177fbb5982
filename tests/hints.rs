//! The hints for what people write: case by case, with the exact text.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, id};
use std::time::Instant;

use support::command::{Finished, copy_for, finish, preforkd};
use support::{Address, Directory, Setup, is_root, provided};

/// What `check` says of a text, without the path of the directory.
#[track_caller]
fn check(text: &str) -> Finished {
    let directory = Directory::new();
    let file = directory.write("main.toml", text);
    check_in(&directory, &file)
}

fn check_in(directory: &Directory, file: &std::path::Path) -> Finished {
    let mut ended = finish(preforkd().arg("-c").arg(file).arg("check"));
    ended.err = ended.err.replace(&format!("{}/", directory.path().display()), "");
    ended
}

/// The lines that begin with `hint: `.
fn hints(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("hint: ")).collect()
}

const POOL: &str = "[pool.echo]\nlisten = \"@preforkd-hints\"\nservice = \"echo\"\n";

/// Each slip, the message about it, and the hint.
const SLIPS: [(&str, &str, &str); 27] = [
    // A command.
    (
        "[pool.a]\nlisten = \"@a\"\nservice.exec.command = \"/bin/date -u\"",
        "main.toml:3:24: pool.a.service.exec.command: \"/bin/date -u\" is not a list",
        r#"write ["/bin/date", "-u"]"#,
    ),
    (
        "[pool.a]\nlisten = \"@a\"\nservice.exec.command = [\"/bin/date -u\"]",
        "main.toml:3:24: pool.a.service.exec.command: could not execute program \"/bin/date -u\": no such file or directory",
        r#"write ["/bin/date", "-u"]"#,
    ),
    (
        "[pool.a]\nlisten = \"@a\"\nservice.exec.command = [\"/bin/echo -n\", \"a b\"]",
        "main.toml:3:24: pool.a.service.exec.command: could not execute program \"/bin/echo -n\": no such file or directory",
        r#"write ["/bin/echo", "-n", "a b"]"#,
    ),
    (
        "[pool.a]\nlisten = \"@a\"\nservice.exec.command = \"date | cat\"",
        "main.toml:3:24: pool.a.service.exec.command: \"date | cat\" is not a list",
        r#"write ["/bin/sh", "-c", "date | cat"]"#,
    ),
    // A list of one.
    (
        "[pool.a]\nlisten = \"@a\"\nservice = \"echo\"\ndeny = \"10.0.0.0/8\"",
        "main.toml:4:8: pool.a.deny: \"10.0.0.0/8\" is not a list",
        r#"write ["10.0.0.0/8"]"#,
    ),
    (
        "include = \"pool.d/*.toml\"",
        "main.toml:1:11: include: \"pool.d/*.toml\" is not a list",
        r#"write ["pool.d/*.toml"]"#,
    ),
    // Brackets.
    (
        "[[pool.x]]\nlisten = \"@a\"\nservice = \"echo\"",
        "main.toml:1:1: pool.x: [[pool.x]] is not a table",
        "write [pool.x], with one pair of brackets",
    ),
    (
        "[[pool]]\nname = \"x\"",
        "main.toml:1:1: pool: [[pool]] is not a table",
        "write [pool.NAME], with a name for the pool",
    ),
    (
        "[[log]]\nlevel = \"info\"\n[pool.a]\nlisten = \"@a\"\nservice = \"echo\"",
        "main.toml:1:1: log: [[log]] is not a table",
        "write [log], with one pair of brackets",
    ),
    (
        "[echo]\nlisten = \"@a\"\nservice = \"echo\"",
        "main.toml:1:2: unknown key \"echo\"",
        "a pool begins with [pool.echo]",
    ),
    (
        "[[echo]]\nlisten = \"@a\"",
        "main.toml:1:3: unknown key \"echo\"",
        "a pool begins with [pool.echo]",
    ),
    // A key at the wrong place.
    (
        "[pool.a]\nlisten = \"@a\"\nservice = \"echo\"\ninclude = [\"x\"]",
        "main.toml:4:1: unknown key \"include\" in pool.a",
        "move \"include\" to the top of the file, above the first table",
    ),
    (
        "[log]\ninclude = [\"x\"]\n[pool.a]\nlisten = \"@a\"\nservice = \"echo\"",
        "main.toml:2:1: unknown key \"include\" in log",
        "move \"include\" to the top of the file, above the first table",
    ),
    (
        "[pool.a]\nlisten = \"@a\"\nservice = \"exec\"\ncommand = [\"/bin/date\"]",
        "main.toml:4:1: unknown key \"command\" in pool.a",
        "write service.exec.command in place of service = \"exec\"",
    ),
    (
        "[pool.a]\nlisten = \"@a\"\ncommand = [\"/bin/date\"]",
        "main.toml:3:1: unknown key \"command\" in pool.a",
        "write service.exec.command",
    ),
    // The name of a service.
    (
        "[pool.a]\nlisten = \"@a\"\nservice = \"ehco\"",
        "main.toml:3:11: pool.a.service: unknown service \"ehco\"",
        r#"did you mean "echo"? the services are "echo", "exec""#,
    ),
    (
        "[pool.a]\nlisten = \"@a\"\nservice = \"nginx\"",
        "main.toml:3:11: pool.a.service: unknown service \"nginx\"",
        r#"the services are "echo", "exec""#,
    ),
    (
        "[pool.a]\nlisten = \"@a\"\nservice = \"/usr/bin/date\"",
        "main.toml:3:11: pool.a.service: unknown service \"/usr/bin/date\"",
        r#"to run a program, write service.exec.command = ["/usr/bin/date"]"#,
    ),
    (
        "[pool.a]\nlisten = \"@a\"\nservice = \"date -u\"",
        "main.toml:3:11: pool.a.service: unknown service \"date -u\"",
        r#"to run a program, write service.exec.command = ["date", "-u"]"#,
    ),
    // Addresses.
    (
        "[pool.a]\nlisten = \"::1:7007\"\nservice = \"echo\"",
        "main.toml:2:10: pool.a.listen: \"::1:7007\" is not an address",
        r#"write "[::1]:7007""#,
    ),
    (
        "[pool.a]\nlisten = \"127.0.0.1:70070\"\nservice = \"echo\"",
        "main.toml:2:10: pool.a.listen: \"127.0.0.1:70070\" is not an address",
        "a port is a number from 1 to 65535",
    ),
    (
        "[pool.a]\nlisten = \"[::1]:70070\"\nservice = \"echo\"",
        "main.toml:2:10: pool.a.listen: \"[::1]:70070\" is not an address",
        "a port is a number from 1 to 65535",
    ),
    (
        "[pool.a]\nlisten = \":70070\"\nservice = \"echo\"",
        "main.toml:2:10: pool.a.listen: \":70070\" is not an address",
        "a port is a number from 1 to 65535",
    ),
    (
        "[pool.a]\nlisten = \"0.0.0.0:7007\"\nservice = \"echo\"\n\
         [pool.b]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"",
        "main.toml:5:10: pool.b.listen: address \"127.0.0.1:7007\" is part of \"0.0.0.0:7007\", which is that of pool \"a\" in main.toml:1",
        "use another port for one of them",
    ),
    (
        "[pool.a]\nlisten = \"[::1]:7007\"\nservice = \"echo\"\n\
         [pool.b]\nlisten = \"[::]:7007\"\nservice = \"echo\"",
        "main.toml:2:10: pool.a.listen: address \"[::1]:7007\" is part of \"[::]:7007\", which is that of pool \"b\" in main.toml:4",
        "use another port for one of them",
    ),
    // What had a hint before.
    (
        "[daemn]\n[pool.a]\nlisten = \"@a\"\nservice = \"echo\"",
        "main.toml:1:2: unknown key \"daemn\"",
        "did you mean \"daemon\"?",
    ),
    (
        "[pool.a]\nlisten = \"127.0.0.1\"\nservice = \"echo\"",
        "main.toml:2:10: pool.a.listen: \"127.0.0.1\" is not an address",
        "add a port, like \"127.0.0.1:7007\"",
    ),
];

#[test]
fn every_slip_gets_its_hint() {
    let mut wrong = Vec::new();
    for (text, message, hint) in SLIPS {
        let ended = check(text);
        let is_told = ended.err.lines().any(|line| line == message);
        if ended.code != Some(78) || !is_told || !hints(&ended.err).contains(&hint) {
            wrong.push(format!("{text}\nwanted: {message}\nand the hint: {hint}\n{}", ended.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n----\n"));
}

#[test]
fn addresses_that_do_not_overlap_are_left_alone() {
    for (one, other) in [
        ("0.0.0.0:7007", "127.0.0.1:7008"),
        ("0.0.0.0:7007", "[::1]:7007"),
        ("127.0.0.2:7007", "127.0.0.1:7007"),
    ] {
        let text = format!(
            "[pool.a]\nlisten = \"{one}\"\nservice = \"echo\"\n\
             [pool.b]\nlisten = \"{other}\"\nservice = \"echo\"\n"
        );
        let ended = check(&text);
        assert!(!ended.err.contains("is part of"), "{ended:?}");
    }
}

#[test]
fn a_pool_in_an_included_file_gets_its_hint() {
    let directory = Directory::new();
    directory.write("a.toml", "[web]\nlisten = \"@a\"\nservice = \"echo\"\n");
    let file = directory.write("main.toml", &format!("include = [\"a.toml\"]\n{POOL}"));
    let ended = check_in(&directory, &file);
    assert!(ended.err.starts_with("a.toml:1:2: unknown key \"web\"\n"), "{ended:?}");
    assert_eq!(hints(&ended.err), ["a pool begins with [pool.web]"]);
}

#[test]
fn every_fault_in_a_list_is_told() {
    let ended = check(
        "[pool.a]\nlisten = \"@a\"\nservice.exec.command = [\"/bin/date\", 1, 2]\n\
         allow = [\"x\", \"10.0.0.0/8\", \"y\", \"10.0.0.1/8\", 7]\n",
    );
    let places: Vec<_> = ended
        .err
        .lines()
        .filter_map(|line| line.strip_prefix("main.toml:")?.split(' ').next())
        .collect();
    assert_eq!(places, ["4:10:", "4:29:", "4:34:", "4:48:"], "{}", ended.err);
    let ended =
        check("[pool.a]\nlisten = \"@a\"\nservice.exec.command = [\"/bin/date\", 1, \"x\", 2]\n");
    assert_eq!(ended.err.matches(" is not a string").count(), 2, "{}", ended.err);
}

#[test]
fn an_address_in_use_is_told_with_its_place_and_who_has_it() {
    let address = Address::fresh();
    let _held = TcpListener::bind(address.tcp()).expect("take the address");
    let directory = Directory::new();
    let path = directory.join("held.sock");
    let _socket = UnixListener::bind(&path).expect("take the path");
    let name = fs::read_to_string(format!("/proc/{}/comm", id())).expect("our name");
    let who = format!("hint: process {} ({}) listens there\n", id(), name.trim_end());
    for listen in [address.to_string(), path.display().to_string()] {
        let file = directory.write(
            "main.toml",
            &format!("# A comment.\n[pool.a]\nlisten = \"{listen}\"\nservice = \"echo\"\n"),
        );
        let ended = finish(preforkd().arg("-c").arg(&file));
        assert_eq!(ended.code, Some(73), "{ended:?}");
        let place = format!("{}:3:10: pool.a.listen: could not bind listener ", file.display());
        assert!(ended.err.starts_with(&place), "{ended:?}");
        assert!(ended.err.contains(": address already in use\n"), "{ended:?}");
        assert!(ended.err.ends_with(&who), "{who}{ended:?}");
    }
}

#[test]
fn a_group_that_cannot_be_set_is_told_with_what_helps() {
    if !provided(is_root(), "root, to become somebody else") {
        return;
    }
    let directory = Directory::new();
    let program = copy_for(&directory, 65_534);
    for (key, hint) in [
        (
            "group = \"root\"",
            "hint: the daemon has to be in group \"root\", by SupplementaryGroups=root in its unit\n",
        ),
        ("owner = \"root\"", "hint: only root can give the socket to user \"root\"\n"),
    ] {
        let socket = directory.join("a.sock");
        let file = directory.write(
            "main.toml",
            &format!(
                "[pool.a]\nlisten = {{ address = \"{}\", {key} }}\nservice = \"echo\"\n",
                socket.display()
            ),
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("open the file");
        for command in [&["check"][..], &[]] {
            let mut run = Command::new(&program);
            run.arg("-c").arg(&file).args(command).uid(65_534).gid(65_534);
            let ended = finish(&mut run);
            assert_eq!(ended.code, Some(77), "{ended:?}");
            assert!(ended.err.ends_with(hint), "{hint}{ended:?}");
        }
    }
}

#[test]
fn a_script_without_its_interpreter_is_told_as_that() {
    let directory = Directory::new();
    let script = directory.write("script", "#!/no/such/interpreter -x\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("make it a program");
    let text =
        format!("[pool.a]\nlisten = \"@a\"\nservice.exec.command = [\"{}\"]\n", script.display());
    let file = directory.write("main.toml", &text);
    let ended = check_in(&directory, &file);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let message = "could not execute program \"script\": its interpreter \"/no/such/interpreter\": no such file or directory\n";
    assert!(ended.err.contains(message), "{ended:?}");
    // Written on another system: the end of the line is part of the name.
    directory.write("script", "#!/bin/sh\r\necho\r\n");
    let ended = check_in(&directory, &file);
    assert!(ended.err.contains("its interpreter \"/bin/sh\\r\": no such file"), "{ended:?}");
    directory.write("script", "#!/bin/sh\necho\n");
    assert_eq!(check_in(&directory, &file).code, Some(0));
}

#[test]
fn a_file_that_no_pattern_matches_is_named() {
    let setup = Setup::new();
    let directory = setup.directory();
    fs::create_dir(directory.join("pool.d")).expect("create a directory");
    let pool = |name: &str| {
        format!("[pool.{name}]\nlisten = \"{}\"\nservice = \"echo\"\n", Address::fresh())
    };
    directory.write("pool.d/one.toml", &pool("one"));
    directory.write("pool.d/x.conf", &pool("x"));
    // None of these is one that somebody wants.
    for name in ["one.toml~", ".two.toml", "one.toml.dpkg-old", "three.disabled"] {
        directory.write(&format!("pool.d/{name}"), &pool("y"));
    }
    directory.write("pool.d/README", "Pools go here.\n");
    let stray = directory.join("pool.d/x.conf").display().to_string();
    let config = "include = [\"pool.d/*.toml\"]\n";
    let file = directory.write("main.toml", config);
    let ended = finish(preforkd().arg("-c").arg(&file).arg("check"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let warning = format!(
        "warning: file \"{stray}\" is not included: no pattern of include matches its name\n"
    );
    assert_eq!(ended.err, warning);
    let daemon = setup.config(config).start();
    daemon.expect(&["file not included"]);
    let events = daemon.log().events();
    let told: Vec<_> = events.iter().filter(|it| it.message() == "file not included").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].text("file"), Some(stray.as_str()));
}

#[test]
fn many_missing_files_are_told_soon_and_in_few_lines() {
    let names: Vec<_> = (0..50_000).map(|at| format!("\"m/{at}\"")).collect();
    let text = format!("include = [{}]\n{POOL}", names.join(", "));
    let begun = Instant::now();
    let ended = check(&text);
    let took = begun.elapsed();
    assert_eq!(ended.code, Some(78), "{}", ended.code.unwrap_or(-1));
    assert!(ended.err.lines().count() < 200, "{} lines", ended.err.lines().count());
    assert!(ended.err.contains("main.toml: could not read 8160 more files\n"), "it counts them");
    assert!(ended.err.contains("more than 8192 files are included"), "it says where it stops");
    // Far more than it takes; before, each of them cost a look at the whole line.
    assert!(took.as_secs() < 20, "{took:?}");
}

#[test]
fn a_path_alone_is_told_how_to_name_a_configuration() {
    for path in ["x.toml", "./x", "/etc/preforkd/preforkd.toml"] {
        let ended = finish(preforkd().arg(path));
        assert_eq!(ended.code, Some(64), "{ended:?}");
        let begin = format!(
            "error: unrecognized subcommand '{path}'\n\n  tip: for a configuration file, write '-c {path}'\n"
        );
        assert!(ended.err.starts_with(&begin), "{ended:?}");
    }
    let ended = finish(preforkd().arg("chekc"));
    assert!(ended.err.contains("a similar subcommand exists: 'check'"), "{ended:?}");
}

#[test]
fn a_daemon_without_a_control_socket_says_what_will_not_work() {
    if !provided(!std::path::Path::new("/run/lines").exists(), "no /run/lines") {
        return;
    }
    let setup = Setup::example("lines");
    let text = format!(
        "[log]\nformat = \"json\"\n[daemon]\n# control = by default\n\
         [pool.lines]\nlisten = \"{}\"\nworkers = 1\nservice.lines = {{}}\n",
        Address::fresh()
    );
    let daemon = setup.with_default_user().config(&text).start();
    let told = daemon.log().wait_for("no control socket", |_| true);
    assert_eq!(told.level(), "info");
    assert_eq!(told.text("socket"), Some("/run/lines/control.sock"), "{told}");
    let reason = "there is no directory \"/run/lines\"; lines reload will not work, SIGHUP will";
    assert_eq!(told.text("reason"), Some(reason), "{told}");
}
