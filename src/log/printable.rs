//! Text for people without what would control their terminal.
//!
//! A field may quote what a client has sent.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use slog::{OwnedKVList, Record};
use slog_term::{Decorator, RecordDecorator};

/// Writes as `D` does, with a mark in place of each control character but the
/// end of a line and the tabulator. Colours come from `D` itself, and stay.
pub struct Printable<D>(pub D);

impl<D: Decorator> Decorator for Printable<D> {
    fn with_record<F>(&self, record: &Record<'_>, values: &OwnedKVList, write: F) -> io::Result<()>
    where
        F: FnOnce(&mut dyn RecordDecorator) -> io::Result<()>,
    {
        self.0.with_record(record, values, |decorator| write(&mut Filter(decorator)))
    }
}

struct Filter<'a>(&'a mut dyn RecordDecorator);

impl Write for Filter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A formatter gives whole texts, so no character is cut.
        let text = String::from_utf8_lossy(bytes);
        if text.contains(controls) {
            self.0.write_all(text.replace(controls, "\u{fffd}").as_bytes())?;
        } else {
            self.0.write_all(text.as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn controls(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

macro_rules! pass_on {
    ($($start:ident)*) => {
        impl RecordDecorator for Filter<'_> {
            fn reset(&mut self) -> io::Result<()> {
                self.0.reset()
            }
            $(fn $start(&mut self) -> io::Result<()> {
                self.0.$start()
            })*
        }
    };
}

pass_on!(
    start_whitespace start_msg start_timestamp start_level start_comma start_key start_value
    start_location start_separator
);
