//! Writes records to a descriptor, each with one call where that is possible, and
//! never waits for long.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::libc;
use nix::sys::socket::{self, MsgFlags};
use nix::sys::stat::fstat;

use super::losses;
use super::patience::await_room;

/// The least room of a terminal that has any. A pseudo-terminal counts its room in 256
/// bytes. Another terminal has more room if less than 256 bytes wait to leave it. The end
/// of a line becomes two bytes.
const TERMINAL_ROOM_BYTES: usize = 128;

/// What keeps a call from waiting, once there is any room.
#[derive(Clone, Copy, Debug)]
enum Means {
    /// The call never waits: it writes as much as there is room for.
    Whole,
    /// The call writes to a file, all or nothing: the writer first makes room for the line.
    File,
    /// The call writes at most this many bytes, for which there is room then.
    Parts(usize),
    /// A flag of the call, for sockets (send(2)).
    Flag,
}

impl Means {
    fn of(target: &OwnedFd) -> Means {
        let mode = fstat(target).map_or(0, |file| file.st_mode);
        let flags = fcntl(target, FcntlArg::F_GETFL).unwrap_or(0);
        let may_wait = flags & libc::O_NONBLOCK == 0;
        match mode & libc::S_IFMT {
            libc::S_IFSOCK => Means::Flag,
            libc::S_IFREG => Means::File,
            libc::S_IFIFO if may_wait => Means::Parts(libc::PIPE_BUF),
            _ if may_wait && target.is_terminal() => Means::Parts(TERMINAL_ROOM_BYTES),
            _ => Means::Whole,
        }
    }

    fn write(self, target: &OwnedFd, bytes: &[u8]) -> nix::Result<usize> {
        match self {
            Means::Whole | Means::File => nix::unistd::write(target, bytes),
            Means::Parts(most) => nix::unistd::write(target, &bytes[..bytes.len().min(most)]),
            Means::Flag => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                socket::send(target.as_raw_fd(), bytes, flags)
            }
        }
    }
}

/// Collects a record and writes it with one call when it is flushed.
#[derive(Debug)]
pub struct LineWriter {
    target: Arc<OwnedFd>,
    line: Vec<u8>,
    /// Only a part of the last line was written.
    torn: bool,
    means: Means,
}

impl LineWriter {
    pub(super) fn new(target: Arc<OwnedFd>) -> Self {
        let means = Means::of(&target);
        LineWriter { target, line: Vec::new(), torn: false, means }
    }
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        if self.torn {
            // The next line must not look like the rest of the torn one.
            self.line.insert(0, b'\n');
        }
        let written = write_patiently(&self.target, &self.line, self.means);
        if written < self.line.len() {
            // The disk is full, or the reader is gone or asleep. There is no place to
            // report this now, so the line is counted.
            losses::count();
        }
        if written > 0 {
            self.torn = written < self.line.len();
        }
        self.line.clear();
        Ok(())
    }
}

/// Writes without waiting for long, because a reader that sleeps must not stop a
/// supervisor. Gives how many bytes were written: a long line goes into a pipe in parts, as
/// there is room.
fn write_patiently(target: &OwnedFd, line: &[u8], means: Means) -> usize {
    let mut written = 0;
    if matches!(means, Means::File) && !make_room(target, line.len()) {
        return written;
    }
    while written < line.len() && await_room(target).is_ok() {
        match means.write(target, &line[written..]) {
            Ok(count) => written += count,
            // Another process has used the room.
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => break,
        }
    }
    written
}

/// Makes the disk keep room for a line at the end of a file, unless the last block of the
/// file has it. Says whether there is room.
///
/// Without it a full disk would take a part of a line, and the line of another process
/// would follow in the middle of it.
fn make_room(target: &OwnedFd, length: usize) -> bool {
    let Ok(file) = fstat(target) else { return true };
    let (size, block) = (file.st_size, file.st_blksize.clamp(512, 4096));
    let length = length as i64;
    if length <= (block - size % block) % block {
        return true;
    }
    // A block more, for what another process writes meanwhile.
    let kept =
        fallocate(target, FallocateFlags::FALLOC_FL_KEEP_SIZE, size, length.saturating_add(block));
    // A file system that cannot do it has to be tried.
    !matches!(kept, Err(Errno::ENOSPC | Errno::EDQUOT))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::thread;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;
    use crate::log::patience::{self, has_room};

    fn pipe() -> (File, LineWriter) {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        (reader.into(), LineWriter::new(Arc::new(writer)))
    }

    /// What the pipe holds now.
    fn drain(reader: &mut File) -> String {
        let mut text = Vec::new();
        let end = reader.read_to_end(&mut text);
        assert!(end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        String::from_utf8(text).unwrap()
    }

    // One test, because the whole process has one patience.
    #[test]
    fn a_long_line_is_written_in_parts_while_there_is_patience() {
        let line = "x".repeat(50_000) + "\n";
        patience::renew(60_000);
        let (mut reader, mut writer) = pipe();
        writer.write_all(line.as_bytes()).unwrap();
        writer.flush().unwrap();
        let full = Arc::clone(&writer.target);
        // The reader begins when the pipe has only a part of the second line.
        let reading = thread::spawn(move || {
            while has_room(&full, 0).unwrap() {
                thread::yield_now();
            }
            drop(full);
            let mut text = String::new();
            while text.len() < 2 * 50_001 {
                text += &drain(&mut reader);
                thread::yield_now();
            }
            text
        });
        writer.write_all(line.as_bytes()).unwrap();
        writer.flush().unwrap();
        assert_eq!(reading.join().unwrap(), line.repeat(2));
        losses::tell(|count| panic!("{count} lines lost"));

        // On a pipe where a call could wait, a write is never larger than the room.
        patience::renew(0);
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut writer = LineWriter::new(Arc::new(writer));
        for _ in 0..3 {
            writer.write_all(line.as_bytes()).unwrap();
            writer.flush().unwrap();
        }
        assert!(drain(&mut File::from(reader)).len() >= 50_001);
        let mut lost = 0;
        losses::tell(|count| lost = count);
        assert_eq!(lost, 2);

        // Without patience the rest is lost, and the next line begins a new one.
        patience::renew(0);
        let (mut reader, mut writer) = pipe();
        for _ in 0..3 {
            writer.write_all(line.as_bytes()).unwrap();
            writer.flush().unwrap();
        }
        let text = drain(&mut reader);
        let whole = text.strip_prefix(&line).unwrap();
        assert!(!whole.is_empty() && whole.bytes().all(|byte| byte == b'x'), "{}", whole.len());
        writer.write_all(b"next\n").unwrap();
        writer.flush().unwrap();
        assert_eq!(drain(&mut reader), "\nnext\n");
        let mut lost = 0;
        losses::tell(|count| lost = count);
        assert_eq!(lost, 2);
    }
}
