//! As whom workers run, and that they cannot get back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::{Group, User};

use super::{command, shell};
use support::client::{ask, assert_serves};
use support::command::{copy_for, finish, preforkd};
use support::{Address, Client, Daemon, Directory, Event, Setup, is_root, procfs, provided};

/// The ids that the test service tells: `uid`, `gid`, `groups`.
#[track_caller]
fn ids(address: &Address) -> BTreeMap<String, Vec<u32>> {
    ask(address, "ids\n")
        .lines()
        .map(|line| {
            let (name, values) = line.split_once(' ').unwrap_or((line, ""));
            let values = values.split_whitespace().map(|id| id.parse().expect("an id"));
            (name.to_owned(), values.collect())
        })
        .collect()
}

fn user(name: &str) -> User {
    User::from_name(name).expect("read the user database").expect("the user")
}

fn group(name: &str) -> u32 {
    Group::from_name(name).expect("read the group database").expect("the group").gid.as_raw()
}

#[test]
fn workers_are_the_configured_user_and_cannot_get_back() {
    if !provided(is_root(), "root") {
        return;
    }
    let nobody = user("nobody");
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    let mail = group("mail");
    for (keys, uid, gid, groups) in [
        ("user = \"nobody\"", uid, gid, vec![gid]),
        ("user = \"nobody\"\ngroup = \"mail\"", uid, mail, vec![mail]),
        // Neither a group alone nor nothing at all leaves anybody root.
        ("group = \"mail\"", uid, mail, vec![mail]),
        ("", uid, gid, vec![gid]),
        ("user = \"root\"\ngroup = \"mail\"", 0, mail, vec![mail]),
    ] {
        let address = Address::fresh();
        let setup = Setup::example("testsvc").with_default_user();
        let daemon = setup.config(&command(&address, 2, keys)).start();
        let told = ids(&address);
        assert_eq!(told["uid"], [uid; 3], "{keys}");
        assert_eq!(told["gid"], [gid; 3], "{keys}");
        assert_eq!(told["groups"], groups, "{keys}");
        for worker in daemon.workers("command") {
            let own = |key| procfs::status(worker, key).unwrap_or_default();
            assert_eq!(own("Uid"), [uid; 4].map(|id| id.to_string()).join("\t"));
            assert_eq!(own("Gid"), [gid; 4].map(|id| id.to_string()).join("\t"));
        }
        if uid != 0 {
            let ways = ask(&address, "setuid0\n");
            assert_eq!(ways.lines().count(), 6, "{ways}");
            assert!(ways.lines().all(|way| way.ends_with(": EPERM")), "{ways}");
            for worker in daemon.workers("command") {
                for set in ["CapEff", "CapPrm", "CapAmb", "CapInh"] {
                    assert_eq!(
                        procfs::status(worker, set).as_deref(),
                        Some("0000000000000000"),
                        "{set}"
                    );
                }
            }
        }
        // The master stays who it is.
        assert_eq!(procfs::status(daemon.pid(), "Uid").as_deref(), Some("0\t0\t0\t0"));
    }
}

