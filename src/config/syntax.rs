//! The TOML of a file, or what breaks its syntax.
#![forbid(unsafe_code)]

use std::ops::Range;

use toml::de::DeTable;

use super::diagnostics::{Problem, Source};
use super::wording;

/// After this many syntax errors the rest is not reported.
const MAX_SYNTAX_PROBLEMS: usize = 32;

/// The TOML of a file, or what breaks its syntax.
pub(super) fn parse(source: &Source) -> Result<DeTable<'_>, Vec<Problem>> {
    let (values, errors) = DeTable::parse_recoverable(source.text());
    if errors.is_empty() {
        return Ok(values.into_inner());
    }
    let told = told(source.text(), &errors).into_iter();
    let problems = told.map(|(span, message)| {
        let at = source.text().get(span.clone()).unwrap_or_default();
        let (message, hint) = wording::syntax(message, at);
        let problem = source.problem("", span, message);
        match hint {
            Some(hint) => problem.with_hint(hint),
            None => problem,
        }
    });
    Err(problems.collect())
}

/// The errors to report, in the order of the text. They are chosen before they become
/// problems: each problem reads its line, and all errors may be on one line.
fn told<'e>(text: &str, errors: &'e [toml::de::Error]) -> Vec<(Range<usize>, &'e str)> {
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    // Later errors of a line are mostly echoes of its first one.
    let mut next_line = 0;
    errors.retain(|(span, _)| {
        let is_first = span.start >= next_line;
        if is_first {
            let rest = text.as_bytes().get(span.start..).unwrap_or_default();
            let line = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            next_line = span.start + line + 1;
        }
        is_first
    });
    errors.truncate(MAX_SYNTAX_PROBLEMS);
    errors
}
