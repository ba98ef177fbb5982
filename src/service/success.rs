//! Which ends of a program are no failure.
#![forbid(unsafe_code)]

use std::fmt;

use nix::libc;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::config::Fault;
use crate::sys::wait::{Exit, signal_name};

/// The exit codes and signals of an option `success`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Success(Vec<End>);

/// How a program may end: with this code, or by the signal of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Code(u8),
    Signal(i32),
}

impl Success {
    /// Whether a program that ended so has not failed.
    pub fn includes(&self, exit: Exit) -> bool {
        let end = match exit {
            Exit::Code(code) => End::Code(code),
            Exit::Signal { number, .. } => End::Signal(number),
        };
        self.0.contains(&end)
    }
}

/// A client that leaves early makes the program that writes to it die of SIGPIPE.
impl Default for Success {
    fn default() -> Self {
        Success(vec![End::Code(0), End::Signal(libc::SIGPIPE)])
    }
}

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct EndVisitor;

        impl Visitor<'_> for EndVisitor {
            type Value = End;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an exit code from 0 to 255 or the name of a signal")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<End, E> {
                let code = u8::try_from(number).map(End::Code);
                code.map_err(|_| {
                    E::custom(format_args!("{number} is not an exit code from 0 to 255"))
                })
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<End, E> {
                signal(name).map(End::Signal).ok_or_else(|| {
                    let fault = Fault::new(format_args!("{name:?} is not the name of a signal"));
                    let full = format!("SIG{name}");
                    E::custom(match (name.parse::<u8>(), signal(&full)) {
                        (Ok(code), _) => {
                            fault.with_hint(format!("write it without quotes, {code}"))
                        }
                        (_, Some(_)) => fault.with_hint(format!("did you mean {full:?}?")),
                        _ => fault.with_hint(r#"write it like "SIGPIPE""#),
                    })
                })
            }
        }

        from.deserialize_any(EndVisitor)
    }
}

/// The number of a signal, by the name that the log gives it.
fn signal(name: &str) -> Option<i32> {
    if let Ok(signal) = name.parse::<Signal>() {
        return Some(signal as i32);
    }
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).find(|&number| signal_name(number) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Options {
        success: Success,
    }

    fn read(list: &str) -> Result<Success, String> {
        let options: Result<Options, _> = toml::from_str(&format!("success = {list}"));
        options.map(|it| it.success).map_err(|error| error.message().to_owned())
    }

    const fn killed(number: i32) -> Exit {
        Exit::Signal { number, core_dumped: false }
    }

    #[test]
    fn codes_and_signals_are_no_failure_if_they_are_named() {
        let pipe = killed(libc::SIGPIPE);
        for (list, success, failure) in [
            ("[0, 255]", &[Exit::Code(0), Exit::Code(255)][..], &[Exit::Code(1), pipe][..]),
            ("[\"SIGPIPE\"]", &[pipe], &[Exit::Code(0), Exit::Code(13), killed(9)]),
            ("[\"SIGRTMIN+2\"]", &[killed(libc::SIGRTMIN() + 2)], &[killed(libc::SIGRTMIN())]),
            ("[]", &[], &[Exit::Code(0), pipe]),
        ] {
            let named = read(list).expect(list);
            assert!(success.iter().all(|&exit| named.includes(exit)), "{list}");
            assert!(!failure.iter().any(|&exit| named.includes(exit)), "{list}");
        }
        let default = Success::default();
        assert!(default.includes(Exit::Code(0)) && default.includes(pipe));
        assert!(!default.includes(Exit::Code(1)) && !default.includes(killed(15)));
    }

    #[test]
    fn what_is_neither_gets_a_hint() {
        for (list, message) in [
            ("[256]", "256 is not an exit code from 0 to 255"),
            ("[-1]", "-1 is not an exit code from 0 to 255"),
            ("[\"PIPE\"]", "\"PIPE\" is not the name of a signal\nhint: did you mean \"SIGPIPE\"?"),
            (
                "[\"255\"]",
                "\"255\" is not the name of a signal\nhint: write it without quotes, 255",
            ),
            (
                "[\"SIGFOO\"]",
                "\"SIGFOO\" is not the name of a signal\nhint: write it like \"SIGPIPE\"",
            ),
        ] {
            assert_eq!(read(list).unwrap_err(), message, "{list}");
        }
    }
}
