//! What a worker can see, and what it can do to the others.
//!
//! That it cannot get back to root is in `services/privileges.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::client::{ask, assert_serves};
use support::command::{finish, preforkd};
use support::random::Random;
use support::{Address, Client, Daemon, Directory, Event, Setup, is_root, procfs, provided, until};

const PAGE_BYTES: u64 = 4096;

/// A pool of the test service, which never backs off.
fn command(name: &str, address: &Address, workers: usize, keys: &str) -> String {
    format!(
        "[pool.{name}]\nlisten = \"{address}\"\nworkers = {workers}\nservice = \"command\"\n\
         min_uptime = \"0s\"\n{keys}\n"
    )
}

/// Memory that a process shares with others, by `/proc/PID/maps`.
#[derive(Clone, Debug)]
struct Shared {
    from: u64,
    to: u64,
    /// What is mapped, and from where on: the inode and the offset.
    object: (String, u64),
}

fn shared_memory(pid: i32) -> Vec<Shared> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let hex = |text: &str| u64::from_str_radix(text, 16).ok();
            let (from, to) = words.first()?.split_once('-')?;
            let object = ((*words.get(4)?).to_owned(), hex(words.get(2)?)?);
            let shared = Shared { from: hex(from)?, to: hex(to)?, object };
            words.get(1)?.ends_with('s').then_some(shared)
        })
        .collect()
}

#[test]
fn a_worker_has_one_page_and_it_is_nobody_elses() {
    let address = Address::fresh();
    let config = command("one", &address, 12, "") + &command("other", &Address::fresh(), 3, "");
    let daemon = Daemon::start_example("testsvc", &config);
    daemon.expect(&["worker killed"]);
    let mut workers = daemon.wait_for_idle("one", 12);
    // A later worker takes a seat that others have had.
    for &victim in &workers[2..5] {
        procfs::send(victim, Signal::SIGKILL);
        until("the worker is gone", || (!procfs::is_alive(victim)).then_some(()));
    }
    workers = daemon.wait_for_idle("one", 12);
    workers.extend(daemon.wait_for_idle("other", 3));
    let mut seen = BTreeSet::new();
    for &worker in &workers {
        let areas = shared_memory(worker);
        assert_eq!(areas.len(), 1, "{worker} shares {areas:x?}");
        assert_eq!(areas[0].to - areas[0].from, PAGE_BYTES, "{worker} shares {areas:x?}");
        assert!(seen.insert(areas[0].object.clone()), "two workers share {areas:x?}");
    }
}

/// Whether the kernel is one that can seal a mapping (mseal(2)).
fn can_seal() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 10)
}

// What is mapped can be mapped again, and more of it (mremap(2)): if the page of
// a worker lies in one object with those of others, it reaches these.
#[test]
fn a_worker_cannot_map_more_than_its_page() {
    if !provided(can_seal(), "Linux 6.10, for mseal") {
        return;
    }
    let address = Address::fresh();
    let daemon = Daemon::start_example("testsvc", &command("command", &address, 12, ""));
    daemon.wait_for_idle("command", 12);
    // In turn, so that it is not always the one with the last page.
    for _ in 0..12 {
        assert_eq!(ask(&address, "grow\n"), "0\n");
    }
}

/// Opens the file with the pages of all workers, as the master has it.
fn scoreboard(master: i32) -> File {
    let descriptors = procfs::descriptors(master);
    let is_it = |target: &String| target.starts_with("/memfd:scoreboard");
    let (number, _) = descriptors.iter().find(|(_, target)| is_it(target)).expect("the file");
    let path = format!("/proc/{master}/fd/{number}");
    File::options().read(true).write(true).open(path).expect("open the file")
}

// Were it shorter, the workers of all pools would die of SIGBUS.
#[test]
fn nobody_can_shorten_the_scoreboard() {
    if !provided(is_root(), "root, to get at it") {
        return;
    }
    let address = Address::fresh();
    let config = format!("[pool.echo]\nlisten = \"{address}\"\nworkers = 3\nservice = \"echo\"\n");
    let daemon = Daemon::start(&config);
    let workers = daemon.wait_for_idle("echo", 3);
    let file = scoreboard(daemon.pid());
    let refused = file.set_len(0).expect_err("make it shorter");
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
    for _ in 0..6 {
        assert_serves(&address);
    }
    assert_eq!(daemon.wait_for_idle("echo", 3), workers);
}

