//! From text to text.
#![forbid(unsafe_code)]

use std::path::Path;

use super::*;
use crate::config::parse_text;

const SERVICES: &str = "\
# a comment
ftp\t\t21/tcp
finger\t\t79/tcp
smtp            25/tcp          mail    # an alias
ntalk           518/udp
rsync           873/tcp
echo            7/udp
echo            7/tcp
daytime         13/tcp
chargen         19/tcp
";

fn import_text(text: &str) -> Result<String, Problems> {
    import(&[Source::new("f", text)], SERVICES)
}

/// The pools for this text in a file `f`, without what stands before them.
fn pools(text: &str) -> String {
    let told = import_text(text).unwrap();
    let text = told.strip_prefix(HEAD).unwrap().to_owned();
    assert_accepted(&text);
    text
}

/// The daemon takes what is made of anything.
#[track_caller]
fn assert_accepted(text: &str) {
    if text.lines().any(|line| line.starts_with("[pool.")) {
        let read = parse_text(Path::new("made"), text);
        assert!(read.is_ok(), "{}\n{text}", read.unwrap_err());
    } else {
        // What is commented out is well-formed, too.
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
    }
}

/// The lines that are settings, without comments.
fn settings(text: &str) -> Vec<String> {
    let pools = pools(text);
    let lines = pools.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(str::to_owned).collect()
}

#[test]
fn a_line_of_inetd_conf_is_a_pool() {
    let cases: [(&str, &str); 12] = [
        (
            // fingerd of Debian.
            "finger\tstream\ttcp\tnowait\tnobody\t/usr/sbin/tcpd\t/usr/sbin/in.fingerd",
            r#"[pool.finger]
listen = "[::]:79"
workers = 32
user = "nobody"
service.exec.command = ["/usr/sbin/tcpd"]
service.exec.argv0 = "/usr/sbin/in.fingerd"
service.exec.stderr = "socket""#,
        ),
        (
            // exim4: the name of the program is that of its file.
            "mail stream tcp4 nowait Debian-exim:adm /usr/sbin/exim4 exim4 -bs",
            r#"[pool.mail]
listen = "0.0.0.0:25"
workers = 32
user = "Debian-exim"
group = "adm"
service.exec.command = ["/usr/sbin/exim4", "-bs"]
service.exec.stderr = "socket""#,
        ),
        (
            "127.0.0.1:7777 stream tcp nowait.40 root /bin/a \\a \"b",
            r#"[pool.7777]
listen = "127.0.0.1:7777"
workers = 32
user = "root"
service.exec.command = ["/bin/a", '"b']
service.exec.argv0 = '\a'
service.exec.stderr = "socket"
rate = "40/m""#,
        ),
        (
            "[::1]:ftp stream tcp6 nowait ftp.ftp /bin/a a",
            r#"[pool.ftp]
listen = "[::1]:21"
workers = 32
user = "ftp"
group = "ftp"
service.exec.command = ["/bin/a"]
service.exec.stderr = "socket""#,
        ),
        (
            "/run/a.sock stream unix nowait root /bin/a",
            r#"[pool.run-a-sock]
listen = "/run/a.sock"
workers = 32
user = "root"
service.exec.command = ["/bin/a"]
service.exec.stderr = "socket""#,
        ),
        (
            "echo stream tcp nowait root internal",
            r#"[pool.echo]
listen = "[::]:7"
workers = 32
service = "echo""#,
        ),
        (
            "daytime stream tcp nowait root internal",
            r#"[pool.daytime]
listen = "[::]:13"
workers = 32
service.exec.command = ["/bin/date"]"#,
        ),
        // What has no counterpart.
        ("ntalk dgram udp wait root /usr/sbin/in.ntalkd in.ntalkd", ""),
        ("ftp stream tcp wait root /bin/a a", ""),
        ("rstatd/1-3 stream rpc/tcp nowait root /bin/a a", ""),
        ("time stream tcp nowait root internal", ""),
        ("#<off># ftp stream tcp nowait root /bin/a a", ""),
    ];
    for (line, expected) in cases {
        assert_eq!(settings(line), expected.lines().collect::<Vec<_>>(), "{line}");
    }
}

