//! What a deserializer has to say beyond one line of text.
#![forbid(unsafe_code)]

use std::fmt;

/// What is wrong with a value, for `serde::de::Error::custom`.
///
/// A serde error carries only text. The hint, and the key inside the table that
/// is at fault, therefore travel in lines after the first, and the reader takes
/// them apart again. The options of a service may use it in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub(super) message: String,
    pub(super) key: Option<String>,
    pub(super) hint: Option<String>,
}

const KEY: &str = "\nkey: ";
const HINT: &str = "\nhint: ";

impl Fault {
    /// A value that is wrong for the reason `message`.
    pub fn new(message: impl fmt::Display) -> Self {
        Fault { message: message.to_string(), key: None, hint: None }
    }

    /// The same fault, found at `key` of the table that is deserialized.
    #[must_use]
    pub fn at(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same fault with a hint on a line of its own.
    #[must_use]
    pub fn with_hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Takes apart the text of a serde error.
    pub(super) fn from_text(text: &str) -> Self {
        let (text, hint) = match text.split_once(HINT) {
            Some((text, hint)) => (text, Some(hint.to_owned())),
            None => (text, None),
        };
        let (message, key) = match text.split_once(KEY) {
            Some((text, key)) => (text, Some(key.to_owned())),
            None => (text, None),
        };
        Fault { message: message.to_owned(), key, hint }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(key) = &self.key {
            write!(f, "{KEY}{key}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "{HINT}{hint}")?;
        }
        Ok(())
    }
}
