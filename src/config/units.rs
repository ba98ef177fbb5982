//! Values with a unit or a bound, from the text that the user writes to a plain type.
#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use toml::Spanned;

use super::fault::Fault;

/// The longest duration. A deadline is a point of time plus a duration, and must
/// not overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The shortest time-out.
const SHORTEST: Duration = Duration::from_millis(1);

const DURATION_HINT: &str = r#"write it like "500ms", "30s" or "5m""#;

/// The units of humantime that are none here: nobody waits for so long on purpose.
const CALENDAR: [&str; 8] = ["M", "month", "months", "y", "yr", "yrs", "year", "years"];

const CALENDAR_HINT: &str = r#"a minute is "m", as in "5m"; the largest unit is the week, "w""#;

/// A way to write a value.
///
/// It is a name for the type parameter of [`plain`], [`optional`] and [`spanned`]
/// and has no values: the settings hold plain types.
pub(super) trait Unit {
    /// What is read.
    type Value;

    /// Writes what a value is, with its article: `a duration`.
    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Reads a TOML string.
    fn text(text: &str) -> Result<Self::Value, Fault> {
        Err(not::<Self>(format_args!("{text:?}")))
    }

    /// Reads a TOML integer.
    fn whole(number: i64) -> Result<Self::Value, Fault> {
        Err(not::<Self>(number))
    }
}

/// The fault of a value that is not in the unit `U`.
pub(super) fn not<U: Unit + ?Sized>(shown: impl fmt::Display) -> Fault {
    struct Expected<U: ?Sized>(PhantomData<U>);
    impl<U: Unit + ?Sized> fmt::Display for Expected<U> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            U::expected(f)
        }
    }
    Fault::new(format_args!("{shown} is not {}", Expected::<U>(PhantomData)))
}

/// The fault of a text where a number in the unit `U` is read.
pub(super) fn in_quotes<U: Unit>(text: &str) -> Fault {
    let fault = not::<U>(format_args!("{text:?}"));
    match text.parse() {
        Ok(number) if U::whole(number).is_ok() => {
            fault.with_hint(format_args!("write it without quotes, {number}"))
        }
        _ => fault,
    }
}

/// Deserializes a value in the unit `U`.
pub(super) fn plain<'de, U: Unit, D: Deserializer<'de>>(from: D) -> Result<U::Value, D::Error> {
    struct UnitVisitor<U>(PhantomData<U>);

    impl<U: Unit> Visitor<'_> for UnitVisitor<U> {
        type Value = U::Value;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            U::expected(f)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<U::Value, E> {
            U::text(text).map_err(E::custom)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<U::Value, E> {
            U::whole(number).map_err(E::custom)
        }
    }

    from.deserialize_any(UnitVisitor::<U>(PhantomData))
}

/// Deserializes a value in the unit `U` for a key that may be absent.
pub(super) fn optional<'de, U: Unit, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<U::Value>, D::Error> {
    plain::<U, D>(from).map(Some)
}

/// Deserializes a value in the unit `U`, and where it stands, for a key that may
/// be absent.
pub(super) fn spanned<'de, U: Unit, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Spanned<U::Value>>, D::Error> {
    present::<U, D>(from).map(Some)
}

/// Deserializes a value in the unit `U`, and where it stands, for a key with a default.
pub(super) fn present<'de, U: Unit, D: Deserializer<'de>>(
    from: D,
) -> Result<Spanned<U::Value>, D::Error> {
    let read = Spanned::<Read<U>>::deserialize(from)?;
    Ok(Spanned::new(read.span(), read.into_inner().0))
}

/// A value in the unit `U` where serde asks for a type.
pub(super) struct Read<U: Unit>(pub U::Value);

impl<'de, U: Unit> Deserialize<'de> for Read<U> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        plain::<U, D>(from).map(Read)
    }
}

/// A duration, zero included: `"1s"`.
pub(super) struct Elapsed;

impl Unit for Elapsed {
    type Value = Duration;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration")
    }

    fn text(text: &str) -> Result<Duration, Fault> {
        let refused = |hint| not::<Self>(format_args!("{text:?}")).with_hint(hint);
        let duration = humantime::parse_duration(text).map_err(|_| refused(DURATION_HINT))?;
        // "M" means mega elsewhere, and minutes to many.
        if text.split(|c: char| !c.is_ascii_alphabetic()).any(|unit| CALENDAR.contains(&unit)) {
            return Err(refused(CALENDAR_HINT));
        }
        if duration > LONGEST {
            return Err(Fault::new(format_args!("{text:?} is longer than a year")));
        }
        Ok(duration)
    }

    fn whole(number: i64) -> Result<Duration, Fault> {
        Err(without_unit::<Self>(number))
    }
}

