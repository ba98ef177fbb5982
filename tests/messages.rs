//! The form of what the daemon says.
//!
//! `could not <verb> <kind> "<name>": <reason>`, lower case, no full stop, no
//! names of system calls; a hint on a line of its own. The message of an event
//! in the log is a constant, and all else is a field.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;

use support::client::ask;
use support::command::{copy_for, finish, preforkd};
use support::source::{self, sources};
use support::{Address, Client, Directory, Event, Setup, is_root, procfs, until};

/// What a message must not say: names that only a programmer knows.
const CALLS: [&str; 40] = [
    "accept4",
    "chdir",
    "chmod",
    "chown",
    "clone",
    "close_range",
    "dup2",
    "dup3",
    "epoll",
    "eventfd",
    "execve",
    "fchmod",
    "fchown",
    "fcntl",
    "getaddrinfo",
    "getpwnam",
    "getrlimit",
    "ioctl",
    "lstat",
    "mmap",
    "munmap",
    "openat",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "recvmsg",
    "sendmsg",
    "setgid",
    "setgroups",
    "setpriority",
    "setresgid",
    "setresuid",
    "setrlimit",
    "setsockopt",
    "setuid",
    "sigaction",
    "sigprocmask",
    "wait4",
    "waitpid",
];

/// What is wrong with the form of a message, if anything.
fn fault(message: &str) -> Option<String> {
    let words: Vec<_> = message.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    if let Some(call) = words.iter().find(|word| CALLS.contains(word)) {
        return Some(format!("it names the system call {call}"));
    }
    // EACCES and its like.
    let is_errno = |word: &&&str| {
        word.len() > 4 && word.starts_with('E') && word.chars().all(|c| c.is_ascii_uppercase())
    };
    if words.iter().find(is_errno).is_some()
        || message.contains("os error")
        || message.contains("errno")
    {
        return Some("it gives an error by its name or number".to_owned());
    }
    if message.ends_with(['.', '!', ' ']) {
        return Some("it ends with a mark".to_owned());
    }
    if message.contains('\n') || message.contains("  ") {
        return Some("it is more than a line".to_owned());
    }
    // It may begin with a value as the user wrote it.
    if message.starts_with(char::is_uppercase) {
        return Some("it begins with a capital".to_owned());
    }
    None
}

/// The same for one that begins with `could not` or `cannot`.
fn failure_fault(message: &str) -> Option<String> {
    if let Some(fault) = fault(message) {
        return Some(fault);
    }
    let tail = message.strip_prefix("could not ").or_else(|| message.strip_prefix("cannot "))?;
    // The reason is behind a colon that is in no name.
    let mut is_quoted = false;
    let colon = tail.char_indices().find(|&(at, c)| {
        is_quoted ^= c == '"';
        c == ':' && !is_quoted && tail[at + 1..].starts_with(' ')
    });
    let Some((colon, _)) = colon else {
        return Some("it gives no reason".to_owned());
    };
    let (what, reason) = (&tail[..colon], &tail[colon + 2..]);
    if what.split('"').count() % 2 == 0 || what.ends_with(' ') {
        return Some("a name is not in quotes".to_owned());
    }
    let outside = what.split('"').step_by(2).collect::<String>();
    if outside.chars().any(|c| c.is_uppercase()) {
        return Some("what failed has a capital".to_owned());
    }
    let mut letters = reason.chars();
    let (first, second) = (letters.next(), letters.next());
    // I/O and UTF-8 are written so; a sentence is not.
    if first.is_some_and(char::is_uppercase) && second.is_some_and(char::is_lowercase) {
        return Some("its reason begins with a capital".to_owned());
    }
    reason.is_empty().then(|| "its reason is empty".to_owned())
}

