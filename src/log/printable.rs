//! Text for people, without characters that would control their terminal.
//!
//! A field may quote what a client has sent.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use slog::{OwnedKVList, Record};
use slog_term::{Decorator, RecordDecorator};

/// Writes as `D` does, with a mark in place of each control character except the end of a
/// line and the tabulator.
///
/// A text of several lines is indented from its second line on. So nobody whose text is
/// logged can write a line that looks like a record of ours.
pub struct Printable<D>(pub D);

impl<D: Decorator> Decorator for Printable<D> {
    fn with_record<F>(&self, record: &Record<'_>, values: &OwnedKVList, write: F) -> io::Result<()>
    where
        F: FnOnce(&mut dyn RecordDecorator) -> io::Result<()>,
    {
        self.0.with_record(record, values, |inner| write(&mut Filter { inner, is_text: false }))
    }
}

/// The beginning of a line that continues a text.
const INDENT: &str = "\n    ";

struct Filter<'a> {
    inner: &'a mut dyn RecordDecorator,
    /// The next bytes are part of a text. The end of a record is white space.
    is_text: bool,
}

impl Write for Filter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A formatter gives whole texts, so no character is cut.
        let mut text = String::from_utf8_lossy(bytes);
        if text.contains(controls) {
            text = text.replace(controls, "\u{fffd}").into();
        }
        if self.is_text && text.contains('\n') {
            text = text.replace('\n', INDENT).into();
        }
        self.inner.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn controls(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

macro_rules! pass_on {
    ($($start:ident: $is_text:literal,)*) => {
        impl RecordDecorator for Filter<'_> {
            fn reset(&mut self) -> io::Result<()> {
                self.inner.reset()
            }
            $(fn $start(&mut self) -> io::Result<()> {
                self.is_text = $is_text;
                self.inner.$start()
            })*
        }
    };
}

pass_on!(
    start_timestamp: false,
    start_level: false,
    start_location: false,
    start_msg: true,
    start_comma: false,
    start_key: true,
    start_separator: false,
    start_value: true,
    start_whitespace: false,
);

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::sync::Mutex;

    use slog::{Drain, Logger, info, o};
    use slog_term::{FullFormat, PlainDecorator};

    use super::*;

    #[test]
    fn a_text_cannot_look_like_a_line_of_its_own() {
        let mut file = tempfile::tempfile().unwrap();
        let format = FullFormat::new(Printable(PlainDecorator::new(file.try_clone().unwrap())))
            .use_custom_timestamp(|out: &mut dyn Write| write!(out, "NOW"))
            .use_original_order()
            .build();
        let log = Logger::root(Mutex::new(format).fuse(), o!("pool" => "a\nb"));
        info!(log, "one\ntwo"; "reason" => "bad\nNOW INFO stopped\n\u{1b}[2J", "last" => "\n");
        info!(log, "next");
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        let expected = "NOW INFO one\n    two, pool: a\n    b, \
                        reason: bad\n    NOW INFO stopped\n    \u{fffd}[2J, last: \n    \n\
                        NOW INFO next, pool: a\n    b\n";
        assert_eq!(text, expected);
    }
}
