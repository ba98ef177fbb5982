//! The resource limits of a worker.
#![forbid(unsafe_code)]

use std::fmt;

use bytesize::ByteSize;
use serde::Deserialize;
use toml::Spanned;

use super::fault::Fault;
use super::units::{Elapsed, Unit, in_quotes, not, spanned, without_unit};

/// The resource limits of a worker, setrlimit(2).
///
/// `None` is the daemon's own, `u64::MAX` (RLIM_INFINITY) is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open descriptors, one more than the highest.
    #[serde(deserialize_with = "spanned::<Count<LEAST_DESCRIPTORS>, _>")]
    pub nofile: Option<Spanned<u64>>,
    /// Bytes of a core dump; 0 is none.
    #[serde(deserialize_with = "spanned::<Size, _>")]
    pub core: Option<Spanned<u64>>,
    /// Bytes of address space.
    #[serde(rename = "as", deserialize_with = "spanned::<Size, _>")]
    pub address_space: Option<Spanned<u64>>,
    /// Seconds of processor time.
    #[serde(deserialize_with = "spanned::<Seconds, _>")]
    pub cpu: Option<Spanned<u64>>,
    /// Processes of the user.
    #[serde(deserialize_with = "spanned::<Count<0>, _>")]
    pub nproc: Option<Spanned<u64>>,
    /// Bytes of data segment.
    #[serde(deserialize_with = "spanned::<Size, _>")]
    pub data: Option<Spanned<u64>>,
    /// Bytes of stack.
    #[serde(deserialize_with = "spanned::<Size, _>")]
    pub stack: Option<Spanned<u64>>,
    /// Bytes of a file that is written.
    #[serde(deserialize_with = "spanned::<Size, _>")]
    pub fsize: Option<Spanned<u64>>,
}

/// With fewer, a worker starts and cannot accept, and its clients hang. Six are
/// open as long as it lives, the service `exec` takes up to four for a connection,
/// and a log that is opened again takes one.
const LEAST_DESCRIPTORS: u64 = 16;

/// A resource limit that counts things: a number from `LEAST`, or `"unlimited"`.
pub(super) struct Count<const LEAST: u64>;

impl<const LEAST: u64> Unit for Count<LEAST> {
    type Value = u64;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"a whole number, {LEAST} or more, or "unlimited""#)
    }

    fn text(text: &str) -> Result<u64, Fault> {
        unlimited(text).ok_or_else(|| in_quotes::<Self>(text))
    }

    fn whole(number: i64) -> Result<u64, Fault> {
        let count = u64::try_from(number).ok().filter(|&count| count >= LEAST);
        count.ok_or_else(|| not::<Self>(number))
    }
}

/// A resource limit in bytes: a number, a size like `"64MiB"`, or `"unlimited"`.
pub(super) struct Size;

impl Unit for Size {
    type Value = u64;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a size or "unlimited""#)
    }

    fn text(text: &str) -> Result<u64, Fault> {
        if let Some(unlimited) = unlimited(text) {
            return Ok(unlimited);
        }
        match text.parse() {
            // The crate saturates, and its highest number is the kernel's "unlimited".
            Ok(ByteSize(u64::MAX)) => Err(Fault::new(format_args!("{text:?} is too large"))),
            Ok(ByteSize(bytes)) => Ok(bytes),
            Err(_) => {
                Err(not::<Self>(format_args!("{text:?}")).with_hint(r#"write it like "64MiB""#))
            }
        }
    }

    fn whole(number: i64) -> Result<u64, Fault> {
        u64::try_from(number).map_err(|_| not::<Self>(number))
    }
}

/// A resource limit in whole seconds: a duration, or `"unlimited"`.
pub(super) struct Seconds;

impl Unit for Seconds {
    type Value = u64;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a duration in whole seconds or "unlimited""#)
    }

    fn text(text: &str) -> Result<u64, Fault> {
        if let Some(unlimited) = unlimited(text) {
            return Ok(unlimited);
        }
        let duration = Elapsed::text(text)?;
        let refused = |hint| Err(not::<Self>(format_args!("{text:?}")).with_hint(hint));
        // The kernel kills at once at 0, and counts nothing below a second.
        match (duration.as_secs(), duration.subsec_nanos()) {
            (0, _) => refused(r#"the least is "1s""#.to_owned()),
            (seconds, 0) => Ok(seconds),
            (seconds, _) => refused(format!(r#"write "{seconds}s" or "{}s""#, seconds + 1)),
        }
    }

    fn whole(number: i64) -> Result<u64, Fault> {
        Err(without_unit::<Self>(number))
    }
}

fn unlimited(text: &str) -> Option<u64> {
    // RLIM_INFINITY of 64-bit Linux.
    (text == "unlimited").then_some(u64::MAX)
}
