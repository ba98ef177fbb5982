//! The configuration as a whole: files in, settings or problems out.
#![forbid(unsafe_code)]

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::error::{Code, Error};

mod values;

const SHIPPED: &str = include_str!("../../etc/preforkd.toml");
/// Every key, with its default.
const FULL: &str = include_str!("../../packaging/doc/examples/full.toml");
const POOL: &str = "[pool.a]\nlisten = \"@a\"\nservice = \"echo\"\n";

/// A directory of configuration files, removed at the end of the test.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Files(directory)
    }

    fn load(&self) -> Result<Config, Problems> {
        load(&self.0.path().join("main.toml"))
    }

    /// The problems, with the directory left out of every path.
    fn problems(&self) -> String {
        let text = self.load().unwrap_err().to_string();
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn read(text: &str) -> Config {
    Files::new(&[("main.toml", text)]).load().unwrap()
}

fn problems(text: &str) -> String {
    Files::new(&[("main.toml", text)]).problems()
}

#[test]
fn a_problem_shows_line_caret_and_nearest_key() {
    let text = "[pool.echo]\nlisten = \"@a\"\nservice = \"echo\"\n\twokers = 4\n";
    let expected = "main.toml:4:2: unknown key \"wokers\" in pool.echo\n    4 | \twokers = 4\n      | \t^^^^^^\nhint: did you mean \"workers\"?";
    assert_eq!(problems(text), expected);
}

#[test]
fn columns_count_characters() {
    let text = format!("{POOL}env = {{ \"ü\" = \"ä\", x = 5 }}");
    let expected = "main.toml:4:25: pool.a.env.x: 5 is not a text\n    4 | env = { \"ü\" = \"ä\", x = 5 }\n      |                         ^\nhint: write it in quotes, \"5\"";
    assert_eq!(
        problems(&text),
        expected.replace(":25:", ":24:").replacen(
            "                         ^",
            "                        ^",
            1
        )
    );
}

#[test]
fn included_files_add_their_pools() {
    let files = Files::new(&[
        ("main.toml", "include = [\"d/*.toml\", \"d/[b].toml\", \"none/*\", \"x\"]"),
        ("d/b.toml", "[pool.b]\nlisten = \"@b\"\nservice = \"echo\""),
        ("d/c.toml", POOL),
        ("d/.hidden.toml", "not toml"),
        ("x", "[pool.x]\nlisten = \"@x\"\nservice = \"echo\""),
    ]);
    let names: Vec<_> = files.load().unwrap().pools.into_iter().map(|pool| pool.name).collect();
    assert_eq!(names, ["a", "b", "x"]);
}

#[test]
fn included_files_are_read_in_the_order_of_their_names() {
    let files = Files::new(&[
        ("main.toml", "include = [\"*.d\"]"),
        ("c.d", "c = 1"),
        ("a.d", "a = 1"),
        ("b.d", "b = 1"),
    ]);
    let problems = files.load().unwrap_err();
    let order: Vec<_> =
        problems.iter().map(|problem| problem.path().unwrap().file_name().unwrap()).collect();
    assert_eq!(order, ["a.d", "b.d", "c.d"]);
}

#[test]
fn wrong_includes_are_told() {
    let cases: [(&str, &str, &str); 5] = [
        (
            "absent.toml",
            "",
            "main.toml:1:12: include: could not read configuration \"absent.toml\": no such file or directory",
        ),
        ("d/*[", "", "main.toml:1:12: include: \"d/*[\" is not a pattern: invalid range pattern"),
        ("d/*", "[daemon]", "d/i.toml:1:2: key \"daemon\" belongs in main.toml"),
        ("d/*", "include = []", "d/i.toml:1:1: key \"include\" belongs in main.toml"),
        ("d/*", "[pool.b]\nservice = \"x\"", "d/i.toml:1:7: missing key \"listen\" in pool.b"),
    ];
    for (include, text, expected) in cases {
        let main = format!("include = [\"{include}\"]\n{POOL}");
        let told = Files::new(&[("main.toml", &main), ("d/i.toml", text)]).problems();
        assert_eq!(told.lines().next(), Some(expected), "{include}");
    }
}

#[test]
fn two_pools_share_no_name_and_no_address() {
    let main = format!("include = [\"i\"]\n\n{POOL}");
    let files = Files::new(&[("main.toml", &main), ("i", POOL)]);
    let expected = "i:1:7: pool \"a\" is already in main.toml:3\n    1 | [pool.a]\n      |       ^";
    assert_eq!(files.problems(), expected);

    let other = POOL.replace("pool.a", "pool.b");
    let files = Files::new(&[("main.toml", &main), ("i", &other)]);
    let expected = "i:2:10: pool.b.listen: address \"@a\" is already that of pool \"a\" in main.toml:3\n    2 | listen = \"@a\"\n      |          ^^^^";
    assert_eq!(files.problems(), expected);
}

#[test]
fn a_file_that_cannot_be_read_is_told_by_name_and_code() {
    let large = format!("# {}", "x".repeat(1024 * 1024));
    let files = Files::new(&[("d/x", ""), ("large", &large), ("empty", "")]);
    fs::write(files.0.path().join("latin"), b"# ok\n# \xff\n").unwrap();
    let cases = [
        ("none", Code::NoInput, "could not read configuration \"none\": no such file or directory"),
        ("d", Code::NoInput, "could not read configuration \"d\": it is a directory"),
        ("d/x/y", Code::NoInput, "could not read configuration \"d/x/y\": not a directory"),
        ("large", Code::Config, "could not read configuration \"large\": it is larger than 1 MiB"),
        ("latin", Code::Config, "could not read configuration \"latin\": line 2 is not UTF-8"),
        (
            "empty",
            Code::Config,
            "empty: no pool is configured\nhint: add one, which begins with a line like [pool.echo]",
        ),
    ];
    for (name, code, expected) in cases {
        let problems = load(&files.0.path().join(name)).unwrap_err();
        let told = problems.to_string().replace(&format!("{}/", files.0.path().display()), "");
        assert_eq!((told.as_str(), Error::from(problems).code()), (expected, code));
    }
}

#[test]
fn equality_is_about_what_is_said_not_where() {
    let one = "[pool.a]\nlisten = \"@a\"\nservice.exec = { a = 1, b = [\"x\"] }\nnice = 1\n";
    let other = "# moved\n\n[pool.z]\nlisten = \"@z\"\nservice = \"echo\"\n\n[pool.a]\nnice = 1\nservice.exec.b = [ 'x' ]\n\
                 service.exec.a = 1\nlisten = { address = \"@a\", backlog = 1024 }\n";
    let pool = |text: &str| read(text).pools.remove(0);
    assert_eq!(pool(one), pool(other));
    for (was, is) in
        [("nice = 1", "nice = 2"), ("a = 1", "a = 2"), ("\"x\"", "\"y\""), ("@a", "@b")]
    {
        assert_ne!(pool(one), pool(&one.replace(was, is)), "{is}");
    }
}

#[test]
fn the_shipped_files_are_right_as_they_are_and_with_every_key() {
    for text in [SHIPPED, FULL] {
        let config = read(text);
        let pool = &config.pools[0];
        let address = SocketAddr::from(([127, 0, 0, 1], 7007));
        assert!(pool.listen.of(&Address::Inet(address.into())).is_some());
        assert_eq!((pool.workers, pool.service.name.get_ref().as_str()), (4, "echo"));
    }

    let with_every_key: String = FULL
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let full = read(&with_every_key);
    let pool = &read(SHIPPED).pools[0];
    let control = PathBuf::from("/run/preforkd/control.sock");
    let defaults = Daemon { control, ..Daemon::default() };
    assert_eq!(full.daemon, defaults, "the defaults that it tells are the defaults");
    assert_eq!((full.log.level, full.log.format), (Level::Info, Format::Auto));
    let [all] = &full.pools[..] else { panic!("{full:?}") };
    assert_eq!(
        (all.max_requests, all.max_requests_jitter),
        (pool.max_requests, pool.max_requests_jitter)
    );
    assert_eq!((all.kill_timeout, all.min_uptime), (pool.kill_timeout, pool.min_uptime));
}

#[test]
fn broken_files_never_panic() {
    let try_with = |text: &[u8]| {
        let main = File { path: "main.toml".into(), content: Ok(text.to_vec()) };
        if let Err(problems) = parse(Gathered { main, included: Vec::new() }) {
            assert!(!problems.to_string().is_empty());
        }
    };
    // Without the comments, so that most breaks hit something.
    let text: String = FULL
        .lines()
        .map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line))
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    for at in 0..text.len() {
        try_with(&text.as_bytes()[..at]);
        for flip in [0x01, 0x04, 0x20, 0x80, 0xff] {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= flip;
            try_with(&bytes);
        }
    }
}

