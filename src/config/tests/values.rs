//! Every key, right and wrong.
#![forbid(unsafe_code)]

use super::*;
use toml::Spanned;

/// The first line and the hint of the one problem with `lines` in a pool.
fn problem(lines: &str) -> String {
    let mut text = POOL.to_owned();
    // A key of the pool takes the place of the one in the frame.
    for line in lines.lines() {
        let key = line.split([' ', '.']).next().unwrap();
        text = text
            .lines()
            .filter(|old| !old.starts_with(&format!("{key} ")))
            .flat_map(|old| [old, "\n"])
            .collect();
        text.push_str(line);
        text.push('\n');
    }
    let problems = Files::new(&[("main.toml", &text)]).load().unwrap_err();
    let problems: Vec<_> = problems.iter().collect();
    let [problem] = problems[..] else {
        panic!("not one problem with {lines}: {problems:#?}");
    };
    let key = problem.key().trim_start_matches("pool.a.");
    match problem.hint() {
        Some(hint) => format!("{key}: {} | {hint}", problem.message()),
        None => format!("{key}: {}", problem.message()),
    }
}

#[test]
fn every_wrong_value_is_told_in_our_words() {
    let cases = [
        // Whole numbers.
        ("workers = 0", "workers: 0 is not a whole number from 1 to 16384"),
        ("workers = 16385", "workers: 16385 is not a whole number from 1 to 16384"),
        ("workers = \"x\"", "workers: \"x\" is not a whole number from 1 to 16384"),
        (
            "workers = \"2\"",
            "workers: \"2\" is not a whole number from 1 to 16384 | write it without quotes, 2",
        ),
        ("workers = \"0\"", "workers: \"0\" is not a whole number from 1 to 16384"),
        ("workers = 1.5", "workers: 1.5 is not a whole number from 1 to 16384"),
        ("workers = true", "workers: true is not a whole number from 1 to 16384"),
        ("workers = [1]", "workers: [1] is not a whole number from 1 to 16384"),
        ("workers = {}", "workers: a table is not a whole number from 1 to 16384"),
        (
            "workers = 99999999999999999999",
            "workers: 99999999999999999999 is not a whole number from 1 to 16384",
        ),
        ("workers = 2000-01-01", "workers: 2000-01-01 is not a whole number from 1 to 16384"),
        ("max_workers = 1", "max_workers: 1 is not a whole number from 2 to 32768"),
        ("max_workers = 32769", "max_workers: 32769 is not a whole number from 2 to 32768"),
        (
            "workers = 4\nmax_workers = 4",
            "max_workers: 4 is not more than the 4 of workers | a reload needs room for a new worker next to the old ones",
        ),
        ("nice = 20", "nice: 20 is not a whole number from -20 to 19"),
        ("oom_score_adj = -1001", "oom_score_adj: -1001 is not a whole number from -1000 to 1000"),
        ("max_requests = -1", "max_requests: -1 is not a whole number, 0 or more"),
        // Durations.
        ("kill_timeout = 5", "kill_timeout: 5 is not a duration | write \"5s\" for seconds"),
        (
            "kill_timeout = -5",
            "kill_timeout: -5 is not a duration | write it like \"500ms\", \"30s\" or \"5m\"",
        ),
        (
            "kill_timeout = \"5\"",
            "kill_timeout: \"5\" is not a duration | write it like \"500ms\", \"30s\" or \"5m\"",
        ),
        ("kill_timeout = \"0s\"", "kill_timeout: \"0s\" is too short | the least is \"1ms\""),
        ("request_timeout = \"0s\"", "request_timeout: \"0s\" is too short | the least is \"1ms\""),
        ("retire_timeout = \"0s\"", "retire_timeout: \"0s\" is too short | the least is \"1ms\""),
        ("idle_stop = \"0s\"", "idle_stop: \"0s\" is too short | the least is \"1ms\""),
        (
            "leftovers = \"keep\"",
            "leftovers: \"keep\" is not one of \"leave\", \"wait\" and \"kill\" | did you mean \"leave\"?",
        ),
        (
            "leftovers = \"stay\"",
            "leftovers: \"stay\" is not one of \"leave\", \"wait\" and \"kill\"",
        ),
        ("idle_timeout = \"0ms\"", "idle_timeout: \"0ms\" is too short | the least is \"1ms\""),
        (
            "request_timeout = \"1us\"",
            "request_timeout: \"1us\" is too short | the least is \"1ms\"",
        ),
        ("min_uptime = \"367d\"", "min_uptime: \"367d\" is longer than a year"),
        (
            "request_timeout = \"5M\"",
            "request_timeout: \"5M\" is not a duration | a minute is \"m\", as in \"5m\"; the largest unit is the week, \"w\"",
        ),
        (
            "min_uptime = \"1h 2 years\"",
            "min_uptime: \"1h 2 years\" is not a duration | a minute is \"m\", as in \"5m\"; the largest unit is the week, \"w\"",
        ),
        ("min_uptime = false", "min_uptime: false is not a duration"),
        // Shares and modes.
        (
            "max_requests_jitter = 10",
            "max_requests_jitter: 10 is not a share from \"0%\" to \"100%\" | write \"10%\"",
        ),
        (
            "max_requests_jitter = 101",
            "max_requests_jitter: 101 is not a share from \"0%\" to \"100%\"",
        ),
        (
            "max_requests_jitter = \"101%\"",
            "max_requests_jitter: \"101%\" is not a share from \"0%\" to \"100%\"",
        ),
        (
            "max_requests_jitter = \"+1%\"",
            "max_requests_jitter: \"+1%\" is not a share from \"0%\" to \"100%\"",
        ),
        (
            "umask = 22",
            "umask: 22 is not an octal mode from \"0000\" to \"0777\" | write it as text, like \"0660\"",
        ),
        ("umask = \"0788\"", "umask: \"0788\" is not an octal mode from \"0000\" to \"0777\""),
        ("umask = \"1000\"", "umask: \"1000\" is not an octal mode from \"0000\" to \"0777\""),
        // Names and paths.
        ("user = -1", "user: -1 is not a name or a number"),
        ("user = 4294967295", "user: 4294967295 is not a name or a number"),
        ("group = \"\"", "group: \"\" is not a name or a number"),
        ("working_directory = \"tmp\"", "working_directory: \"tmp\" is not an absolute path"),
        (
            "working_directory = \"/a\\u0000\"",
            "working_directory: \"/a\\0\" is not an absolute path",
        ),
        // Keys of xinetd.
        ("instances = 5", ": unknown key \"instances\" in pool.a | it is \"workers\" here"),
        ("only_from = 5", ": unknown key \"only_from\" in pool.a | it is \"allow\" here"),
        (
            "server = 5",
            ": unknown key \"server\" in pool.a | it is the first word of \"service.exec.command\" here",
        ),
        // The environment.
        ("env = 5", "env: 5 is not a table"),
        ("env.A = 5", "env.A: 5 is not a text | write it in quotes, \"5\""),
        ("env.A = \"\\u0000\"", "env.A: \"\\0\" holds a NUL"),
        ("env.\"A=B\" = \"\"", "env.\"A=B\": \"A=B\" is not the name of an environment variable"),
        (
            "env.TCPREMOTEIP = \"x\"",
            "env.TCPREMOTEIP: \"TCPREMOTEIP\" is set by the daemon for each connection",
        ),
        (
            "env.TCPLOCALHOST = \"x\"",
            "env.TCPLOCALHOST: \"TCPLOCALHOST\" is set by the daemon for each connection | set \"hostname\" of the pool",
        ),
        ("pass_env = \"TZ\"", "pass_env: \"TZ\" is not a list | write [\"TZ\"]"),
        ("pass_env = [\"\"]", "pass_env: \"\" is not the name of an environment variable"),
        ("pass_env = [\"PROTO\"]", "pass_env: \"PROTO\" is set by the daemon for each connection"),
        ("pass_env = [\"LISTEN_FDS\"]", "pass_env: \"LISTEN_FDS\" is for the daemon alone"),
        ("hostname = \"\"", "hostname: \"\" is not the name of a host"),
        ("hostname = \"a b\"", "hostname: \"a b\" is not the name of a host"),
        ("env.\"\" = \"\"", "env.\"\": \"\" is not the name of an environment variable"),
        // Limits.
        (
            "limits.nofile = \"64MiB\"",
            "limits.nofile: \"64MiB\" is not a whole number, 16 or more, or \"unlimited\"",
        ),
        (
            "limits.nofile = \"64\"",
            "limits.nofile: \"64\" is not a whole number, 16 or more, or \"unlimited\" | write it without quotes, 64",
        ),
        (
            "limits.nofile = 15",
            "limits.nofile: 15 is not a whole number, 16 or more, or \"unlimited\"",
        ),
        (
            "limits.nproc = -1",
            "limits.nproc: -1 is not a whole number, 0 or more, or \"unlimited\"",
        ),
        (
            "limits.core = \"64Mid\"",
            "limits.core: \"64Mid\" is not a size or \"unlimited\" | write it like \"64MiB\"",
        ),
        ("limits.as = \"99999999TiB\"", "limits.as: \"99999999TiB\" is too large"),
        (
            "limits.cpu = 5",
            "limits.cpu: 5 is not a duration in whole seconds or \"unlimited\" | write \"5s\" for seconds",
        ),
        (
            "limits.cpu = \"1500ms\"",
            "limits.cpu: \"1500ms\" is not a duration in whole seconds or \"unlimited\" | write \"1s\" or \"2s\"",
        ),
        (
            "limits.cpu = \"500ms\"",
            "limits.cpu: \"500ms\" is not a duration in whole seconds or \"unlimited\" | the least is \"1s\"",
        ),
        (
            "limits.cpu = \"0s\"",
            "limits.cpu: \"0s\" is not a duration in whole seconds or \"unlimited\" | the least is \"1s\"",
        ),
        ("limits.stck = 1", ": unknown key \"stck\" in pool.a.limits | did you mean \"stack\"?"),
        // Services.
        ("service = 5", "service: 5 is not the name of a service or a table with one"),
        ("service = {}", "service: no service is named"),
        (
            "service = { a = {}, b = {} }",
            "service: both \"a\" and \"b\" are named | a pool has one service",
        ),
        ("service.exec = \"cat\"", "service.exec: \"cat\" is not a table"),
        ("service = 2000-01-01", "service: a date means nothing here"),
        // Keys.
        ("zzz = 1", ": unknown key \"zzz\" in pool.a"),
        ("\"a b\" = 1", ": unknown key \"a b\" in pool.a"),
    ];
    for (line, expected) in cases {
        assert_eq!(problem(line), expected, "{line}");
    }
}

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_lines() {
    let text = "\
include = 5
[damon]
[log]
level = \"warn\"
format = 5
[pool.b]
service = 5
workers = 0
listen = { address = \"x\", backlog = 0 }
[pool.\"a b\"]
listen = \"@a\"
[pool]
c = 5
";
    let problems = Files::new(&[("main.toml", text)]).load().unwrap_err();
    let told: Vec<_> = problems
        .iter()
        .map(|p| format!("{}:{} {} {}", p.line().unwrap(), p.col().unwrap(), p.key(), p.message()))
        .collect();
    let expected = [
        "1:11 include 5 is not a list",
        "2:2  unknown key \"damon\"",
        "4:9 log.level \"warn\" is not one of \"trace\", \"debug\", \"info\", \"warning\", \"error\", \"critical\"",
        "5:10 log.format 5 is not a string",
        "7:11 pool.b.service 5 is not the name of a service or a table with one",
        "8:11 pool.b.workers 0 is not a whole number from 1 to 16384",
        "9:22 pool.b.listen.address \"x\" is not an address",
        "9:37 pool.b.listen.backlog 0 is not a whole number from 1 to 65535",
        "10:7  \"a b\" is not a name for a pool",
        "10:7  missing key \"service\" in pool.\"a b\"",
        "13:5 pool.c 5 is not a table",
    ];
    assert_eq!(told, expected);
}

#[test]
fn problems_of_one_table_have_a_bound() {
    let keys: String = (0..1000).map(|at| format!("k{at} = 1\n")).collect();
    let problems = Files::new(&[("main.toml", &format!("{POOL}{keys}"))]).load();
    assert_eq!(problems.unwrap_err().iter().count(), 33);
}

#[test]
fn syntax_errors_are_told_in_our_words() {
    let cases = [
        ("a =", "1:4: missing value"),
        ("a = b", "1:5: \"b\" is not a value"),
        ("a = \"b", "1:7: the text has no closing quote"),
        ("a = 0660", "1:5: a number cannot begin with 0"),
        ("a = 127.0.0.1:80", "1:10: \".0.1:80\" is not part of a number"),
        ("a = 1\na = 2", "2:1: duplicate key \"a\""),
        ("[a", "1:3: unclosed table, expected \"]\""),
    ];
    for (text, expected) in cases {
        let told = problems(text);
        assert_eq!(told.lines().next(), Some(&*format!("main.toml:{expected}")), "{text}");
    }
}

// So large that to make a problem of each of the errors would keep this test for
// many minutes.
#[test]
fn the_first_syntax_errors_are_told_one_for_each_line() {
    let text = format!("a = [{}]\n\n{}", "b,".repeat(200_000), "=\n".repeat(150_000));
    let problems = Files::new(&[("main.toml", &text)]).load().unwrap_err();
    let told: Vec<_> = problems.iter().map(|p| (p.line().unwrap(), p.col().unwrap())).collect();
    let expected: Vec<_> = std::iter::once((1, 6)).chain((3..34).map(|line| (line, 1))).collect();
    assert_eq!(told, expected);
}

#[test]
fn every_key_is_read() {
    let config = read(
        r#"
[daemon]
control = "/c"
pid_file = "/p"
stop_timeout = "1m"
stop_delay = "5s"
user = "n"
[log]
level = "critical"
format = "json"
file = "/l"
[pool.z]
listen = { address = "/s", backlog = 5, owner = "o", group = "g", mode = "0600" }
workers = 3
max_workers = 5
service.exec.command = ["cat"]
user = "u"
group = "v"
working_directory = "/w"
umask = "0027"
nice = -5
oom_score_adj = 500
env = { A = "b" }
pass_env = ["C", "D"]
hostname = "h.example"
limits = { nofile = 16, core = 0, as = "1KiB", cpu = "2m", nproc = 3, data = "unlimited", stack = "1kB", fsize = 4 }
max_requests = 7
max_requests_jitter = "20%"
request_timeout = "500ms"
idle_timeout = "2s"
kill_timeout = "3s"
retire_timeout = "1h"
idle_stop = "5s"
min_uptime = "0s"
allow = ["10.0.0.0/8", "::1"]
deny = ["unix"]
[pool.b]
listen = "127.0.0.1:1"
service = "echo"
"#,
    );
    let daemon = Daemon {
        control: "/c".into(),
        pid_file: "/p".into(),
        stop_timeout: Duration::from_secs(60),
        stop_delay: Duration::from_secs(5),
        user: Spanned::new(0..0, "n".into()),
        ..Daemon::default()
    };
    assert_eq!(config.daemon, daemon);
    let log = Log { level: Level::Critical, format: Format::Json, file: Some("/l".into()) };
    assert_eq!(config.log, log);

    let [b, z] = &config.pools[..] else { panic!("{config:?}") };
    assert_eq!((b.name.as_str(), z.name.as_str()), ("b", "z"), "sorted");
    let listen = Listen {
        address: Address::Path("/s".into()),
        backlog: 5,
        owner: Some(Spanned::new(0..0, "o".into())),
        group: Some(Spanned::new(0..0, "g".into())),
        mode: 0o600,
        tcp: Tcp::default(),
    };
    assert!(z.listen.iter().eq([&Spanned::new(0..0, listen)]));
    assert_eq!((z.workers, z.max_workers.as_ref().unwrap().get_ref()), (3, &5));
    assert_eq!(z.service.name.get_ref(), "exec");
    assert_eq!(z.user.as_ref().unwrap().get_ref(), "u");
    assert_eq!(z.group.as_ref().unwrap().get_ref(), "v");
    assert_eq!(z.working_directory.as_ref().unwrap().get_ref(), Path::new("/w"));
    assert_eq!(z.umask, Some(0o27));
    assert_eq!(z.nice.as_ref().unwrap().get_ref(), &-5);
    assert_eq!(z.oom_score_adj.as_ref().unwrap().get_ref(), &500);
    assert_eq!(z.env["A"], "b");
    assert_eq!(
        (&z.pass_env[..], z.hostname.as_deref()),
        (&["C".into(), "D".into()][..], Some("h.example"))
    );
    // Where it stands is no part of what it says.
    let limit = |value: u64| Some(Spanned::new(0..0, value));
    let limits = Limits {
        nofile: limit(16),
        core: limit(0),
        address_space: limit(1024),
        cpu: limit(120),
        nproc: limit(3),
        data: limit(u64::MAX),
        stack: limit(1000),
        fsize: limit(4),
    };
    assert_eq!(z.limits, limits);
    assert_eq!((z.max_requests, z.max_requests_jitter.get()), (7, 20));
    assert_eq!(z.request_timeout, Some(Duration::from_millis(500)));
    assert_eq!(z.idle_timeout, Some(Duration::from_secs(2)));
    assert_eq!(z.kill_timeout, Duration::from_secs(3));
    assert_eq!(z.retire_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(z.idle_stop, Duration::from_secs(5));
    assert_eq!(z.min_uptime, Duration::ZERO);
    let allow = ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
    assert_eq!(z.allow, allow);
    assert_eq!(z.deny, [Peers::Unix]);

    assert!(b.workers >= 1, "the number of processors");
    assert_eq!((&b.max_workers, b.retire_timeout), (&None, None));
    assert_eq!(b.idle_stop, Duration::from_secs(1));
    assert_eq!((b.max_requests, b.max_requests_jitter.get()), (0, 10));
    assert_eq!(b.kill_timeout, Duration::from_secs(5));
    assert_eq!(b.min_uptime, Duration::from_secs(1));
    assert_eq!(b.limits, Limits::default());
    let listen = b.listen.of(&"127.0.0.1:1".parse().unwrap()).unwrap();
    assert_eq!((listen.backlog, listen.mode), (1024, 0o660));
}
