//! The service as an operator meets it: the package, the unit, `systemctl` and
//! `journalctl`, inside a real systemd of Debian 13 and of Debian 12 (lab.sh).
//!
//! It takes root, mmdebstrap and systemd-container to run them, and cargo-deb to
//! build the package; without these they are skipped, but in CI.

/// Makes of each function that takes a suite a test for either.
macro_rules! on_both_suites {
    ($($test:ident),+ $(,)?) => {
        mod trixie {
            $(#[test] fn $test() { super::$test("trixie"); })+
        }
        mod bookworm {
            $(#[test] fn $test() { super::$test("bookworm"); })+
        }
    };
}

mod artefacts;
mod check;
mod guide;
mod hardening;
mod instances;
mod journal;
mod lab;
mod log_file;
mod package;
mod page;
mod privileges;
mod programs;
mod reload;
mod restart;
mod service;
mod socket;
mod stop;