#[test]
fn who_the_workers_are_is_told_and_root_is_warned_about() {
    if !provided(is_root(), "root") {
        return;
    }
    let pool = |name: &str, keys: &str| {
        let address = Address::fresh();
        super::echo(&address, 1, keys).replace("pool.echo", &format!("pool.{name}"))
    };
    let config = [
        pool("a", ""),
        pool("b", "user = \"root\""),
        pool("c", "user = \"mail\"\ngroup = \"daemon\""),
        "[daemon]\nuser = \"daemon\"\n".to_owned(),
    ]
    .concat();
    let daemon = Setup::new().with_default_user().config(&config).start();
    let users: BTreeMap<_, _> = daemon
        .log()
        .events()
        .iter()
        .filter(|event| event.message() == "listening")
        .map(|event| (event.text("pool").unwrap_or_default().to_owned(), event.clone()))
        .collect();
    let user = |pool: &str| users[pool].text("user");
    assert_eq!([user("a"), user("b"), user("c")], [Some("daemon"), Some("root"), Some("mail")]);
    let is_warning = |event: &Event| event.message() == "pool runs as root";
    let warned = || {
        let events = daemon.log().events();
        let warnings = events.into_iter().filter(|event| is_warning(event));
        warnings.map(|event| event.text("pool").unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(warned(), ["b"]);
    let uid = |pool: &str| {
        let worker = daemon.wait_for_idle(pool, 1)[0];
        let told = procfs::status(worker, "Uid").unwrap_or_default();
        (worker, told.split_whitespace().next().unwrap_or_default().to_owned())
    };
    let before = ["a", "b", "c"].map(uid);

    // Another default is another user for those who have it, and for no one else.
    daemon.reload(&config.replace("user = \"daemon\"", "user = \"nobody\""));
    let after = ["a", "b", "c"].map(uid);
    assert_eq!(after[0].1, SOMEBODY.to_string());
    assert_ne!(before[0].1, after[0].1);
    assert_eq!(before[1..], after[1..]);
    assert_eq!(warned(), ["b", "b"]);
}

#[test]
fn a_default_user_who_is_not_there_is_told_at_its_place() {
    if !provided(is_root() && can_unshare(), "root, for a user database of its own") {
        return;
    }
    let directory = Directory::new();
    let database = directory.write("passwd", "root:x:0:0:root:/root:/bin/sh\n");
    // Others than the file may know nobody, such as systemd.
    let switch = directory.write("nsswitch.conf", "passwd: files\ngroup: files\n");
    let script = format!(
        "mount --bind '{}' /etc/passwd && mount --bind '{}' /etc/nsswitch.conf && exec \"$@\"",
        database.display(),
        switch.display()
    );
    let check = |daemon: &str| {
        let config = super::echo(&Address::fresh(), 1, "") + daemon;
        let file = directory.write("preforkd.toml", &config);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(preforkd().get_program());
        let ended = finish(command.arg("-c").arg(&file).arg("check"));
        assert_eq!(ended.code, Some(78), "{ended:?}");
        ended.err.replace(&file.display().to_string(), "FILE")
    };
    assert_eq!(
        check(""),
        "FILE: daemon.user: could not find user \"nobody\": no such user\n\
         hint: pool \"echo\" has no user of its own\n"
    );
    let told = check("[daemon]\nuser = \"www\"\n");
    assert!(told.contains(": daemon.user: could not find user \"www\": no such user\n"), "{told}");
    assert!(told.contains("| user = \"www\"\n") && told.contains("^^^^^"), "{told}");
}

// The service of the package has the same configuration, and is not root.
#[test]
fn the_default_user_is_nothing_to_a_daemon_that_is_not_root() {
    if !provided(is_root(), "root, to be somebody else") {
        return;
    }
    let config = super::echo(&Address::fresh(), 1, "") + "[daemon]\nuser = \"root\"\n";
    let setup = Setup::new().with_default_user().user(SOMEBODY).config(&config);
    let daemon = setup.start();
    let listening = daemon.log().wait_for("listening", |_| true);
    assert_eq!(listening.text("user"), Some("nobody"));
    let worker = daemon.wait_for_idle("echo", 1)[0];
    assert_eq!(
        procfs::status(worker, "Uid"),
        Some([SOMEBODY; 4].map(|id| id.to_string()).join("\t"))
    );
}

// As root and as anybody else.
#[test]
fn the_shipped_configuration_starts_as_it_is() {
    let shipped = include_str!("../../etc/preforkd.toml");
    for user in [None, Some(SOMEBODY)] {
        if user.is_some() && !is_root() {
            continue;
        }
        let address = Address::fresh();
        let config = shipped.replace("127.0.0.1:7007", &address.to_string());
        let mut setup = Setup::new().with_default_user();
        if let Some(id) = user {
            setup = setup.user(id);
        }
        let daemon = setup.config(&config).start();
        assert_serves(&address);
        for worker in daemon.wait_for_idle("echo", 4) {
            let uid = procfs::status(worker, "Uid").unwrap_or_default();
            assert!(!uid.split_whitespace().any(|id| id == "0"), "{uid}");
        }
    }
}

fn can_unshare() -> bool {
    let tool = Command::new("unshare").args(["--mount", "true"]).status();
    tool.is_ok_and(|status| status.success())
}

#[test]
fn supplementary_groups_come_from_the_user_database() {
    if !provided(is_root() && can_unshare(), "root, for a group database of its own") {
        return;
    }
    let address = Address::fresh();
    let setup = Setup::example("testsvc");
    let database = fs::read_to_string("/etc/group").expect("read the group database");
    let groups = setup.directory().write(
        "group",
        &format!(
            "{database}first:x:54321:nobody\nsecond:x:54322:daemon,nobody\nthird:x:54323:daemon\n"
        ),
    );
    let script = format!("mount --bind '{}' /etc/group && exec \"$@\"", groups.display());
    // root's own groups must not get through either.
    let _daemon = setup
        .config(&command(&address, 1, "user = \"nobody\"\ngroup = \"second\""))
        .wrapper(&[
            "setpriv", "--groups", "0,1,2,3", "unshare", "--mount", "sh", "-c", &script, "sh",
        ])
        .start();
    let told = ids(&address);
    let mut told_groups = told["groups"].clone();
    told_groups.sort();
    assert_eq!(told["gid"], [54322; 3]);
    assert_eq!(told_groups, [54321, 54322]);
}

/// The soft and the hard limit of this name in `/proc/PID/limits`.
fn limit(pid: i32, name: &str) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("read the limits");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the limit");
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

const LIMITS: [(&str, &str, &str, &str); 8] = [
    ("nofile", "777", "Max open files", "777"),
    ("core", "\"1MiB\"", "Max core file size", "1048576"),
    ("as", "\"1GiB\"", "Max address space", "1073741824"),
    ("cpu", "\"2m\"", "Max cpu time", "120"),
    ("nproc", "4321", "Max processes", "4321"),
    ("data", "\"512MiB\"", "Max data size", "536870912"),
    ("stack", "\"4MiB\"", "Max stack size", "4194304"),
    ("fsize", "123456", "Max file size", "123456"),
];

#[test]
fn limits_are_set_soft_and_hard() {
    let address = Address::fresh();
    let keys: Vec<_> =
        LIMITS.iter().map(|(key, value, ..)| format!("limits.{key} = {value}")).collect();
    let daemon = Daemon::start(&super::echo(&address, 2, &keys.join("\n")));
    let master = daemon.pid();
    for worker in daemon.wait_for_idle("echo", 2) {
        for (key, _, name, value) in LIMITS {
            // SIGXCPU comes before SIGKILL.
            let hard = if key == "cpu" { "121" } else { value };
            assert_eq!(limit(worker, name), (value.to_owned(), hard.to_owned()), "{key}");
            assert_eq!(
                limit(master, name),
                limit(std::process::id() as i32, name),
                "{key} of the master"
            );
        }
    }
}

// Less is refused: a worker would start, and its clients would hang.
#[test]
fn every_service_serves_with_the_fewest_descriptors() {
    let keys = "limits.nofile = 16";
    let address = Address::fresh();
    let stderr = |target| format!("{keys}\nservice.exec.stderr = \"{target}\"");
    for config in [
        super::echo(&address, 1, keys),
        shell(&address, 1, "exec cat", &stderr("log")),
        shell(&address, 1, "exec cat", &stderr("socket")),
        shell(&address, 1, "exec cat", &stderr("null")),
    ] {
        let daemon = Daemon::start(&config);
        for _ in 0..3 {
            assert_eq!(ask(&address, "hello"), "hello", "{config}");
        }
        drop(daemon);
    }
}

// The kernel puts nothing at a number that is beyond the limit, not even the dead
// file that ends the worker's accept.
#[test]
fn a_worker_retires_whose_listener_is_beyond_its_limit() {
    let pool = |name: &str, keys: &str| {
        super::echo(&Address::fresh(), 1, keys).replace("pool.echo", &format!("pool.{name}"))
    };
    let mut config: String = (0..20).map(|at| pool(&format!("p{at}"), "")).collect();
    config.push_str(&pool("z", "limits.nofile = 16"));
    let daemon = Daemon::start(&config);
    let worker = daemon.wait_for_idle("z", 1)[0];
    assert!(procfs::descriptors(worker).keys().any(|&number| number > 16));
    daemon.expect(&["worker exited"]);
    procfs::send(worker, Signal::SIGTERM);
    let end = daemon.log().wait_for("worker exited", |_| true);
    assert_eq!((end.pid(), end.number("code")), (worker, Some(0)), "{end}");
}

#[test]
fn a_death_for_want_of_processor_time_is_told_as_that() {
    let address = Address::fresh();
    let keys = "limits.cpu = \"1s\"\nlimits.core = 0";
    let daemon = Daemon::start_example("testsvc", &command(&address, 1, keys));
    daemon.expect(&["worker killed"]);
    let mut client = Client::connect(&address);
    client.send("spin\n");
    let end = daemon.log().wait_for("worker killed", |_| true);
    assert_eq!(
        (end.text("signal"), end.text("cause")),
        (Some("SIGXCPU"), Some("crashed")),
        "{end}"
    );
    drop(daemon);

    let daemon = Daemon::start(&shell(&address, 1, "while :; do :; done", keys));
    daemon.expect(&["program killed"]);
    let _waiting = Client::connect(&address);
    let end = daemon.log().wait_for("program killed", |_| true);
    assert_eq!(end.text("signal"), Some("SIGXCPU"), "{end}");
}

// Nor does it ask for more than the daemon may have.
#[test]
fn a_limit_of_processor_time_stays_below_that_of_the_daemon() {
    for (own, asked) in [("100", "100s"), ("100", "99s")] {
        let address = Address::fresh();
        let keys = format!("limits.cpu = \"{asked}\"");
        let script = format!("ulimit -t {own} && exec \"$@\"");
        let daemon = Setup::new()
            .config(&super::echo(&address, 1, &keys))
            .wrapper(&["sh", "-c", &script, "sh"])
            .start();
        let worker = daemon.wait_for_idle("echo", 1)[0];
        let expected = (asked.trim_end_matches('s').to_owned(), own.to_owned());
        assert_eq!(limit(worker, "Max cpu time"), expected);
    }
}

/// Whether root is all that root can be; in a container it may lack this.
fn has_cap_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let set = procfs::status(std::process::id() as i32, "CapEff").unwrap_or_default();
    u64::from_str_radix(&set, 16).is_ok_and(|set| set & 1 << CAP_SYS_RESOURCE != 0)
}

#[test]
fn a_limit_is_raised_by_root_or_the_daemon_says_why_not() {
    if !provided(is_root(), "root") {
        return;
    }
    let address = Address::fresh();
    let keys = "user = \"nobody\"\nlimits.nofile = 4096";
    let setup = Setup::new().config(&super::echo(&address, 1, keys)).wrapper(&[
        "sh",
        "-c",
        "ulimit -n 256 && exec \"$@\"",
        "sh",
    ]);
    if has_cap_sys_resource() {
        let daemon = setup.start();
        let worker = daemon.wait_for_idle("echo", 1)[0];
        assert_eq!(limit(worker, "Max open files"), ("4096".to_owned(), "4096".to_owned()));
    } else {
        let mut daemon = setup.launch();
        let end = daemon.log().wait_for("worker exited", |_| true);
        let reason = end.text("reason").unwrap_or_default();
        assert_eq!(reason, "could not set limit \"nofile\": operation not permitted");
        daemon.wait_for_code(69);
        daemon.expect_anything();
    }
}

/// The nice value in `/proc/PID/stat`.
fn nice(pid: i32) -> i32 {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read the process table");
    let (_, tail) = line.rsplit_once(')').expect("a name");
    tail.split_whitespace().nth(16).and_then(|word| word.parse().ok()).expect("the nice value")
}

fn oom_score_adj(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))
        .expect("read the score")
        .trim()
        .to_owned()
}