#[test]
fn what_has_no_counterpart_is_a_comment_with_what_to_use() {
    let xinetd = |line: &str| format!("service ftp\n{{\nserver = /bin/a\n{line}\n}}");
    let cases = [
        ("a dgram udp wait root /bin/a a".to_owned(), "f:1: a over udp: no pool. It is no stream."),
        ("ftp dgram udp wait root /bin/a a".to_owned(), "with ListenDatagram= and a .service unit"),
        ("ftp stream tcp wait root /bin/a a".to_owned(), "A .socket unit with Accept=no"),
        ("ftp stream tcp nowait/40/5 root /bin/a a".to_owned(), "5: see per_source."),
        ("host:ftp stream tcp nowait root /bin/a a".to_owned(), "Write the address of \"host\""),
        ("nameless stream tcp nowait root /bin/a".to_owned(), "no port for \"nameless\""),
        ("ftp stream tcp,rcvbuf=16k nowait root /bin/a a".to_owned(), "rcvbuf=16k"),
        (xinetd("redirect = a 1"), "systemd-socket-proxyd(8)"),
        (xinetd("banner = /etc/b"), "banner = /etc/b: no counterpart."),
        (xinetd("only_from = a.b"), "allow = [\"unix\"]"),
        (xinetd("no_access = a.b"), "#[pool.ftp]"),
        (xinetd("wait = yes"), "A .socket unit with Accept=no"),
        (xinetd("socket_type = dgram"), "systemd.socket(5)"),
    ];
    for (text, expected) in cases {
        let told = pools(&text);
        // A comment is wrapped somewhere.
        let unwrapped = told.replace("\n# ", " ");
        assert!(told.contains(expected) || unwrapped.contains(expected), "{text}\n{told}");
    }
}

#[test]
fn a_block_of_xinetd_is_a_pool() {
    let text = "\
defaults
{
\tinstances = 60
\tonly_from = 10.0.0.0
\tlog_type = SYSLOG daemon
}

service rsync
{
\tdisable\t\t= no
\tsocket_type     = stream
\twait            = no
\tuser            = root
\tgroup           = adm
\tserver          = /usr/bin/rsync
\tserver_args     = --daemon --bwlimit=5
\tonly_from += 192.168.1.{1,2} ::1
\tno_access = 10.1.2.3
\tnice = 10
\tumask = 022
\tenv = A=b C=d=e
\tpassenv = TZ
\trlimit_as = 32M
\trlimit_cpu = 60
\trlimit_files = 4
\tbind = 127.0.0.1
\tper_source = 10
\tcps = 25 30
\tlog_on_success = PID HOST
}

service finger {
\tflags = NAMEINARGS IPv6
\tserver = /usr/sbin/tcpd
\tserver_args = /usr/sbin/in.fingerd -w
\tonly_from =
\tid = finger-by-tcpd
\tport = 7979
\tinstances = UNLIMITED
}

service ftp
{
\tdisable = yes
\tserver = /bin/a
}
";
    let expected = r#"[pool.rsync]
listen = "127.0.0.1:873"
workers = 60
allow = ["10.0.0.0/8", "192.168.1.1", "192.168.1.2", "::1"]
deny = ["10.1.2.3"]
per_source = 10
rate = "25/s"
access_log = true
user = "root"
group = "adm"
umask = "022"
nice = 10
env = { A = "b", C = "d=e" }
pass_env = ["TZ"]
limits.as = 33554432
limits.nofile = 16
limits.cpu = "60s"
service.exec.command = ["/usr/bin/rsync", "--daemon", "--bwlimit=5"]
service.exec.stderr = "socket"
[pool.finger-by-tcpd]
listen = "[::]:7979"
workers = 32
allow = ["unix"]
service.exec.command = ["/usr/sbin/tcpd", "-w"]
service.exec.argv0 = "/usr/sbin/in.fingerd"
service.exec.stderr = "socket""#;
    assert_eq!(settings(text), expected.lines().collect::<Vec<_>>());
    let told = pools(text);
    assert!(told.contains("# f:42: ftp: no pool. It is disabled there.\n"), "{told}");
}

#[test]
fn names_and_addresses_are_there_once() {
    let line = "ftp stream tcp4 nowait root /bin/a a\n";
    let told = pools(&format!("{line}{line}{}", line.replace("tcp4", "tcp6")));
    for expected in ["\n[pool.ftp]\n", "\n#[pool.ftp-2]\n", "\n[pool.ftp-3]\n", "0.0.0.0:21."] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
}

