//! The values that the fields of an event can have.
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::unistd::Pid;
use slog::{Key, Level, Serializer};

use super::rate::HeldBack;

/// The value of a field.
pub trait Field {
    /// Writes the value under this name, or leaves the field out if there is no value.
    fn emit(&self, name: Key, serializer: &mut dyn Serializer) -> slog::Result;

    /// The level of the event, if this value is the level.
    fn level(&self) -> Option<Level> {
        None
    }

    /// Some value.
    #[cfg(test)]
    fn sample() -> Self
    where
        Self: Sized;
}

/// Values that are written as they are: `type => method, sample`.
macro_rules! fields {
    ($($kind:ty => $emit:ident, $sample:expr;)*) => {$(
        impl Field for $kind {
            fn emit(&self, name: Key, serializer: &mut dyn Serializer) -> slog::Result {
                serializer.$emit(name, *self)
            }

            #[cfg(test)]
            fn sample() -> Self {
                $sample
            }
        }
    )*};
}

fields! {
    &'static str => emit_str, "word";
    bool => emit_bool, true;
    u8 => emit_u8, 3;
    u32 => emit_u32, 4;
    u64 => emit_u64, 5;
    usize => emit_usize, 6;
}

impl Field for String {
    fn emit(&self, name: Key, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str(name, self)
    }

    #[cfg(test)]
    fn sample() -> Self {
        "some words".to_owned()
    }
}

impl Field for Pid {
    fn emit(&self, name: Key, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_i32(name, self.as_raw())
    }

    #[cfg(test)]
    fn sample() -> Self {
        Pid::from_raw(7)
    }
}

/// In milliseconds.
impl Field for Duration {
    fn emit(&self, name: Key, serializer: &mut dyn Serializer) -> slog::Result {
        debug_assert!(name.ends_with("_ms"), "{name}");
        serializer.emit_u64(name, self.as_millis() as u64)
    }

    #[cfg(test)]
    fn sample() -> Self {
        Duration::from_millis(8)
    }
}

/// Left out if there is no value.
impl<F: Field> Field for Option<F> {
    fn emit(&self, name: Key, serializer: &mut dyn Serializer) -> slog::Result {
        self.as_ref().map_or(Ok(()), |field| field.emit(name, serializer))
    }

    #[cfg(test)]
    fn sample() -> Self {
        Some(F::sample())
    }
}

/// Left out if nothing was held back.
impl Field for HeldBack {
    fn emit(&self, name: Key, serializer: &mut dyn Serializer) -> slog::Result {
        if self.0 > 0 { self.0.emit(name, serializer) } else { Ok(()) }
    }

    #[cfg(test)]
    fn sample() -> Self {
        HeldBack(9)
    }
}

/// The level of an event that has several. The level is no field of the record.
impl Field for Level {
    fn emit(&self, _: Key, _: &mut dyn Serializer) -> slog::Result {
        Ok(())
    }

    fn level(&self) -> Option<Level> {
        Some(*self)
    }

    #[cfg(test)]
    fn sample() -> Self {
        Level::Warning
    }
}