#[test]
fn surroundings_are_set_for_the_workers_alone() {
    let address = Address::fresh();
    let setup = Setup::new();
    let directory = setup.directory().join("work");
    fs::create_dir(&directory).expect("create a directory");
    let own = (nice(std::process::id() as i32), oom_score_adj(std::process::id() as i32));
    let keys = format!(
        "working_directory = \"{}\"\numask = \"0137\"\nnice = {}\noom_score_adj = 321",
        directory.display(),
        (own.0 + 3).min(19)
    );
    let daemon = setup.config(&super::echo(&address, 2, &keys)).start();
    for worker in daemon.wait_for_idle("echo", 2) {
        assert_eq!(fs::read_link(format!("/proc/{worker}/cwd")).expect("the directory"), directory);
        assert_eq!(procfs::status(worker, "Umask").as_deref(), Some("0137"));
        assert_eq!(nice(worker), (own.0 + 3).min(19));
        assert_eq!(oom_score_adj(worker), "321");
    }
    let master = daemon.pid();
    assert_eq!((nice(master), oom_score_adj(master)), own);
    assert_ne!(fs::read_link(format!("/proc/{master}/cwd")).expect("the directory"), directory);
}

#[test]
fn a_priority_is_raised_by_root_or_the_daemon_says_why_not() {
    if !provided(is_root(), "root") {
        return;
    }
    let address = Address::fresh();
    let keys = "user = \"nobody\"\nnice = -3";
    let daemon = Daemon::start(&super::echo(&address, 1, keys));
    assert_eq!(nice(daemon.wait_for_idle("echo", 1)[0]), -3);

    let address = Address::fresh();
    let keys = "user = \"nobody\"\noom_score_adj = -17";
    let setup = Setup::new().config(&super::echo(&address, 1, keys));
    if has_cap_sys_resource() {
        let daemon = setup.start();
        assert_eq!(oom_score_adj(daemon.wait_for_idle("echo", 1)[0]), "-17");
    } else {
        let mut daemon = setup.launch();
        let end = daemon.log().wait_for("worker exited", |_| true);
        let reason = end.text("reason").unwrap_or_default();
        assert_eq!(reason, "could not set oom_score_adj \"-17\": permission denied");
        daemon.wait_for_code(69);
        daemon.expect_anything();
    }
}

