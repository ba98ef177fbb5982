//! The problems of a configuration, each with its line and a caret under the fault.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error};

/// How much of a line is shown; a longer one is cut around the caret.
const EXCERPT_CHARS: usize = 120;

/// A configuration file as it was read.
#[derive(Default, PartialEq, Eq)]
pub struct Source {
    path: PathBuf,
    text: String,
    /// Where the lines end: a problem for each of many pools has to find its own.
    feeds: Vec<usize>,
}

impl Source {
    /// The file `path`, which holds `text`.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let text = text.into();
        let feeds = text.match_indices('\n').map(|(at, _)| at).collect();
        Source { path: path.into(), text, feeds }
    }

    /// Where the file is, as the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line, counted from 1, in which the byte `offset` stands.
    pub fn line(&self, offset: usize) -> usize {
        self.feeds.partition_point(|&feed| feed < offset) + 1
    }

    /// A problem with the value of the key `key`, which stands at the bytes `span`.
    ///
    /// An empty `key` is left out: for messages that name their subject themselves.
    pub fn problem(
        &self,
        key: impl Into<String>,
        span: Range<usize>,
        message: impl fmt::Display,
    ) -> Problem {
        Problem {
            place: Some(Box::new(Place::find(self, &span))),
            key: key.into(),
            ..Problem::of_file(&self.path, message)
        }
    }
}

impl fmt::Debug for Source {
    // Without the text: a pool holds its source, and is printed by tests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.path).finish()
    }
}

/// One thing that is wrong with the configuration.
///
/// It displays itself over several lines, without a line feed at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    path: Option<PathBuf>,
    // Boxed, so that a `Result` with a problem stays small.
    place: Option<Box<Place>>,
    key: String,
    message: String,
    hint: Option<String>,
}

impl Problem {
    /// A problem that is not in a file; its message names what it is about.
    pub fn new(message: impl fmt::Display) -> Self {
        Problem {
            code: Code::Config,
            path: None,
            place: None,
            key: String::new(),
            message: message.to_string(),
            hint: None,
        }
    }

    /// A problem with the file `path` as a whole.
    pub fn of_file(path: &Path, message: impl fmt::Display) -> Self {
        Problem { path: Some(path.to_owned()), ..Problem::new(message) }
    }

    /// The same problem with another exit code than that of a wrong configuration.
    #[must_use]
    pub fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The same problem with a hint on a line of its own.
    #[must_use]
    pub fn with_hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The same problem with this hint, if there is one.
    #[must_use]
    pub(super) fn with_hints(self, hint: Option<String>) -> Self {
        match hint {
            Some(hint) => self.with_hint(hint),
            None => self,
        }
    }

    /// The exit code of a process that ends for this reason.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The file that is wrong.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The line, counted from 1.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// The column, in characters counted from 1.
    pub fn col(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.col)
    }

    /// The key whose value is wrong, as `pool.echo.workers`; empty where the
    /// message says which key it is about.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What may help.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}:", path.display())?;
            if let Some(place) = &self.place {
                write!(f, "{}:{}:", place.line, place.col)?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n{place}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// Sorts the problems of one file by where they stand.
pub(super) fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| (problem.line(), problem.col()));
}

/// A place in a text, with what is needed to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    line: usize,
    col: usize,
    excerpt: String,
    carets: String,
}