#[test]
fn the_form_is_told_from_what_it_is_not() {
    for right in [
        "could not bind listener \"127.0.0.1:1\": address already in use",
        "could not read configuration \"a: b\": no such file",
        "could not detach: I/O error",
        "cannot become user \"nobody\": the daemon does not run as root",
        "could not start pool \"a\": its worker exited with code 3: could not start service: no luck",
    ] {
        assert_eq!(failure_fault(right), None, "{right}");
    }
    for wrong in [
        "Could not bind listener \"a\": in use",
        "could not bind listener \"a\": in use.",
        "could not bind listener \"a\": Address already in use",
        "could not bind listener \"a\"",
        "could not bind listener \"a: in use",
        "could not bind Listener \"a\": in use",
        "could not setresuid user \"a\": no permission",
        "could not become user \"a\": EPERM",
        "could not become user \"a\": no permission (os error 1)",
        "could not become user \"a\": \n",
    ] {
        assert!(failure_fault(wrong).is_some(), "{wrong}");
    }
}

/// Checks every line of what the daemon said on its standard error.
#[track_caller]
fn assert_form(said: &str) {
    assert!(said.ends_with('\n') && !said.ends_with("\n\n"), "{said:?}");
    let mut messages = 0;
    for line in said.lines() {
        // The line of a file, and the caret below it.
        let is_excerpt = line
            .split_once(" | ")
            .is_some_and(|(head, _)| head.chars().all(|c| c == ' ' || c.is_ascii_digit()));
        if is_excerpt {
            continue;
        }
        if let Some(hint) = line.strip_prefix("hint: ") {
            assert_eq!(fault(hint.trim_end_matches('?')), None, "{line}");
            continue;
        }
        messages += 1;
        let message = without_place(line);
        let told = message.contains("could not ") || message.contains("cannot ");
        assert_eq!(if told { failure_fault(message) } else { fault(message) }, None, "{line}");
    }
    assert!(messages > 0, "{said:?}");
}

/// A message without the place and the key that stand before it.
fn without_place(line: &str) -> &str {
    let Some((_, tail)) = line.split_once(".toml:") else {
        return line;
    };
    if let Some(message) = tail.strip_prefix(' ') {
        return message;
    }
    let message = tail.split_once(": ").map_or(tail, |(_, message)| message);
    let is_key = |text: &str| {
        text.contains('.') && text.chars().all(|c| c.is_alphanumeric() || "._-\"=".contains(c))
    };
    match message.split_once(": ") {
        Some((key, message)) if is_key(key) => message,
        _ => message,
    }
}

fn pool(keys: &str) -> String {
    format!("[pool.a]\nlisten = \"{}\"\nservice = \"echo\"\n{keys}\n", Address::fresh())
}