// It is entered as the user that the worker is.
#[test]
fn a_directory_that_the_user_may_not_enter_is_a_failure_that_says_so() {
    if !provided(is_root(), "root") {
        return;
    }
    let setup = Setup::new();
    let closed = setup.directory().join("closed");
    fs::create_dir(&closed).expect("create a directory");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("close it");
    let keys = format!("user = \"nobody\"\nworking_directory = \"{}\"", closed.display());
    let file = setup.directory().write("preforkd.toml", &super::echo(&Address::fresh(), 2, &keys));
    let ended = finish(preforkd().arg("-c").arg(&file));
    assert!(matches!(ended.code, Some(69 | 77 | 78)), "{ended:?}");
    let expected = format!("could not enter directory \"{}\": ", closed.display());
    assert!(ended.err.contains(&expected), "{ended:?}");
    assert!(ended.err.to_lowercase().contains("permission denied"), "{ended:?}");
}

/// The user whom these tests use that is not root.
const SOMEBODY: u32 = 65_534;

/// Runs `check` and then the daemon as somebody else than root; both have to
/// refuse in the same way. Gives what they say.
#[track_caller]
fn refused_to_somebody(keys: &str) -> String {
    let directory = Directory::new();
    let file = directory.write("preforkd.toml", &super::echo(&Address::fresh(), 1, keys));
    let program =
        if is_root() { copy_for(&directory, SOMEBODY) } else { preforkd().get_program().into() };
    let run = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 500 && exec \"$0\" \"$@\""]).arg(&program);
        command.arg("-c").arg(&file).args(arguments);
        if is_root() {
            command.uid(SOMEBODY).gid(SOMEBODY);
        }
        finish(&mut command)
    };
    let checked = run(&["check"]);
    let ran = run(&[]);
    assert_eq!(ran.code, Some(77), "{keys}: {ran:?}");
    assert_eq!(checked, ran, "check and run disagree about {keys}");
    ran.err
}