impl Place {
    /// The place of the bytes `span` in `source`; one past the end is the end.
    fn find(source: &Source, span: &Range<usize>) -> Self {
        let text = source.text();
        let start = char_start(text, span.start);
        let end = char_start(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |feed| feed + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |feed| start + feed);
        let before = &text[line_start..start];
        let col = before.chars().count() + 1;
        let width = text[start..end.min(line_end)].chars().count().max(1);

        // A line as long as the file must not flood the terminal.
        let skip = if col > EXCERPT_CHARS { col - EXCERPT_CHARS / 2 } else { 0 };
        let shown = text[line_start..line_end]
            .trim_end_matches('\r')
            .chars()
            .skip(skip)
            .take(EXCERPT_CHARS);
        // A tab stays one, above and below, so that the caret stays aligned.
        let pad = before.chars().skip(skip).map(|c| if c == '\t' { '\t' } else { ' ' });
        let width = width.min(EXCERPT_CHARS - (col - 1 - skip).min(EXCERPT_CHARS - 1));

        Place {
            line: source.line(start),
            col,
            excerpt: shown.map(printable).collect(),
            carets: pad.chain(std::iter::repeat_n('^', width)).collect(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:5} | {}\n      | {}", self.line, self.excerpt, self.carets)
    }
}

/// The start of the character that the byte `offset` of `text` belongs to.
fn char_start(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    (0..=offset).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Keeps a broken file from writing escape sequences to the terminal.
fn printable(c: char) -> char {
    if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }
}

/// All that is wrong with a configuration; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `value`, if there is nothing wrong.
    pub fn unless_empty<T>(problems: Vec<Problem>, value: T) -> Result<T, Problems> {
        if problems.is_empty() { Ok(value) } else { Err(Problems(problems)) }
    }

    /// One problem more.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// The problems, in the order of the files and the lines.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// The exit code: that of all problems if they agree, else that of a wrong
    /// configuration.
    pub fn code(&self) -> Code {
        match self.0.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other.code == first.code) => first.code,
            _ => Code::Config,
        }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Problems(vec![problem])
    }
}

impl From<Vec<Problem>> for Problems {
    /// Takes over what a check has found; it must have found something.
    fn from(problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty(), "no problem is not an error");
        Problems(problems)
    }
}

impl Extend<Problem> for Problems {
    fn extend<I: IntoIterator<Item = Problem>>(&mut self, problems: I) {
        self.0.extend(problems);
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Error::new(problems.code(), problems.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carets_stand_under_the_span() {
        let source = Source::new("f", "one\n\ttwo thrëe\r\nfour");
        let cases = [
            (0..3, "f:1:1: k: m\n    1 | one\n      | ^^^"),
            (9..15, "f:2:6: k: m\n    2 | \ttwo thrëe\n      | \t    ^^^^^"),
            (1..7, "f:1:2: k: m\n    1 | one\n      |  ^^"),
            (21..21, "f:3:5: k: m\n    3 | four\n      |     ^"),
            (99..200, "f:3:5: k: m\n    3 | four\n      |     ^"),
            // Inside a character: from a span of another file.
            (13..13, "f:2:9: k: m\n    2 | \ttwo thrëe\n      | \t       ^"),
        ];
        for (span, expected) in cases {
            let told = source.problem("k", span.clone(), "m").to_string();
            assert_eq!(told, expected, "{span:?}");
        }
        let empty = Source::new("f", "").problem("", 0..0, "m");
        assert_eq!(empty.to_string(), "f:1:1: m\n    1 | \n      | ^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let text = format!("{}HERE{}", "a".repeat(1000), "b".repeat(1000));
        let told = Source::new("f", text).problem("", 1000..1004, "m").to_string();
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[1].len() <= 8 + EXCERPT_CHARS, "{told}");
        assert_eq!(lines[1].find("HERE"), lines[2].find("^^^^"), "{told}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let told = Source::new("f", "\u{1b}[2J").problem("", 0..1, "m").to_string();
        assert!(!told.contains('\u{1b}'), "{told:?}");
    }

    #[test]
    fn the_exit_code_is_the_one_that_all_agree_on() {
        let problem = |code| Problem::new("m").with_code(code);
        let mut problems = Problems::from(problem(Code::NoInput));
        problems.push(problem(Code::NoInput));
        assert_eq!(problems.code(), Code::NoInput);
        problems.extend([problem(Code::NoPermission).with_hint("h")]);
        assert_eq!(problems.to_string(), "m\nm\nm\nhint: h");
        assert_eq!(Error::from(problems).code(), Code::Config);
    }
}