/// A process that has nothing to do with the daemon, and dies of any signal.
struct Bystander(Child);

impl Bystander {
    fn new() -> Self {
        Bystander(Command::new("sleep").arg("1000").spawn().expect("start a process"))
    }

    fn pid(&self) -> u64 {
        u64::from(self.0.id())
    }

    #[track_caller]
    fn assert_alive(&mut self) {
        let status = self.0.try_wait().expect("look at the process");
        assert!(status.is_none(), "the bystander ended: {status:?}");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a worker's whole page, as only it could: through its memory.
struct Vandal {
    memory: File,
    from: u64,
}

impl Vandal {
    fn of(worker: i32) -> Option<Self> {
        let memory = File::options().write(true).open(format!("/proc/{worker}/mem")).ok()?;
        let from = shared_memory(worker).first()?.from;
        Some(Vandal { memory, from })
    }

    /// The worker may be gone meanwhile.
    fn fill(&self, mut word: impl FnMut(u64) -> u64) {
        let page: Vec<u8> = (0..PAGE_BYTES / 8).flat_map(|at| word(at).to_le_bytes()).collect();
        let _ = self.memory.write_all_at(&page, self.from);
    }
}

// PEERS: "a worker makes the root master act on its scoreboard".
#[test]
fn nothing_that_a_worker_writes_makes_the_master_signal_a_stranger() {
    let me = i64::from(std::process::id());
    let own = procfs::Process::of(me as i32).map(|process| process.group).unwrap_or_default();
    for keys in ["", "request_timeout = \"200ms\"\nkill_timeout = \"200ms\""] {
        let address = Address::fresh();
        let mut bystander = Bystander::new();
        let mut daemon = Daemon::start_example("testsvc", &command("command", &address, 4, keys));
        let workers = daemon.wait_for_idle("command", 4);
        if !provided(Vandal::of(workers[0]).is_some(), "the right to write to a worker's memory") {
            return;
        }
        let master = daemon.pid();
        let stranger = bystander.pid();
        let words = [
            stranger,
            stranger << 32 | stranger,
            (-(stranger as i64)) as u64,
            master as u64,
            u64::MAX,
            0,
            1,
            1 << 63,
            me as u64,
            (-i64::from(own)) as u64,
        ];
        let mut random = Random::new();
        for (round, &word) in words.iter().enumerate() {
            // One more since the last round, if that was a SIGTTIN.
            let size = if round % 5 == 4 { 5 } else { 4 };
            let victims = daemon.wait_for_idle("command", size);
            let vandals: Vec<_> = victims.iter().filter_map(|&pid| Vandal::of(pid)).collect();
            // Every worker's page: at first ever another number, and then for
            // as long as the master needs for a look what looks busy for long.
            let end = Instant::now() + Duration::from_millis(30);
            while Instant::now() < end {
                vandals.iter().for_each(|vandal| vandal.fill(|_| random.below(1 << 30) as u64));
            }
            vandals.iter().for_each(|vandal| vandal.fill(|_| word));
            thread::sleep(Duration::from_millis(300));
            bystander.assert_alive();
            let victim = victims[round % 4];
            match round % 5 {
                0 => daemon.signal(Signal::SIGHUP),
                1 => procfs::send_if_there(victim, Signal::SIGKILL),
                2 => procfs::send_if_there(victim, Signal::SIGTERM),
                3 => daemon.signal(Signal::SIGTTIN),
                _ => daemon.signal(Signal::SIGTTOU),
            }
            bystander.assert_alive();
            assert!(procfs::is_alive(master));
        }
        assert_eq!(daemon.wait_for_idle("command", 4).len(), 4);
        if keys.is_empty() {
            assert_eq!(ask(&address, "echo\nhello"), "hello");
        } else {
            // One may be cut or killed at this very moment, for having looked busy.
            until("a worker answers", || answers(&address).then_some(()));
        }
        until("no zombie is left", || daemon.zombies().is_empty().then_some(()));
        bystander.assert_alive();
        // Its word is taken for a number in the log, and no more.
        for end in daemon.log().events().iter().filter(|event| event.is_end()) {
            assert!(end.is_of_pool("command") && end.has("served") && end.has("cause"), "{end}");
            assert!(!end.text("reason").unwrap_or_default().chars().any(char::is_control), "{end}");
        }
        daemon.expect_anything();
    }
}

/// Whether a worker answers in its time.
fn answers(address: &Address) -> bool {
    let ask = || {
        let mut client = Client::try_connect(address)?;
        client.write_all(b"echo\nhello")?;
        client.half_close()?;
        let mut reply = String::new();
        client.read_to_string(&mut reply).map(|_| reply)
    };
    ask().is_ok_and(|reply| reply == "hello")
}

// The same by the worker itself, which writes as fast as it can.
#[test]
fn a_worker_that_scribbles_for_seconds_harms_nobody() {
    let address = Address::fresh();
    let mut bystander = Bystander::new();
    let daemon = Daemon::start_example("testsvc", &command("command", &address, 4, ""));
    let workers = daemon.wait_for_idle("command", 4);
    let mut vandals: Vec<_> = (0..3).map(|_| Client::connect(&address)).collect();
    for vandal in &mut vandals {
        vandal.send("scribble\n");
        // It reaches no other page than its own.
        vandal.expect("pages 1\n");
    }
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(ask(&address, "echo\nhello"), "hello");
        daemon.signal(Signal::SIGTTIN);
        daemon.signal(Signal::SIGTTOU);
        bystander.assert_alive();
    }
    let busy = workers.iter().filter(|&&pid| !procfs::is_in_accept(pid)).count();
    assert!(busy >= 3, "they scribble all the while");
    for vandal in &mut vandals {
        vandal.half_close().expect("let it end");
        assert_eq!(vandal.rest(), "done\n");
    }
    // Two of the same signal may count as one; a reload sets that right.
    daemon.wait_until_obeyed();
    daemon.signal(Signal::SIGHUP);
    until("the pool is at size", || (daemon.workers("command").len() == 4).then_some(()));
    bystander.assert_alive();
    until("no zombie is left", || daemon.zombies().is_empty().then_some(()));
}

#[test]
fn the_environment_of_a_worker_is_exactly_the_promised_one() {
    let address = Address::fresh();
    let keys = "env = { GREETING = \"good day\", TZ = \"UTC\" }";
    let own = [
        ("NOTIFY_SOCKET", "/nowhere/notify"),
        ("WATCHDOG_USEC", "100000000"),
        ("WATCHDOG_PID", "1"),
        ("LISTEN_FDS", "1"),
        ("LISTEN_PID", "1"),
        ("LISTEN_FDNAMES", "http"),
        ("JOURNAL_STREAM", "1:2"),
        ("INVOCATION_ID", "0123456789abcdef"),
        ("CREDENTIALS_DIRECTORY", "/run/credentials"),
        ("SECRET", "token"),
        ("LD_PRELOAD", ""),
        ("HOME", "/root"),
        ("PATH", "/usr/bin:/bin"),
        ("LANG", "C.UTF-8"),
        ("TZ", "Asia/Tokyo"),
    ];
    let setup = own
        .iter()
        .fold(Setup::example("testsvc"), |setup, (name, value)| setup.variable(name, value));
    let daemon = setup.config(&command("command", &address, 1, keys)).start();
    let text = ask(&address, "env\n");
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort();
    // What the pool sets is stronger than what is kept.
    assert_eq!(lines, ["GREETING=good day", "LANG=C.UTF-8", "PATH=/usr/bin:/bin", "TZ=UTC"]);
    daemon.wait_for_idle("command", 1);
}

/// Somebody who is not root.
const SOMEBODY: u32 = 65_534;

/// A place for the log that somebody else had a hand in, and why root refuses it.
type Planted = (&'static str, fn(&Path), &'static str);

const PLANTED: [Planted; 7] = [
    ("log", |log| symlink("/etc/victim", log).expect("make a link"), "it is a symbolic link"),
    ("d/log", |log| give(parent(log)), "d\" belongs to user 65534"),
    ("d/e/log", |log| give(parent(parent(log))), "d\" belongs to user 65534"),
    ("d/log", |log| open_up(parent(log), 0o777), "everybody can write to directory \""),
    (
        "d/log",
        |log| {
            open_up(parent(log), 0o1777);
            fs::write(log, "").expect("make a file");
            give(log);
        },
        "it belongs to user 65534",
    ),
    (
        "d/log",
        |log| {
            open_up(parent(log), 0o775);
            fs::write(log, "").expect("make a file");
            fs::hard_link(log, parent(parent(log)).join("second")).expect("make a link");
        },
        "it has a second name",
    ),
    (
        "d/e/log",
        |log| {
            let (link, shared) = (parent(log), parent(parent(log)));
            fs::remove_dir(link).expect("remove a directory");
            open_up(shared, 0o1777);
            symlink("/etc", link).expect("make a link");
            lchown(link, Some(SOMEBODY), None).expect("give it away");
        },
        "d/e\" belongs to user 65534",
    ),
];

fn parent(path: &Path) -> &Path {
    path.parent().expect("its directory")
}

fn give(path: &Path) {
    chown(path, Some(SOMEBODY), Some(SOMEBODY)).expect("give it away");
}

fn open_up(directory: &Path, mode: u32) {
    fs::set_permissions(directory, fs::Permissions::from_mode(mode)).expect("open it to others");
}

fn echo_with_log(log: &Path) -> String {
    format!(
        "[log]\nformat = \"json\"\nfile = \"{}\"\n\
         [pool.echo]\nlisten = \"{}\"\nworkers = 1\nservice = \"echo\"\n",
        log.display(),
        Address::fresh()
    )
}

#[test]
fn root_opens_no_log_to_which_others_could_lead_it() {
    if !provided(is_root(), "root") {
        return;
    }
    for (place, plant, reason) in PLANTED {
        let directory = Directory::new();
        let log = directory.join(place);
        fs::create_dir_all(parent(&log)).expect("make a directory");
        let file = directory.write("preforkd.toml", &echo_with_log(&log));
        let check = || finish(preforkd().arg("-c").arg(&file).arg("check"));
        assert_eq!(check().code, Some(0), "before: {:?}", check());
        plant(&log);
        let told = finish(preforkd().arg("-c").arg(&file));
        assert_eq!(told.code, Some(77), "{told:?}");
        let expected = format!("could not open log \"{}\": ", log.display());
        assert!(told.err.contains(&expected) && told.err.contains(reason), "{told:?}");
        assert_eq!(check().err, told.err);
    }
}

// /var/log belongs to a group too on some systems, and in /tmp everybody has files.
#[test]
fn root_opens_a_log_of_its_own_where_others_have_theirs() {
    if !provided(is_root(), "root") {
        return;
    }
    for mode in [0o755, 0o775, 0o1777] {
        let setup = Setup::new();
        let log = setup.directory().join("d/log");
        fs::create_dir(parent(&log)).expect("make a directory");
        open_up(parent(&log), mode);
        fs::write(&log, "").expect("make a file");
        let daemon = setup.config(&echo_with_log(&log)).launch();
        until("the log is written", || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("\"ready\"")).then_some(())
        });
        daemon.wait_for_children(1);
    }
}

