//! Who has an address that is in use, as far as /proc tells.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::config::Address;

/// How many descriptors are looked at: a machine with many processes must not keep the
/// master.
const MOST_DESCRIPTORS: usize = 20_000;

/// How much of the table of Unix sockets is read, for the same reason.
const MOST_BYTES: u64 = 1024 * 1024;

/// The process that listens on this address: `process 812 (nginx)`.
pub fn of(address: &Address) -> Option<String> {
    let sockets = match address {
        Address::Inet(endpoint) => internet_sockets(endpoint.numbers()?),
        Address::Path(path) => unix_sockets(path.to_str()?),
        Address::Abstract(name) => unix_sockets(&format!("@{name}")),
        Address::Systemd(_) => return None,
    };
    let links: Vec<_> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let pid = if links.is_empty() { None } else { process_with(&links) }?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("process {pid} ({})", name.trim_end()))
}

/// The inodes of the TCP sockets that listen where `address` would (proc_pid_net(5)).
fn internet_sockets(address: SocketAddr) -> Vec<String> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| File::open(table).ok())
        .flat_map(|table| listening(BufReader::new(table), address))
        .collect()
}

/// Those of one table. Sockets that listen come first in it. What follows may be a hundred
/// thousand lines, for which the master has no time.
fn listening(table: impl BufRead, wanted: SocketAddr) -> Vec<String> {
    const LISTEN: &str = "0A";
    let port = format!("{:04X}", wanted.port());
    let of_line = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (&local, inode) = (fields.get(1)?, fields.get(9)?);
        let (ip, its_port) = local.split_once(':')?;
        let clashes = ip.bytes().all(|byte| byte == b'0')
            || wanted.ip().is_unspecified()
            || ip == in_hex(wanted.ip());
        (its_port == port && clashes).then(|| (*inode).to_owned())
    };
    let lines = table.lines().skip(1).map_while(Result::ok);
    let listening = lines.take_while(|line| line.split_whitespace().nth(3) == Some(LISTEN));
    listening.filter_map(|line| of_line(&line)).collect()
}

/// An IP address as those tables write it: words of four bytes in the order of the machine.
fn in_hex(ip: IpAddr) -> String {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut text = String::new();
    for word in bytes.chunks_exact(4) {
        let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        // Writing to a text cannot fail.
        let _ = write!(text, "{word:08X}");
    }
    text
}

/// The inodes of the Unix sockets of this path that listen.
fn unix_sockets(path: &str) -> Vec<String> {
    /// __SO_ACCEPTCON of the kernel: the socket listens.
    const LISTENS: &str = "00010000";
    let Ok(table) = File::open("/proc/net/unix") else { return Vec::new() };
    let table = BufReader::new(table.take(MOST_BYTES));
    let of_line = |line: String| {
        // Num, RefCount, Protocol, Flags, Type, St, Inode, Path.
        let fields: Vec<_> = line.split_whitespace().collect();
        let (&flags, &inode) = (fields.get(3)?, fields.get(6)?);
        (flags == LISTENS && fields[7..].join(" ") == path).then(|| inode.to_owned())
    };
    table.lines().skip(1).map_while(Result::ok).filter_map(of_line).collect()
}

/// The first process that has one of these open. Processes that this one may not inspect
/// are left out.
fn process_with(links: &[String]) -> Option<u32> {
    let mut looked_at = 0;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            looked_at += 1;
            if looked_at > MOST_DESCRIPTORS {
                return None;
            }
            if is_one_of(links, &descriptor.path()) {
                return Some(pid);
            }
        }
    }
    None
}

fn is_one_of(links: &[String], descriptor: &Path) -> bool {
    fs::read_link(descriptor)
        .is_ok_and(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_kernel_are_understood() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let line = |local: &str, state: &str| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 77 1\n"
            )
        };
        let found = |local: &str, state: &str, wanted: &str| {
            let table = head.to_owned() + &line(local, state);
            !listening(table.as_bytes(), wanted.parse().unwrap()).is_empty()
        };
        let loopback = in_hex("127.0.0.1".parse().unwrap());
        assert_eq!(loopback.len(), 8);
        assert!(found(&format!("{loopback}:1B5F"), "0A", "127.0.0.1:7007"));
        assert!(found("00000000:1B5F", "0A", "127.0.0.1:7007"));
        assert!(found(&format!("{loopback}:1B5F"), "0A", "0.0.0.0:7007"));
        assert!(!found(&format!("{loopback}:1B5F"), "01", "127.0.0.1:7007"), "a client's");
        assert!(!found(&format!("{loopback}:1B60"), "0A", "127.0.0.1:7007"));
        assert!(!found(&format!("{loopback}:1B5F"), "0A", "127.0.0.2:7007"));
        for table in ["", "x\ny z\n"] {
            assert!(listening(table.as_bytes(), "127.0.0.1:1".parse().unwrap()).is_empty());
        }
    }
}