/// The fault of a number where a duration is read.
pub(super) fn without_unit<U: Unit>(number: i64) -> Fault {
    let fault = not::<U>(number);
    if number > 0 {
        fault.with_hint(format_args!(r#"write "{number}s" for seconds"#))
    } else {
        fault.with_hint(DURATION_HINT)
    }
}

/// A duration of a millisecond at least, for a time after which something happens:
/// who waits for less does nothing but look at the clock.
pub(super) struct Timeout;

impl Unit for Timeout {
    type Value = Duration;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Elapsed::expected(f)
    }

    fn text(text: &str) -> Result<Duration, Fault> {
        let duration = Elapsed::text(text)?;
        if duration < SHORTEST {
            let fault = Fault::new(format_args!("{text:?} is too short"));
            return Err(fault.with_hint(r#"the least is "1ms""#));
        }
        Ok(duration)
    }

    fn whole(number: i64) -> Result<Duration, Fault> {
        Elapsed::whole(number)
    }
}

/// A whole number from `MIN` to `MAX`, held as a `T`.
pub(super) struct Within<T, const MIN: i64, const MAX: i64>(PhantomData<T>);

impl<T: TryFrom<i64>, const MIN: i64, const MAX: i64> Unit for Within<T, MIN, MAX> {
    type Value = T;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if MAX == i64::MAX {
            write!(f, "a whole number, {MIN} or more")
        } else {
            write!(f, "a whole number from {MIN} to {MAX}")
        }
    }

    fn text(text: &str) -> Result<T, Fault> {
        Err(in_quotes::<Self>(text))
    }

    fn whole(number: i64) -> Result<T, Fault> {
        if (MIN..=MAX).contains(&number) {
            T::try_from(number).map_err(|_| not::<Self>(number))
        } else {
            Err(not::<Self>(number))
        }
    }
}

/// A share in whole percent, 0 to 100, written `"10%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// `percent`, or `None` if that is above 100.
    pub const fn new(percent: u8) -> Option<Self> {
        if percent <= 100 { Some(Percent(percent)) } else { None }
    }

    /// The number before the percent sign, 0 to 100.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The default of `max_requests_jitter`.
    pub(super) const fn ten() -> Self {
        Percent(10)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Unit for Percent {
    type Value = Percent;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a share from "0%" to "100%""#)
    }

    fn text(text: &str) -> Result<Percent, Fault> {
        digits(text.strip_suffix('%').unwrap_or_default(), 10)
            .and_then(|percent| Percent::new(u8::try_from(percent).ok()?))
            .ok_or_else(|| not::<Self>(format_args!("{text:?}")))
    }

    fn whole(number: i64) -> Result<Percent, Fault> {
        let fault = not::<Self>(number);
        if (0..=100).contains(&number) {
            Err(fault.with_hint(format_args!(r#"write "{number}%""#)))
        } else {
            Err(fault)
        }
    }
}

/// Permission bits, in octal as text: `"0660"`. TOML has no integers with a zero
/// in front, and 660 without it would be another mode.
pub(super) struct Mode;

impl Unit for Mode {
    type Value = u32;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"an octal mode from "0000" to "0777""#)
    }

    fn text(text: &str) -> Result<u32, Fault> {
        digits(text, 8)
            .and_then(|mode| u32::try_from(mode).ok())
            .filter(|&mode| mode <= 0o777)
            .ok_or_else(|| not::<Self>(format_args!("{text:?}")))
    }

    fn whole(number: i64) -> Result<u32, Fault> {
        Err(not::<Self>(number).with_hint(r#"write it as text, like "0660""#))
    }
}

/// A path from the root: the daemon does not stay where it was started.
pub(super) struct AbsolutePath;

impl Unit for AbsolutePath {
    type Value = PathBuf;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an absolute path")
    }

    fn text(text: &str) -> Result<PathBuf, Fault> {
        if text.starts_with('/') && !text.contains('\0') {
            Ok(PathBuf::from(text))
        } else {
            Err(not::<Self>(format_args!("{text:?}")))
        }
    }
}

/// The name of a user or a group, or its number.
pub(super) struct Name;

impl Unit for Name {
    type Value = String;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name or a number")
    }

    fn text(text: &str) -> Result<String, Fault> {
        if text.is_empty() || text.contains(['\0', ':', '\n']) {
            Err(not::<Self>(format_args!("{text:?}")))
        } else {
            Ok(text.to_owned())
        }
    }

    fn whole(number: i64) -> Result<String, Fault> {
        // The greatest one means nobody to the kernel (chown(2)).
        match u32::try_from(number) {
            Ok(id) if id != u32::MAX => Ok(id.to_string()),
            _ => Err(not::<Self>(number)),
        }
    }
}

/// A number of digits alone: `from_str_radix` takes a plus sign too.
fn digits(text: &str, radix: u32) -> Option<u64> {
    if text.chars().all(|c| c.is_digit(radix)) {
        u64::from_str_radix(text, radix).ok()
    } else {
        None
    }
}
