//! The log: records with fields, as text for people or as JSON for programs.
#![forbid(unsafe_code)]

pub mod event;
mod field;
pub mod journal;
pub mod losses;
pub mod mirror;
pub mod patience;
mod printable;
pub mod rate;
pub mod sink;
mod writer;

use std::io::Write;
use std::sync::Mutex;
use std::time::SystemTime;

use humantime::format_rfc3339_millis;
use slog::{Drain, FnValue, Level, Logger, PushFnValue, Record, SendSyncRefUnwindSafeDrain, o};
use slog_term::{FullFormat, PlainDecorator};

use crate::config::{self, Format};
use journal::Journal;
use printable::Printable;
use sink::{Kind, Sink};
use writer::LineWriter;

/// The logger of these settings, which writes to `sink`.
pub fn logger(settings: &config::Log, sink: &Sink) -> Logger {
    let level = slog_level(settings.level);
    match (settings.format, sink.kind()) {
        (_, Kind::Journal) => root(Mutex::new(Journal::new(sink.target())), level),
        (Format::Json, _) => root(Mutex::new(json(sink.writer())), level),
        (Format::Auto | Format::Term | Format::Journal, _) => {
            root(Mutex::new(text(sink.writer())), level)
        }
    }
}

/// Makes a new worker count only its own losses.
pub fn settle() {
    losses::forget();
    patience::renew(patience::WORKER_MS);
}

fn root<D>(drain: D, level: Level) -> Logger
where
    D: SendSyncRefUnwindSafeDrain + std::panic::UnwindSafe + 'static,
{
    // The writer has already counted its failures; a logger cannot do more.
    Logger::root(slog::LevelFilter::new(drain, level).ignore_res(), o!())
}

/// A line for people, without colours. The code that draws colours writes to the terminal
/// itself, and would wait for a terminal on which somebody has pressed Ctrl-S.
fn text(writer: LineWriter) -> FullFormat<Printable<PlainDecorator<LineWriter>>> {
    FullFormat::new(Printable(PlainDecorator::new(writer)))
        .use_custom_timestamp(|out: &mut dyn Write| {
            write!(out, "{}", format_rfc3339_millis(SystemTime::now()))
        })
        .use_original_order()
        .build()
}

/// One object a line: ts, level, msg, and the fields.
fn json(writer: LineWriter) -> slog_json::Json<LineWriter> {
    slog_json::Json::new(writer)
        .set_flush(true)
        .add_key_value(o!(
            "msg" => PushFnValue(|record: &Record<'_>, serializer| serializer.emit(record.msg())),
            "level" => FnValue(|record: &Record<'_>| level_name(record.level())),
            "ts" => FnValue(|_: &Record<'_>| format_rfc3339_millis(SystemTime::now()).to_string()),
        ))
        .build()
}

fn slog_level(level: config::Level) -> Level {
    match level {
        config::Level::Trace => Level::Trace,
        config::Level::Debug => Level::Debug,
        config::Level::Info => Level::Info,
        config::Level::Warning => Level::Warning,
        config::Level::Error => Level::Error,
        config::Level::Critical => Level::Critical,
    }
}

/// The name of a level as it is written in the configuration.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
        Level::Critical => "critical",
    }
}
