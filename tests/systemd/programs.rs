//! Programs that are root, or that become somebody else by themselves: each fails with the
//! drop-in for pools with a user, and works with the one that the manual has for it.
//!
//! The programs are those of the container, their clients those of the host.

use std::fs;
use std::process::Command;

use crate::lab::Lab;
use crate::page::drop_in;
use support::command::{Finished, finish};
use support::{Directory, provided, until};

const SUITE: &str = "trixie-programs";

/// A line of each drop-in that no other has.
const OTHER_USERS: &str =
    "CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_NET_BIND_SERVICE CAP_SYS_NICE CAP_SYS_RESOURCE";
const OWN_CHROOT: &str = "SystemCallFilter=chroot";
const EXIM: &str = "ReadWritePaths=-/var/spool/exim4 -/var/log/exim4";
const SESSIONS: &str = "CapabilityBoundingSet=~";

/// Pools with these programs, each as root.
fn pools(pools: &[(&str, u16, &str)]) -> String {
    let pool = |(name, port, command): &(&str, u16, &str)| {
        let command: Vec<_> = command.split(' ').collect();
        format!(
            "[pool.{name}]\nlisten = \"127.0.0.1:{port}\"\nuser = \"root\"\nworkers = 2\n\
             service.exec.command = {command:?}\n"
        )
    };
    pools.iter().map(pool).collect()
}

/// Runs a client of the host in the network of the container.
fn client(lab: &Lab, words: &[&str]) -> Finished {
    lab.inside(|| finish(Command::new("timeout").args(["--kill-after=1", "25"]).args(words)))
}

fn has_clients(clients: &[&str]) -> bool {
    clients.iter().all(|name| {
        let there = ["/usr/bin", "/bin"]
            .iter()
            .any(|place| fs::exists(format!("{place}/{name}")).is_ok_and(|is| is));
        provided(there, name)
    })
}

/// Applies the drop-ins with these lines and starts the service again.
fn apply(lab: &Lab, lines: &[&str]) {
    lab.edit(&lines.iter().map(|line| drop_in(line)).collect::<String>());
    lab.sh("systemctl restart preforkd");
}