#[test]
fn what_only_root_can_do_is_an_error_for_others_that_says_so() {
    for (keys, subject) in [
        ("user = \"root\"", "cannot become user \"root\": "),
        ("group = \"root\"", "cannot become group \"root\": "),
        ("user = \"daemon\"\ngroup = \"mail\"", "cannot become user \"daemon\": "),
        ("nice = -1", "cannot set nice \"-1\": "),
        ("oom_score_adj = -1", "cannot set oom_score_adj \"-1\": "),
        ("limits.nofile = 501", "cannot raise limit \"nofile\": "),
    ] {
        let told = refused_to_somebody(keys);
        assert!(told.contains(&format!("{subject}the daemon does not run as root")), "{told}");
        // At the place where it was asked for.
        let key = keys.split(' ').next().unwrap_or_default();
        assert!(
            told.contains(&format!("preforkd.toml:5:{}: pool.echo.{key}: ", key.len() + 4)),
            "{told}"
        );
        assert!(told.contains("^"), "{told}");
    }
}

#[test]
fn somebody_can_ask_for_what_he_is_and_for_less() {
    let (name, group) = {
        let id = if is_root() { SOMEBODY.into() } else { nix::unistd::geteuid() };
        let user = User::from_uid(id).expect("read the user database");
        let Some(user) = user else {
            provided(false, "a user with a name");
            return;
        };
        let group = Group::from_gid(user.gid).expect("read the group database");
        (user.name, group.map(|group| group.name))
    };
    // Only root may ask for less than what the tests run with, which may be under nice(1).
    let wanted = (nice(std::process::id() as i32) + 1).clamp(7, 19);
    let mut keys = format!(
        "user = \"{name}\"\nnice = {wanted}\noom_score_adj = 900\numask = \"0077\"\nlimits.nofile = 100\n"
    );
    if let Some(group) = group {
        keys.push_str(&format!("group = \"{group}\"\n"));
    }
    let address = Address::fresh();
    let mut setup = Setup::new().config(&super::echo(&address, 1, &keys));
    if is_root() {
        setup = setup.user(SOMEBODY);
    }
    let daemon = setup.start();
    let worker = daemon.wait_for_idle("echo", 1)[0];
    assert_eq!((nice(worker), oom_score_adj(worker)), (wanted, "900".to_owned()));
    assert_eq!(limit(worker, "Max open files"), ("100".to_owned(), "100".to_owned()));
}

// A number that nobody has is a user without a group: root's must not be guessed.
#[test]
fn users_and_groups_may_be_numbers_that_nobody_has() {
    if !provided(is_root(), "root") {
        return;
    }
    let address = Address::fresh();
    let config = |keys: &str| super::echo(&address, 1, keys).replace("\"echo\"", "\"command\"");
    let setup = Setup::example("testsvc").config(&config("user = 54321\ngroup = 54322"));
    let daemon = setup.start();
    let ids = ids(&address);
    assert_eq!(ids["uid"], [54321; 3], "{ids:?}");
    assert_eq!((&ids["gid"], &ids["groups"]), (&vec![54322; 3], &vec![54322]), "{ids:?}");
    daemon.expect(&["reload failed"]);
    daemon.rewrite_config(&config("user = 54321"));
    let event = daemon.fail_to_reload();
    let reason = "could not find the group of user \"54321\": nobody has this number";
    assert!(event.text("reason").is_some_and(|text| text.contains(reason)), "{event}");
}