/// Lines that are wrong, or that only look so. The message names the file and the line.
#[test]
fn odd_lines_are_told_with_their_place() {
    let cases: [(&str, Option<&str>); 26] = [
        ("", None),
        ("\n\n# only a comment\n", None),
        ("ftp", Some("f:1:1: a service has at least 6 fields, and this line has 1")),
        ("\n\nftp stream tcp", Some("f:3:1: ")),
        ("ftp stream tcp maybe root /bin/a a", Some("f:1:1: the fourth field is \"maybe\"")),
        (":", None),
        ("*:", None),
        ("host:\nftp stream tcp nowait root /bin/a a", None),
        ("a:b:c:ftp stream tcp nowait root /bin/a a", None),
        ("ftp stream tcp nowait root /bin/a\n\t-a\n -b", None),
        ("ftp stream tcp nowait . /bin/a", None),
        ("ftp stream tcp nowait : /bin/a", None),
        ("ftp stream tcp nowait \u{e9}\u{4e16} /bin/\u{1b}[2J \u{1f600}", None),
        ("ftp stream unix nowait root /bin/a", None),
        ("ftp stream tcp nowait.x.y/z:1 root /bin/a", None),
        ("99999 stream tcp nowait root /bin/a", None),
        ("service ftp", Some("f:1:1: no line with { follows")),
        ("service ftp\n{", Some("f:1:1: this block has no }")),
        ("service ftp\n{\nserver /bin/a\n}", Some("f:3:1: this is no attribute")),
        ("service ftp\n{\n = x\n}", Some("f:3:2: this is no attribute")),
        ("service ftp\n{\n}\n}", Some("f:4:1: this begins no block")),
        ("defaults\nservice ftp\n{\n}", Some("f:1:1: no line with { follows")),
        ("service ftp\n{\n+= \n-=\n}", Some("f:3:1: ")),
        ("service ftp\n{\nserver =\nport =\nbind =\nuser =\nenv = =\n}", None),
        (
            "service ftp\n{\nserver = /a\nnice = 99\numask = 99\nrlimit_as = 99999999999999999M\n}",
            None,
        ),
        ("include /etc/xinetd.d/x\n", None),
    ];
    for (text, expected) in cases {
        match (import_text(text), expected) {
            (Ok(told), None) => assert_accepted(&told),
            (Err(problems), Some(expected)) => {
                let told = problems.to_string();
                assert!(told.contains(expected), "{text:?}\n{told}");
            }
            (told, _) => panic!("{text:?}: {told:?}"),
        }
    }
}

const BROKEN: [&str; 2] = [
    "host:ftp stream tcp nowait.9 user:group /bin/a a b\nfinger dgram udp wait root /bin/a a\n",
    "defaults\n{\ninstances = 5\n}\nservice ftp\n{\nserver = /bin/a\nenv = A=b\n\
     only_from += 10.0.0.{1,2} ::/8\nrlimit_cpu = 5\numask = 022\nflags = IPv6 NAMEINARGS\n\
     server_args = a b\n}\n",
];

const PIECES: [&str; 18] = [
    "\n", " ", "\t", "=", "{", "}", ":", "\u{0}", "\u{7f}", "\"", "'''", "\\", "#", ",", "/",
    "\u{e9}", "-9", "ftp",
];

/// No text makes it panic, and whatever it makes is accepted.
#[test]
fn whatever_is_made_of_a_broken_text_is_accepted() {
    let mut state: u64 = 0x2545_f491_4f6c_dd1d;
    let mut next = |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % most.max(1)
    };
    let mut accepted = 0;
    for round in 0..4_000 {
        let mut text: Vec<char> = BROKEN[round % 2].chars().collect();
        for _ in 0..=next(4) {
            let at = next(text.len());
            if next(3) == 0 {
                text.drain(at..text.len().min(at + next(6)));
            } else {
                text.splice(at..at, PIECES[next(PIECES.len())].chars());
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(told) = import_text(&text) {
            assert_accepted(&told);
            accepted += 1;
        }
    }
    assert!(accepted > 1_000, "only {accepted}");
}