#[test]
fn programs_that_go_into_a_chroot_or_set_their_user_have_a_drop_in() {
    if !has_clients(&["curl", "rsync"]) {
        return;
    }
    let Some(lab) = Lab::with_package(SUITE) else { return };
    lab.sh("useradd --create-home tester; echo tester:secret | chpasswd
            mkdir -p /srv/data /srv/ftp/up; chown nobody /srv/data; chown ftp /srv/ftp/up
            printf 'From x@localhost Sat Nov 28 00:00:00 2026\nSubject: one\n\nmail\n\n' >/var/mail/tester
            chown tester:mail /var/mail/tester; mkdir -p /var/run/vsftpd/empty");
    lab.write(
        "/etc/rsyncd.conf",
        "use chroot = yes\n[data]\npath = /srv/data\nread only = no\nuid = nobody\ngid = nogroup\n",
    );
    lab.write(
        "/etc/vsftpd.conf",
        "listen=NO\nlisten_ipv6=NO\nanonymous_enable=YES\nwrite_enable=YES\n\
         anon_upload_enable=YES\nsecure_chroot_dir=/srv/empty\nxferlog_enable=NO\n",
    );
    lab.sh("mkdir -p /srv/empty");
    lab.configure(&pools(&[
        ("rsync", 873, "/usr/bin/rsync --daemon"),
        ("ftp", 21, "/usr/sbin/vsftpd"),
        ("pop3", 110, "/usr/sbin/popa3d"),
        ("smtp", 25, "/usr/sbin/exim4 -odf -bs"),
    ]));
    let directory = Directory::new();
    let file = directory.write("file", "from the client\n").display().to_string();
    let rsync = || client(&lab, &["rsync", &file, "rsync://127.0.0.1/data/"]);
    let ftp = || client(&lab, &["curl", "-sS", "-T", &file, "ftp://127.0.0.1/up/"]);
    let pop3 = || client(&lab, &["curl", "-sS", "pop3://tester:secret@127.0.0.1/1"]);
    let mail = directory.write("mail", "Subject: two\n\nby mail\n").display().to_string();
    let smtp = || {
        let to = ["--mail-from", "tester@localhost", "--mail-rcpt", "tester@localhost"];
        client(&lab, &[&["curl", "-sS", "smtp://127.0.0.1", "-T", &mail], &to[..]].concat())
    };

    apply(&lab, &[OTHER_USERS]);
    for said in [rsync(), ftp(), pop3(), smtp()] {
        assert_ne!(said.code, Some(0), "the drop-in for it is needless: {said:?}");
    }
    apply(&lab, &[OWN_CHROOT]);
    for said in [rsync(), ftp()] {
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    for file in ["/srv/data/file", "/srv/ftp/up/file"] {
        assert_eq!(lab.read(file), "from the client\n");
    }
    let said = pop3();
    assert_eq!((said.code, said.out.ends_with("mail\r\n")), (Some(0), true), "{said:?}");
    apply(&lab, &[OWN_CHROOT, EXIM]);
    let said = smtp();
    assert_eq!(said.code, Some(0), "{said:?}");
    until("the mail is delivered", || {
        lab.read("/var/mail/tester").contains("by mail").then_some(())
    });
}

#[test]
fn programs_that_open_sessions_have_a_drop_in() {
    if !has_clients(&["ssh", "ssh-keygen", "telnet"]) {
        return;
    }
    let Some(lab) = Lab::with_package(SUITE) else { return };
    lab.sh("useradd --create-home --shell /bin/sh tester; mkdir -p /run/sshd
            printf '#!/bin/sh\necho \"on $(tty) as $(id -un)\"\nread -r line\n' >/usr/local/bin/hello
            chmod 755 /usr/local/bin/hello; cp /usr/bin/id /usr/local/bin/root-id
            chmod 4755 /usr/local/bin/root-id");
    let directory = Directory::new();
    let key = directory.join("key").display().to_string();
    let made =
        finish(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]));
    assert_eq!(made.code, Some(0), "{made:?}");
    let public = fs::read_to_string(format!("{key}.pub")).expect("the key");
    lab.write("/home/tester/.ssh/authorized_keys", &public);
    lab.sh("chown -R tester: /home/tester/.ssh");
    lab.configure(&pools(&[
        ("ssh", 22, "/usr/sbin/sshd -i"),
        ("telnet", 23, "/usr/sbin/telnetd -h -E /usr/local/bin/hello"),
    ]));
    let options =
        ["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
    let ssh = |command: &str| {
        client(
            &lab,
            &[&["ssh", "-q", "-i", &key], &options[..], &["tester@127.0.0.1", command]].concat(),
        )
    };
    // A session has the whole machine: its home, everybody's /tmp, programs with privileges.
    let work = "echo x >~/file && echo y >/tmp/of-tester && root-id -un && cat ~/file";

    apply(&lab, &[OTHER_USERS]);
    assert_ne!(ssh(work).code, Some(0), "the drop-in for it is needless");
    apply(&lab, &[SESSIONS]);
    let said = ssh(work);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "root\nx\n"), "{said:?}");
    assert!(lab.has("/tmp/of-tester"));
    // Somebody at a keyboard, who presses Enter when the text is there.
    let fifo = directory.join("keyboard").display().to_string();
    let script = format!(
        "mkfifo {fifo}; telnet 127.0.0.1 <>{fifo} | while read -r line; do
         echo \"$line\"; case $line in *' as '*) echo >{fifo};; esac; done"
    );
    let text = client(&lab, &["sh", "-c", &script]).out;
    assert!(text.contains("on /dev/pts/"), "{text:?}");
    assert!(text.contains("as root"), "{text:?}");
}