#[test]
fn a_log_that_is_opened_again_is_no_link() {
    let setup = Setup::new();
    let log = setup.directory().join("log");
    let victim = setup.directory().write("victim", "");
    let mut daemon = setup.config(&echo_with_log(&log)).launch();
    daemon.expect_anything();
    let worker = daemon.wait_for_children(1)[0];
    until("it accepts", || procfs::is_in_accept(worker).then_some(()));
    let old = daemon.directory().join("log.old");
    fs::rename(&log, &old).expect("rename the log");
    symlink(&victim, &log).expect("plant a link");
    // The worker does it by itself; what it may not open ends it.
    procfs::send(worker, Signal::SIGUSR1);
    daemon.signal(Signal::SIGUSR1);
    let told = |text: &str| fs::read_to_string(&old).is_ok_and(|log| log.contains(text));
    until("the master has tried", || told("could not reopen log").then_some(()));
    until("the worker has tried", || told("\"worker exited\"").then_some(()));
    assert_eq!(fs::read_to_string(&victim).expect("read the file"), "");
}

/// What each descriptor of a worker is, with the sockets by their kind.
fn kinds(pid: i32, listener: &str) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for (number, target) in procfs::descriptors(pid) {
        let kind = match number {
            0..=2 => format!("{number} {}", target.split(':').next().unwrap_or_default()),
            _ if target == listener => "listener".to_owned(),
            _ => target.split(':').next().unwrap_or_default().to_owned(),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

#[test]
fn a_worker_has_no_descriptor_but_its_own() {
    let setup = Setup::new();
    let addresses = [Address::fresh(), Address::fresh(), Address::fresh()];
    let log = setup.directory().join("log");
    let unix = Address::unix(&setup.directory().join("echo.sock"));
    let config = format!(
        "[log]\nformat = \"json\"\nfile = \"{}\"\n\
         [pool.a]\nlisten = \"{}\"\nworkers = 2\nservice = \"echo\"\n\
         [pool.b]\nlisten = \"{}\"\nworkers = 2\nservice = \"echo\"\n\
         [pool.c]\nlisten = \"{}\"\nworkers = 1\nservice.exec.command = [\"cat\"]\n\
         [pool.d]\nlisten = \"{unix}\"\nworkers = 1\nservice = \"echo\"\n",
        log.display(),
        addresses[0],
        addresses[1],
        addresses[2],
    );
    // The daemon is started with files open that are its starter's.
    let daemon = setup
        .config(&config)
        .wrapper(&["sh", "-c", "exec \"$@\" 5</etc/passwd 7<>/dev/null 9</etc/group", "sh"])
        .launch();
    let mut children = daemon.wait_for_children(6);
    // Later workers are forked from a master that has more open.
    procfs::send(children[0], Signal::SIGTERM);
    until("the worker is gone", || (!procfs::is_alive(children[0])).then_some(()));
    children = daemon.wait_for_children(6);

    let listeners: Vec<_> = addresses
        .iter()
        .map(|address| procfs::listener(address.tcp()).expect("a listener"))
        .collect();
    let log_name = log.display().to_string();
    let mut of_pool = [0; 4];
    for &worker in &children {
        let own = procfs::descriptors(worker);
        let held: Vec<_> =
            (0..3).filter(|&pool| own.values().any(|target| *target == listeners[pool])).collect();
        assert!(held.len() <= 1, "{worker} has the listeners of several pools: {own:?}");
        let pool = held.first().copied().unwrap_or(3);
        of_pool[pool] += 1;
        let listener = held.first().map_or("", |&pool| listeners[pool].as_str());
        let mut expected = BTreeMap::from([
            ("0 /dev/null".to_owned(), 1),
            (log_name.clone(), 1),
            // What takes the place of the listener.
            ("/dev/null".to_owned(), 1),
        ]);
        match pool {
            // Its listener is not in the table of TCP.
            3 => expected.insert("socket".to_owned(), 1),
            _ => expected.insert("listener".to_owned(), 1),
        };
        if pool == 2 {
            // Both ends of the way from its programs to the log.
            expected.insert("pipe".to_owned(), 2);
        }
        let mut kinds = kinds(worker, listener);
        // What the daemon has as output, whatever that is.
        kinds.retain(|kind, _| !kind.starts_with("1 ") && !kind.starts_with("2 "));
        assert_eq!(kinds, expected, "{worker} of {pool}: {own:?}");
    }
    assert_eq!(of_pool, [2, 2, 1, 1]);
    assert_serves(&unix);
}

#[test]
fn the_log_is_closed_to_others_and_inherits_no_umask() {
    let setup = Setup::new();
    let address = Address::fresh();
    let log = setup.directory().join("log");
    let config = format!(
        "[log]\nformat = \"json\"\nfile = \"{}\"\n{}",
        log.display(),
        "[pool.echo]\nlisten = \"ADDRESS\"\nworkers = 1\nservice = \"echo\"\n"
            .replace("ADDRESS", &address.to_string())
    );
    let daemon =
        setup.config(&config).wrapper(&["sh", "-c", "umask 0; exec \"$@\"", "sh"]).launch();
    daemon.wait_for_children(1);
    let mode = fs::metadata(&log).expect("the log").permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
}

// In the packaged service they are all of one user.
#[test]
fn a_program_cannot_look_into_the_daemon_of_its_own_user() {
    let address = Address::fresh();
    // Of its worker, of the master, and of itself: what of each it may open.
    let script = "for p in $PPID $(cut -d' ' -f4 /proc/$PPID/stat) $$; do
        for f in maps mem environ; do true </proc/$p/$f && echo $f; done
        ls /proc/$p/fd >/dev/null && echo fd
        echo .
        done 2>/dev/null";
    let config = format!(
        "[pool.exec]\nlisten = \"{address}\"\nworkers = 1\noom_score_adj = 700\n\
         service.exec.command = [\"/bin/sh\", \"-c\", {script:?}]\n"
    );
    let setup = Setup::new().config(&config);
    let setup = if is_root() { setup.user(SOMEBODY) } else { setup };
    let _daemon = setup.start();
    assert_eq!(ask(&address, ""), ".\n.\nmaps\nmem\nenviron\nfd\n.\n");
}

/// Whether the memory of a process, as far as it can be read, holds this text.
fn holds(pid: i32, wanted: &str) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let is_there = |bytes: &[u8]| bytes.windows(wanted.len()).any(|at| at == wanted.as_bytes());
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (from, to) =
            line.split(' ').next().and_then(|area| area.split_once('-')).expect("an area");
        let hex = |text| u64::from_str_radix(text, 16).expect("an address");
        let mut bytes = vec![0; (hex(to) - hex(from)) as usize];
        memory.read_exact_at(&mut bytes, hex(from)).is_ok() && is_there(&bytes)
    })
}