/// Faults of every key and of every kind, each of which stops the daemon.
fn faulty(directory: &Directory) -> Vec<String> {
    let inside = |name: &str| directory.join(name).display().to_string();
    directory.write("file", "");
    directory.write("include.toml", "[log]\n");
    let on = |listen: &str| format!("[pool.a]\nlisten = {listen}\nservice = \"echo\"\n");
    let exec = |options: &str| {
        format!("[pool.a]\nlisten = \"@preforkd-a\"\nservice.exec = {{ {options} }}\n")
    };
    let mut texts = vec![
        String::new(),
        "[".to_owned(),
        "[pool.a".to_owned(),
        "[pool.a]".to_owned(),
        "[pool.\"a b\"]\nlisten = \"@a\"\nservice = \"echo\"".to_owned(),
        "pool = 1".to_owned(),
        "a = ".to_owned(),
        "a = 1 2".to_owned(),
        "a = \"x".to_owned(),
        "a = 0660".to_owned(),
        "a = 1\na = 2".to_owned(),
        "[log]\nlevel = \"loud\"".to_owned() + &pool(""),
        format!("[log]\nformat = 7\n{}", pool("")),
        format!("[log]\nfile = \"relative\"\n{}", pool("")),
        format!("[log]\nfile = \"{}\"\n{}", inside("missing/log"), pool("")),
        format!("[log]\nfile = \"{}\"\n{}", directory.path().display(), pool("")),
        format!("[daemon]\nstop_timeout = \"soon\"\n{}", pool("")),
        format!("[daemon]\npid_file = 1\n{}", pool("")),
        format!("include = [\"include.toml\"]\n{}", pool("")),
        format!("include = [\"missing.toml\"]\n{}", pool("")),
        format!("include = [\"a**b\"]\n{}", pool("")),
        format!("include = 1\n{}", pool("")),
        on("\"nowhere\""),
        on("\"127.0.0.1\""),
        on("\"localhost:1\""),
        on("\"@\""),
        on("7"),
        on("{ address = \"@a\", mode = \"0600\" }"),
        on("{ adress = \"@a\" }"),
        on("\"203.0.113.1:7007\""),
        on("\"systemd:none\""),
        on(&format!("\"{}\"", inside("file"))),
        on(&format!("\"{}\"", inside("missing/a.sock"))),
        on(&format!("\"{}\"", inside("file/a.sock"))),
        on(&format!("{{ address = \"{}\", owner = \"no-such-user\" }}", inside("a.sock"))),
        on(&format!("{{ address = \"{}\", group = \"no-such-group\" }}", inside("a.sock"))),
        exec("command = []"),
        exec("command = [\"\"]"),
        exec("command = 7"),
        exec("comand = []"),
        exec("command = [\"no-such-program\"]"),
        exec("command = [\"/no/such/program\"]"),
        exec("command = [\"a/b\"]"),
        exec("command = [\"/tmp\"]"),
        exec("command = [\"/etc/passwd\"]"),
        exec("command = [\"true\"], stderr = \"file\""),
        exec("command = [\"true\"], argv0 = 1"),
        exec("command = [\"true\"], argv0 = \"\\u0000\""),
        "[pool.a]\nlisten = \"@a\"\nservice = \"ecko\"".to_owned(),
        "[pool.a]\nlisten = \"@a\"\nservice = {}".to_owned(),
        "[pool.a]\nlisten = \"@a\"\nservice = { echo = {}, exec = {} }".to_owned(),
        "[pool.a]\nlisten = \"@a\"\nservice = \"echo\"\n[pool.b]\nlisten = \"@a\"\nservice = \"echo\"".to_owned(),
    ];
    for keys in [
        "wokers = 1",
        "workers = 0",
        "workers = \"many\"",
        "user = \"no-such-user\"",
        "user = -7",
        "user = \"\"",
        "group = \"no-such-group\"",
        "working_directory = \"relative\"",
        "working_directory = \"/nowhere\"",
        "working_directory = \"/etc/passwd\"",
        "umask = 22",
        "umask = \"9\"",
        "nice = 40",
        "oom_score_adj = 2000",
        "env = 1",
        "env = { \"A=B\" = \"x\" }",
        "env = { A = 1 }",
        "env = { TCPREMOTEIP = \"x\" }",
        "env = { TCPLOCALHOST = \"x\" }",
        "pass_env = [\"LISTEN_FDS\"]",
        "hostname = \"a b\"",
        "limits.nofile = -1",
        "limits.core = \"lots\"",
        "limits.cpu = \"1ms\"",
        "limits.files = 1",
        "max_requests = -1",
        "max_requests_jitter = 10",
        "max_requests_jitter = \"110%\"",
        "request_timeout = 5",
        "request_timeout = \"0s\"",
        "idle_timeout = \"5 parsecs\"",
        "kill_timeout = \"999y\"",
        "min_uptime = true",
        "allow = [\"everybody\"]",
        "allow = [\"10.0.0.1/8\"]",
        "allow = [\"::ffff:10.0.0.0/104\"]",
        "deny = \"unix\"",
        "deny = 2020-01-01",
    ] {
        texts.push(pool(keys));
    }
    texts
}

#[test]
fn every_fault_of_a_configuration_is_told_in_the_form() {
    let directory = Directory::new();
    let mut said = BTreeSet::new();
    for text in faulty(&directory) {
        let file = directory.write("main.toml", &text);
        let ended = finish(preforkd().arg("-c").arg(&file));
        assert!(ended.code.is_some_and(|code| code > 65), "{text}\n{ended:?}");
        assert_form(&ended.err);
        said.extend(ended.err.lines().map(str::to_owned));
    }
    assert!(said.len() > 80, "only {} different lines", said.len());
}

