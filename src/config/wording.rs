//! The words of serde and toml, said in ours.
#![forbid(unsafe_code)]

use super::foreign;

/// What a serde error says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// A required key is absent.
    Missing(String),
    /// A key is not one of those that exist.
    UnknownKey { key: String, known: Vec<String> },
    /// A word is not one of those that exist.
    Word { word: String, known: Vec<String> },
    /// A value is wrong.
    Value(Reason),
}

/// Why a value is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is not what is named here.
    Not(String),
    /// A sentence of its own.
    Told(String),
}

impl Wrong {
    /// Understands the text of an error of serde, of toml, or of our own.
    pub fn from_message(message: &str) -> Self {
        if let Some(key) = quoted(message, "missing field `") {
            return Wrong::Missing(key.to_owned());
        }
        // toml hands a date to a visitor as a table with a key of its own, and
        // without a place.
        if message.starts_with("unknown field `$__toml")
            || message.ends_with("expected a spanned value")
        {
            return Wrong::Value(Reason::Told("a date means nothing here".to_owned()));
        }
        if let Some((key, known)) = choice(message, "unknown field `") {
            return Wrong::UnknownKey { key, known };
        }
        if let Some((word, known)) = choice(message, "unknown variant `") {
            return Wrong::Word { word, known };
        }
        let invalid = ["invalid type: ", "invalid value: ", "invalid length "]
            .iter()
            .any(|prefix| message.starts_with(prefix));
        if let (true, Some((_, expected))) = (invalid, message.rsplit_once(", expected ")) {
            return Wrong::Value(Reason::Not(described(expected)));
        }
        match message {
            "wanted string or table" => Wrong::Value(Reason::Not("a string".to_owned())),
            told => Wrong::Value(Reason::Told(told.to_owned())),
        }
    }

    /// The message about the value that is written as `shown`.
    pub fn message(&self, shown: &str) -> String {
        match self {
            Wrong::Missing(key) => format!("missing key {key:?}"),
            Wrong::UnknownKey { key, .. } => format!("unknown key {key:?}"),
            Wrong::Word { word, known } => {
                let known: Vec<_> = known.iter().map(|known| format!("{known:?}")).collect();
                format!("{word:?} is not one of {}", known.join(", "))
            }
            Wrong::Value(Reason::Not(expected)) => format!("{shown} is not {expected}"),
            Wrong::Value(Reason::Told(told)) => told.clone(),
        }
    }

    /// The nearest of the known keys or words.
    pub fn hint(&self) -> Option<String> {
        if let Wrong::UnknownKey { key, .. } = self
            && let Some(hint) = foreign::hint(key)
        {
            return Some(hint.to_owned());
        }
        match self {
            Wrong::Word { word: name, known } | Wrong::UnknownKey { key: name, known } => {
                nearest(name, known).map(|known| format!("did you mean {known:?}?"))
            }
            Wrong::Missing(_) | Wrong::Value(_) => None,
        }
    }
}

/// The name behind `prefix`, up to the last backtick.
fn quoted<'m>(message: &'m str, prefix: &str) -> Option<&'m str> {
    message.strip_prefix(prefix)?.strip_suffix('`')
}

/// The name behind `prefix`, and the names that serde would have taken.
fn choice(message: &str, prefix: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix(prefix)?;
    if let Some((name, known)) = rest.rsplit_once("`, expected ") {
        let known = known.split('`').skip(1).step_by(2).map(str::to_owned);
        return Some((name.to_owned(), known.collect()));
    }
    let (name, _) = rest.rsplit_once("`, there are no ")?;
    Some((name.to_owned(), Vec::new()))
}

/// What serde expected, without the names of Rust's types.
fn described(expected: &str) -> String {
    let known = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number, 0 or more",
        "i8" => "a whole number from -128 to 127",
        "i16" => "a whole number from -32768 to 32767",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        "path string" => "a path",
        _ if expected.starts_with("struct ") => "a table",
        _ if expected.starts_with("a nonzero ") => "a whole number above 0",
        _ => expected,
    };
    known.to_owned()
}

/// The word of `known` that `word` was most likely meant to be.
///
/// One slip for every three letters is taken for a typing error, and a word that
/// begins another for its short form (`warn`, `warning`).
pub(super) fn nearest<'k>(word: &str, known: &'k [String]) -> Option<&'k str> {
    let slips = (word.chars().count() / 3).max(1);
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(word, known), known.as_str()))
        .filter(|(distance, known)| {
            *distance <= slips || (word.len() >= 3 && known.starts_with(word))
        })
        .min()
        .map(|(_, known)| known)
}

/// The message of a TOML syntax error about the text `at`, and a hint.
pub(super) fn syntax(message: &str, at: &str) -> (String, Option<&'static str>) {
    match message {
        "string values must be quoted, expected literal string" if at.is_empty() => {
            ("missing value".to_owned(), None)
        }
        "string values must be quoted, expected literal string" => {
            (format!("{at:?} is not a value"), Some("a text stands in quotes"))
        }
        "duplicate key" => (format!("duplicate key {at:?}"), None),
        "invalid basic string, expected `\"`" | "invalid literal string, expected `'`" => {
            ("the text has no closing quote".to_owned(), None)
        }
        "unexpected leading zero, expected nothing" => {
            ("a number cannot begin with 0".to_owned(), Some(r#"a mode is a text, like "0660""#))
        }
        "invalid float, expected nothing" => {
            (format!("{at:?} is not part of a number"), Some("a text stands in quotes"))
        }
        other => {
            let told = other.trim_end_matches(", expected nothing");
            (told.replace('`', "\""), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["workers", "user", "umask", "warning", "kill_timeout"].map(str::to_owned);
        let cases = [
            ("wokers", Some("workers")),
            ("worker", Some("workers")),
            ("WORKERS", None),
            ("usr", Some("user")),
            ("warn", Some("warning")),
            ("kil_timeuot", Some("kill_timeout")),
            ("x", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
    }

    /// serde's texts are no interface; if one changes, this tells.
    #[test]
    fn the_words_of_serde_are_understood() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only the errors matter")]
        struct Told {
            number: u16,
            list: Vec<String>,
            truth: bool,
            inner: Option<Box<Told>>,
        }
        let cases = [
            ("", "missing key \"list\""),
            ("x = 1", "unknown key \"x\""),
            ("number = 'x'", "V is not a whole number from 0 to 65535"),
            ("number = -1", "V is not a whole number from 0 to 65535"),
            ("list = 1", "V is not a list"),
            ("list = [1]", "V is not a string"),
            ("truth = 'expected u8, expected x'", "V is not true or false"),
            ("inner = 1", "V is not a table"),
        ];
        for (text, expected) in cases {
            let error = toml::from_str::<Told>(text).unwrap_err();
            let told = Wrong::from_message(error.message()).message("V");
            assert_eq!(told.replace("number\"", "list\""), expected, "{text}");
        }
    }
}
