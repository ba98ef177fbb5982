//! Programs for inetd, as they are installed, under `exec` and under a peer.
//!
//! Each case runs a real program with its real client, once under ours and once under
//! inetd, xinetd or tcpserver, on loopback. The code is the same for all of them, so a
//! difference is a difference. A program or a peer that is not installed skips its cases,
//! except in CI.
//!
//! To add a case:
//!
//! 1. A file `tests/programs/NAME.rs`, with a line `mod NAME;` below.
//! 2. A function `fn what_holds(under: Under)` in it, and `run_under!([Ours, Inetd]
//!    what_holds, …);`, which makes the tests `NAME::ours::what_holds` and
//!    `NAME::inetd::what_holds`. The peers are those of [`Under`].
//! 3. Its first line is `if !under.has(&["git"]) { return; }`, with the programs that the
//!    case needs.
//! 4. [`Under::serve`] runs a [`Task`]; what it gives back has the address, and ends all of
//!    it when it is dropped. Files of the case go into a `support::Directory` that is made
//!    before.
//! 5. [`run`] runs a client to its end, within bounds. [`run_through`] does something in the
//!    middle of a transfer, such as `served.renew()`, which replaces all workers of ours.
//!    `served.daemon()` is the daemon in the case of [`Under::Ours`]: for its log and more.
//! 6. A new Debian package goes into `packages` in `.ci/run` and into the list in
//!    CONTRIBUTING.md.
//!
//! `cargo test --test programs -- NAME::` runs the cases of one file.
//!
//! [`Under`]: harness::Under
//! [`Under::serve`]: harness::Under::serve
//! [`Under::Ours`]: harness::Under::Ours
//! [`Task`]: harness::Task
//! [`run`]: harness::run
//! [`run_through`]: harness::run_through

/// Makes of each function that takes an `Under` a test for each server in the brackets.
macro_rules! run_under {
    ([$($server:ident),+] $($test:ident),+ $(,)?) => {
        run_under!(@ [$($server)+] ($($test)+));
    };
    (@ [$($server:ident)+] $tests:tt) => { $(run_under!(@ $server $tests);)+ };
    (@ Ours $tests:tt) => { run_under!(@ ours Ours $tests); };
    (@ Inetd $tests:tt) => { run_under!(@ inetd Inetd $tests); };
    (@ Xinetd $tests:tt) => { run_under!(@ xinetd Xinetd $tests); };
    (@ Tcpserver $tests:tt) => { run_under!(@ tcpserver Tcpserver $tests); };
    (@ $module:ident $server:ident ($($test:ident)+)) => {
        mod $module {
            $(#[test] fn $test() { super::$test(crate::harness::Under::$server) })+
        }
    };
}

mod busybox;
mod cat;
mod cvs;
mod fairness;
mod finger;
mod ftp;
mod gate;
mod git;
mod harness;
mod leftovers;
mod micro_httpd;
mod moving;
mod nrpe;
mod pop3;
mod rsync;
mod ssh;
mod stunnel;
mod tcpd;
mod telnet;