#[test]
fn every_fault_of_a_start_is_told_in_the_form() {
    let directory = Directory::new();
    let inside = |name: &str| directory.join(name).display().to_string();
    let address = Address::fresh();
    let config = format!(
        "[daemon]\npid_file = \"{}\"\n[pool.a]\nlisten = \"{address}\"\nworkers = 1\nservice = \"echo\"\n",
        inside("pid")
    );
    let testsvc = Setup::example("testsvc").program().to_owned();
    let run = |config: &str, script: &str, arguments: &[&str]| {
        let file = directory.write("main.toml", config);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script} exec \"$0\" \"$@\"")]).arg(&testsvc);
        let ended = finish(command.arg("-c").arg(file).args(arguments));
        assert!(ended.code.is_some_and(|code| code > 65), "{config}\n{script}\n{ended:?}");
        // In the foreground the log is there too, in a form of its own.
        let told: String = ended
            .err
            .lines()
            .filter(|line| !line.starts_with("20"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_form(&told);
    };
    run(&config, "ulimit -n 5;", &[]);
    run(&config.replace("/pid\"", "\""), "", &["--daemonize"]);
    run(&config.replace("/pid\"", "/main.toml/pid\""), "", &["--daemonize"]);
    for options in ["code = 3", "signal = 9", "error = \"no luck\""] {
        let service = format!("service.die_at_start = {{ {options} }}");
        run(&config.replace("service = \"echo\"", &service), "", &["--daemonize"]);
    }
    let _other = TcpListener::bind(address.tcp()).expect("take the address");
    run(&config, "", &[]);
    run(&config, "", &["--daemonize"]);
    let missing = finish(preforkd().arg("-c").arg(directory.join("missing.toml")));
    assert_form(&missing.err);
    if is_root() {
        let program = copy_for(&directory, 65_534);
        for keys in ["user = \"root\"", "group = \"root\"", "nice = -1", "oom_score_adj = -1"] {
            let file = directory.write("main.toml", &pool(keys));
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("open the file");
            let ended = finish(Command::new(&program).arg("-c").arg(file).uid(65_534).gid(65_534));
            assert_eq!(ended.code, Some(77), "{ended:?}");
            assert_form(&ended.err);
        }
    }
}

#[test]
fn workers_that_cannot_settle_say_so_in_the_form() {
    let setup = Setup::example("testsvc");
    let closed = setup.directory().join("closed");
    fs::create_dir(&closed).expect("create a directory");
    let addresses: Vec<_> = (0..4).map(|_| Address::fresh()).collect();
    let mut config = format!(
        "[log]\nformat = \"json\"\nlevel = \"debug\"\n\
         [pool.good]\nlisten = \"{}\"\nworkers = 1\nservice = \"echo\"\n\
         [pool.start]\nlisten = \"{}\"\nworkers = 1\nservice.die_at_start = {{ error = \"no luck\" }}\n\
         [pool.panic]\nlisten = \"{}\"\nworkers = 1\nservice.die_at_start = {{ panic = true }}\n",
        addresses[0], addresses[1], addresses[2]
    );
    if is_root() {
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("close it");
        config += &format!(
            "[pool.closed]\nlisten = \"{}\"\nworkers = 1\nservice = \"echo\"\nuser = \"nobody\"\n\
             working_directory = \"{}\"\n",
            addresses[3],
            closed.display()
        );
    }
    let mut daemon = setup.config(&config).start();
    let pools = if is_root() { &["start", "panic", "closed"][..] } else { &["start", "panic"] };
    for pool in pools {
        let end = daemon.log().wait_for("worker exited", |event| event.is_of_pool(pool));
        let reason = end.text("reason").unwrap_or_else(|| panic!("no reason in {end}"));
        assert!(reason.starts_with("could not "), "{end}");
        assert_eq!(failure_fault(reason), None, "{end}");
    }
    // A reload that fails gives its reasons in a field, in the same form.
    daemon.rewrite_config_raw("[pool.a]\n");
    let event = daemon.fail_to_reload();
    assert_form(&format!("{}\n", event.text("reason").unwrap_or_default()));
    daemon.expect_anything();
    assert_events_have_the_form(&daemon.log().events());
}

