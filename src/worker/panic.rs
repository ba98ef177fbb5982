//! A service that panics.
#![forbid(unsafe_code)]

use std::panic;

use slog::{Logger, error};

/// Logs where and why a service panics, in place of Rust's own message on
/// standard error, which may be nowhere.
pub fn log_panics(log: Logger) {
    panic::set_hook(Box::new(move |panic| {
        // `panic!` gives either, depending on whether it has arguments.
        let payload = panic.payload();
        let literal = payload.downcast_ref::<&str>().copied();
        let formatted = payload.downcast_ref::<String>().map(String::as_str);
        let reason = literal.or(formatted).unwrap_or("no reason given");
        match panic.location() {
            Some(place) => error!(log, "service panicked"; "reason" => reason, "place" => %place),
            None => error!(log, "service panicked"; "reason" => reason),
        }
    }));
}
