//! A stream of bytes, cut into lines.
#![forbid(unsafe_code)]

/// The longest line that is kept whole; journald's own limit (LineMax= of
/// journald.conf(5)).
pub const LINE_BYTES: usize = 48 * 1024;

/// Collects bytes until a line is whole.
#[derive(Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes of the stream, and gives each line they complete,
    /// without its end. A line longer than [`LINE_BYTES`] is given in pieces.
    pub fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            if self.partial.len() == LINE_BYTES && bytes[0] != b'\n' {
                self.finish(&mut line);
            }
            let room = LINE_BYTES - self.partial.len();
            // One byte more: behind a line of full length its end may stand.
            let window = &bytes[..bytes.len().min(room + 1)];
            match window.iter().position(|&byte| byte == b'\n') {
                Some(end) if self.partial.is_empty() => {
                    line(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                }
                Some(end) => {
                    self.partial.extend_from_slice(&bytes[..end]);
                    self.finish(&mut line);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    let taken = window.len().min(room);
                    self.partial.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                }
            }
        }
    }

    /// Gives what is left when the stream ends without the end of a line.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for piece in pieces {
            lines.push(piece, |line| out.push(line.to_vec()));
        }
        lines.finish(|line| out.push(line.to_vec()));
        out
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        assert_eq!(cut(&[b"a\nb\n"]), [b"a", b"b"]);
        assert_eq!(cut(&[b"a", b"b\nc"]), [&b"ab"[..], b"c"]);
        assert_eq!(cut(&[b"a\n\nb"]), [&b"a"[..], b"", b"b"]);
        assert_eq!(cut(&[]), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_line_of_48_kib_is_whole_and_a_longer_one_is_cut() {
        let whole = vec![b'x'; LINE_BYTES];
        assert_eq!(cut(&[&whole, b"\n"]).iter().map(Vec::len).collect::<Vec<_>>(), [LINE_BYTES]);
        let mut longer = whole.clone();
        longer.extend(b"yz\nw\n");
        assert_eq!(cut(&[&longer]).iter().map(Vec::len).collect::<Vec<_>>(), [LINE_BYTES, 2, 1]);
    }
}