/// Checks what every event has in common.
#[track_caller]
fn assert_events_have_the_form(events: &[Event]) {
    assert!(!events.is_empty());
    for event in events {
        let levels = ["trace", "debug", "info", "warning", "error", "critical"];
        assert!(levels.contains(&event.level()), "{event}");
        assert_eq!(fault(event.message()), None, "{event}");
        assert!(
            !event.message().contains(['"', '{', ':', ',']) && !event.message().is_empty(),
            "{event}"
        );
        let time = event.text("ts").unwrap_or_default();
        let is_time = time.len() == "2026-01-02T03:04:05.678Z".len()
            && time.ends_with('Z')
            && time.as_bytes()[10] == b'T';
        assert!(is_time, "{event}");
        for field in event.fields() {
            let is_name = field.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            assert!(is_name, "field {field} of {event}");
        }
        if let Some(text) = event.text("reason").filter(|text| text.starts_with("could not ")) {
            text.split("; ").for_each(|text| assert_eq!(failure_fault(text), None, "{event}"));
        }
    }
}

// Everything that a daemon has to say in a full life, at the finest level.
#[test]
fn every_event_of_a_life_has_the_form() {
    let setup = Setup::example("testsvc");
    let (address, programs, overdue) = (Address::fresh(), Address::fresh(), Address::fresh());
    let text = setup.directory().write("text", "#!/bin/sh\nread n; echo words >&2; exit $n\n");
    let program = setup.directory().join("program");
    // By another process, as in `copy_for`.
    let status = Command::new("install").args(["-m", "755"]).arg(text).arg(&program).status();
    assert!(status.is_ok_and(|status| status.success()), "install the program");
    let config = format!(
        "[log]\nformat = \"json\"\nlevel = \"trace\"\n\
         [pool.command]\nlisten = \"{address}\"\nworkers = 2\nservice = \"command\"\nmin_uptime = \"0s\"\n\
         deny = [\"127.255.255.255\"]\n\
         [pool.overdue]\nlisten = \"{overdue}\"\nworkers = 1\nservice = \"command\"\nmin_uptime = \"0s\"\n\
         request_timeout = \"300ms\"\nkill_timeout = \"300ms\"\n\
         [pool.exec]\nlisten = \"{programs}\"\nworkers = 1\nservice.exec.command = [\"{}\"]\n",
        program.display()
    );
    let mut daemon = setup.config(&config).start();
    let log = daemon.log().clone();
    ask(&address, "exit 3\n");
    ask(&address, "signal 11\n");
    ask(&address, "panic\n");
    drop(Client::connect(&address));
    let _client = until("a worker spins", || {
        // On a busy machine its time may be over before it answers.
        let mut client = Client::connect(&overdue);
        let sent = client.write_all(b"spin\n");
        sent.and_then(|()| client.read_exact(&mut [0])).ok().map(|()| client)
    });
    log.wait_for("worker killed", |event| event.text("cause") == Some("timed out"));
    for code in [0, 1] {
        ask(&programs, &format!("{code}\n"));
    }
    log.wait_for("program exited", |event| event.number("code") == Some(1));
    fs::remove_file(&program).expect("remove the program");
    Client::connect(&programs).rest();
    log.wait_for("program not started", |_| true);
    for signal in [Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGUSR1] {
        daemon.signal(signal);
    }
    daemon.reload(
        &config
            .replace("workers = 1\nservice.exec.command", "workers = 2\nservice.exec.command")
            .replace(&program.display().to_string(), "/bin/true"),
    );
    daemon.rewrite_config_raw("");
    daemon.fail_to_reload();
    assert_eq!(daemon.stop().code(), Some(0));
    until("the log ends", || log.is_closed().then_some(()));
    let events = log.events();
    assert_events_have_the_form(&events);
    let messages: BTreeSet<_> = events.iter().map(Event::message).collect();
    for message in [
        "listening",
        "ready",
        "worker started",
        "worker exited",
        "worker killed",
        "worker timed out",
        "program exited",
        "program stderr",
        "program not started",
        "reloaded",
        "reload failed",
        "stopping",
        "stopped",
    ] {
        assert!(messages.contains(message), "{message} is not among {messages:?}");
    }
    daemon.expect_anything();
}