#[test]
fn a_worker_has_nothing_of_the_secrets_of_another_pool() {
    if !provided(is_root(), "root, to read memory") {
        return;
    }
    let addresses = BTreeMap::from(["a", "b"].map(|name| (name, Address::fresh())));
    let pool = |name: &str, secret: &str, addition: &str| {
        format!(
            "# {secret}-in-a-remark\n[pool.{name}]\nlisten = \"{}\"\nworkers = 2\nservice.echo = {{}}\n\
             env = {{ PASSWORD = \"{secret}-in-env\", Q = \"\\u0041{secret}-escaped\" }}\n{addition}",
            addresses[name]
        )
    };
    let config = |addition: &str| pool("a", "aaSECRETaa", addition) + &pool("b", "bbSECRETbb", "");
    let daemon = Daemon::start(&config(""));
    let check = || {
        for (name, own, other) in
            [("a", "aaSECRETaa", "bbSECRETbb"), ("b", "bbSECRETbb", "aaSECRETaa")]
        {
            for worker in daemon.wait_for_idle(name, 2) {
                assert!(
                    holds(worker, &format!("PASSWORD={own}-in-env")),
                    "the search finds nothing"
                );
                assert!(!holds(worker, other), "{name} has what the other pool says");
                // Nor its own that it has no use for.
                assert!(!holds(worker, &format!("{own}-in-a-remark")), "{name} has the file");
            }
        }
    };
    check();
    // What a reload reads, too; and a pool whose secrets did not change is kept.
    let kept = daemon.wait_for_idle("b", 2);
    daemon.reload(&config("max_requests = 1000\n"));
    check();
    assert_eq!(daemon.wait_for_idle("b", 2), kept);
    daemon.reload(
        &config("max_requests = 1000\n").replace("bbSECRETbb-in-env", "bbSECRETbb-in-env2"),
    );
    let renewed = daemon.wait_for_idle("b", 2);
    assert!(renewed.iter().all(|worker| !kept.contains(worker)), "{kept:?} {renewed:?}");
}

// A worker under another user cannot reach the master or its sibling's memory:
// the kernel sees to it, as long as we do not tell it otherwise.
#[test]
fn a_worker_of_another_user_is_no_way_to_the_master() {
    if !provided(is_root(), "root") {
        return;
    }
    let address = Address::fresh();
    let script = "kill -0 $PPID 2>&1; exec cat /proc/$PPID/maps /proc/$(cut -d' ' -f4 /proc/$PPID/stat)/maps 2>&1";
    let config = format!(
        "[pool.exec]\nlisten = \"{address}\"\nworkers = 1\nuser = \"nobody\"\n\
         service.exec.command = [\"/bin/sh\", \"-c\", {script:?}]\n"
    );
    let daemon = Daemon::start(&config);
    daemon.expect(&["program exited"]);
    let text = ask(&address, "");
    // Its own worker it may signal; neither's memory may it see.
    assert_eq!(text.matches("Permission denied").count(), 2, "{text}");
    assert!(!text.contains("rw-s") && !text.contains("r-xp"), "{text}");
    let ends: Vec<_> = daemon.log().events().into_iter().filter(Event::is_end).collect();
    assert!(ends.is_empty(), "{ends:?}");
}