// The child that reads for a running daemon sends the content through a pipe.
#[test]
fn what_crosses_a_pipe_means_the_same() {
    let main = format!("include = [\"d/*\", \"none\", \"d/*[\"]\n{POOL}");
    let pool = POOL.replace("a", "b");
    let right = Files::new(&[("main.toml", FULL), ("pool.d/b.toml", &pool)]);
    let wrong = Files::new(&[("main.toml", &main), ("d/1", "x"), ("d/2", "y = 1")]);
    for files in [right, wrong] {
        let path = files.0.path().join("main.toml");
        let sent = gather(&path, MainFile::Regular).to_bytes();
        assert!(sent.len() < Gathered::MAX_ENCODED);
        assert_eq!(parse(Gathered::from_bytes(&sent).unwrap()), files.load());
        // Damaged bytes are an error, or still have a meaning.
        for at in 0..sent.len().min(300) {
            let mut broken = sent.clone();
            broken[at] ^= 0x81;
            let _ = Gathered::from_bytes(&broken).map(parse);
        }
    }
}

/// One pool from its text, for the tests of other modules.
pub(crate) fn pool(text: &str) -> Pool {
    pools(text).remove(0)
}

/// The pools of a text, sorted by name.
pub(super) fn pools(text: &str) -> Vec<Pool> {
    read(text).pools
}