#[test]
fn the_form_for_people_has_time_level_message_and_fields() {
    let setup = Setup::new();
    let address = Address::fresh();
    let log = setup.directory().join("log");
    let config = format!(
        "[log]\nformat = \"term\"\nfile = \"{}\"\n\
         [pool.echo]\nlisten = \"{address}\"\nworkers = 2\nservice = \"echo\"\nmin_uptime = \"0s\"\n",
        log.display()
    );
    let daemon = setup.config(&config).launch();
    let worker = daemon.wait_for_children(2)[0];
    procfs::send(worker, Signal::SIGKILL);
    let text = until("the end of the worker is told", || {
        fs::read_to_string(&log).ok().filter(|text| text.contains("worker killed"))
    });
    assert!(!text.contains('\u{1b}'), "no colours in a file: {text:?}");
    for line in text.lines() {
        let (time, rest) = line.split_once(' ').unwrap_or_default();
        assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
        let (level, rest) = rest.split_once(' ').unwrap_or_default();
        assert!(["TRCE", "DEBG", "INFO", "WARN", "ERRO", "CRIT"].contains(&level), "{line}");
        let mut parts = rest.split(", ");
        assert_eq!(fault(parts.next().unwrap_or_default()), None, "{line}");
        assert!(parts.all(|part| part.contains(": ") || part.ends_with(':')), "{line}");
    }
    let death = text.lines().find(|line| line.contains("worker killed")).unwrap_or_default();
    assert!(
        death.contains("pool: echo, ") && death.contains(&format!("pid: {worker}, ")),
        "{death}"
    );
    assert!(death.contains("signal: SIGKILL") && death.contains("core_dumped: false"), "{death}");
}

/// A literal that is a pattern for `format!`, as it may come out.
fn filled(pattern: &str) -> String {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some((head, tail)) = rest.split_once('{') {
        text.push_str(head);
        // A placeholder stands for a word.
        rest = tail.split_once('}').map_or("", |(_, tail)| tail);
        text.push('x');
    }
    text + rest
}

#[test]
fn every_could_not_in_the_source_has_the_form() {
    let mut found = 0;
    for source in sources() {
        for (line, literal) in &source.strings {
            let text = filled(&source::value(literal));
            // A sentence may say what cannot be; but what failed stands first.
            let at = text.find("could not ").or_else(|| text.starts_with("cannot ").then_some(0));
            let Some(at) = at else {
                continue;
            };
            found += 1;
            let place = format!("src/{}:{line}: {literal}", source.path);
            assert!(at == 0, "{place} begins with something else");
            assert_eq!(fault(&text), None, "{place}");
            // Where the reason is a field of its own, there is none here.
            if text.contains(": ") {
                assert_eq!(failure_fault(&text), None, "{place}");
            }
        }
    }
    assert!(found > 20, "only {found} were found");
}

#[test]
fn what_failed_is_said_in_plain_words() {
    let mut found = 0;
    for source in sources() {
        for (at, _) in source.code.match_indices("Error::system(") {
            // The literal that follows, if one does.
            let line = source.code[..at].matches('\n').count() + 1;
            let Some((_, literal)) =
                source.strings.iter().find(|(begins, _)| (line..line + 3).contains(begins))
            else {
                continue;
            };
            found += 1;
            let text = filled(&source::value(literal));
            let place = format!("src/{}:{line}: {literal}", source.path);
            assert_eq!(failure_fault(&format!("could not {text}: x")), None, "{place}");
            assert!(!text.starts_with("could not"), "{place} says so twice");
        }
    }
    assert!(found > 10, "only {found} were found");
}