#[test]
fn what_is_wrong_in_a_list_of_addresses_is_told_at_its_place() {
    let told = |list: &str| {
        let text = format!("[pool.a]\nlisten = {list}\nservice = \"echo\"\nnice = 99\n");
        let told = problems(&text);
        // Faults beyond it are reported, too.
        assert!(told.contains("main.toml:4:8: pool.a.nice: "), "{told}");
        told.lines().next().unwrap_or_default().to_owned()
    };
    for (list, expected) in [
        ("[]", "2:10: pool.a.listen: the list has no address"),
        ("[\"@a\", \"x\"]", "2:17: pool.a.listen: \"x\" is not an address"),
        ("[\"@a\", 5]", "2:17: pool.a.listen: 5 is not an address or a table with one"),
        ("5", "2:10: pool.a.listen: 5 is not an address, a table with one, or a list of them"),
        (
            "[\"@a\", { address = \"@b\", backlog = 0 }]",
            "2:45: pool.a.listen: 0 is not a whole number from 1 to 65535",
        ),
        (
            "[\"@a\", { address = \"@b\", mode = \"0600\" }]",
            "2:42: pool.a.listen: address \"@b\" has no mode",
        ),
        (
            "[\"@a\", { address = \"@b\", bcklog = 1 }]",
            "2:35: unknown key \"bcklog\" in pool.a.listen",
        ),
        ("[\"@a\", { backlog = 1 }]", "2:1: missing key \"address\" in pool.a.listen"),
    ] {
        assert_eq!(told(list), format!("main.toml:{expected}"), "{list}");
    }
    let most: String = (0..65).map(|number| format!("\"@{number}\",")).collect();
    assert!(told(&format!("[{most}]")).contains("the list has more than 64 addresses"));
    let twice = problems("[pool.a]\nlisten = [\"@a\", \"@b\", \"@a\"]\nservice = \"echo\"\n");
    assert!(
        twice.starts_with("main.toml:2:23: pool.a.listen: address \"@a\" is already in the list")
    );
}

#[test]
fn an_ipv6_address_leaves_its_ipv4_clients_to_one_of_ipv4_with_its_port() {
    let only = |list: &str| -> Vec<Option<bool>> {
        let config = read(&format!("[pool.a]\nlisten = {list}\nservice = \"echo\"\n"));
        config.pools[0].listen.iter().map(|listen| listen.get_ref().tcp.ipv6_only).collect()
    };
    for (list, expected) in [
        ("\"[::]:1\"", &[None][..]),
        ("[\"[::]:1\", \"0.0.0.0:1\"]", &[Some(true), None]),
        ("[\"127.0.0.1:1\", \"[::1]:1\"]", &[None, Some(true)]),
        ("[\"0.0.0.0:1\", \"[::]:2\", \"@a\"]", &[None, None, None]),
    ] {
        assert_eq!(only(list), expected, "{list}");
    }
}

#[test]
fn the_options_of_a_tcp_listener_are_read_or_told_to_be_wrong() {
    let pool = |keys: &str| {
        format!("[pool.a]\nlisten = {{ address = \"[::]:1\", {keys} }}\nservice = \"echo\"\n")
    };
    let all = "bind_device = \"eth0\", nodelay = true, ipv6_only = false, freebind = true, \
               keepalive = { idle = \"60s\", interval = \"10s\", count = 5 }, \
               defer_accept = \"5s\"";
    let config = read(&pool(all));
    let tcp = Tcp {
        bind_device: Some("eth0".to_owned()),
        nodelay: true,
        keepalive: Keepalive { idle: Some(60), interval: Some(10), count: Some(5) },
        ipv6_only: Some(false),
        freebind: true,
        defer_accept: Some(5),
    };
    assert!(config.pools[0].listen.iter().all(|listen| listen.get_ref().tcp == tcp));
    let seconds = "is not a duration in whole seconds, from \"1s\" to \"32767s\"";
    for (keys, expected) in [
        ("nodelay = 1", "nodelay: 1 is not true or false".to_owned()),
        (
            "bind_device = \"a/b\"",
            "bind_device: \"a/b\" is not the name of a network interface".to_owned(),
        ),
        ("keepalive = true", "keepalive: true is not a table".to_owned()),
        ("keepalive.idle = \"1500ms\"", format!("keepalive.idle: \"1500ms\" {seconds}")),
        (
            "keepalive.count = 0",
            "keepalive.count: 0 is not a whole number from 1 to 127".to_owned(),
        ),
        ("defer_accept = \"0s\"", format!("defer_accept: \"0s\" {seconds}")),
    ] {
        let told = problems(&pool(keys));
        let line = told.lines().next().unwrap_or_default();
        assert!(line.ends_with(&format!(" pool.a.listen.{expected}")), "{told}");
    }
}
