//! The configuration files: finding, reading and parsing them.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::{MatchOptions, Pattern};
use toml::Spanned;
use toml::de::DeTable;

use super::diagnostics::{Problem, Source};
use super::wording;
use crate::error::{Code, reason};

/// A configuration is written by hand; what is larger is another file.
const MAX_BYTES: u64 = 1024 * 1024;

/// After so many syntax errors the rest is not told.
const MAX_SYNTAX_PROBLEMS: usize = 32;

/// Reads the file `path`, which has to be a regular one: to open a FIFO or a device,
/// or to read it, may take for ever.
pub(super) fn read(path: &Path) -> Result<Arc<Source>, Problem> {
    match path.metadata() {
        Ok(file) if file.is_file() || file.is_dir() => read_any(path),
        Ok(_) => Err(could_not_read(path, "it is not a regular file")),
        Err(error) => Err(could_not_read(path, &reason(&error))),
    }
}

/// Reads the file `path`, which `include` in the file `main` stands for.
pub(super) fn read_included(
    path: &Path,
    main: &Source,
    include: &Spanned<String>,
) -> Result<Arc<Source>, Problem> {
    read(path).map_err(|problem| at_include(main, include, &problem))
}

/// A problem with an included file as a whole: who reads that a file is missing
/// asks who wants it.
fn at_include(main: &Source, include: &Spanned<String>, problem: &Problem) -> Problem {
    main.problem("include", include.span(), problem.message()).with_code(problem.code())
}

/// Reads the file `path`, whatever it is: who starts a daemon may give it a pipe.
pub(super) fn read_any(path: &Path) -> Result<Arc<Source>, Problem> {
    let failed = |reason: &str| could_not_read(path, reason);
    let file = File::open(path).map_err(|error| failed(&reason(&error)))?;
    let metadata = file.metadata().map_err(|error| failed(&reason(&error)))?;
    if metadata.is_dir() {
        return Err(failed("it is a directory"));
    }
    // The length of the file is not asked for: a pipe has none.
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(&reason(&error)))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed("it is larger than 1 MiB").with_code(Code::Config));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Arc::new(Source::new(path, text))),
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
            Err(failed(&format!("line {line} is not UTF-8")).with_code(Code::Config))
        }
    }
}

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

/// The errors that are told, in the order of the text. They are chosen before
/// problems are made of them: each problem reads its line, and all may be on one.
fn told<'e>(text: &str, errors: &'e [toml::de::Error]) -> Vec<(Range<usize>, &'e str)> {
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    // What follows the first error of a line is mostly an echo of that.
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

/// The files that `include`, a path or a pattern in the file `main`, stands for.
///
/// They are sorted by name, so that the order does not depend on the directory.
pub(super) fn expand(main: &Source, include: &Spanned<String>) -> Result<Vec<PathBuf>, Problem> {
    let wrong = |message: String| main.problem("include", include.span(), message);
    let directory = main.path().parent().unwrap_or(Path::new(""));
    let name = include.get_ref();
    if !name.contains(['*', '?', '[']) {
        return Ok(vec![directory.join(name)]);
    }
    let Some(directory) = directory.to_str() else {
        return Err(wrong("a pattern needs a directory whose name is UTF-8".to_owned()));
    };
    let pattern = Path::new(&Pattern::escape(directory)).join(name);
    let options = MatchOptions {
        // Editors keep their locks and copies in files with a dot in front.
        require_literal_leading_dot: true,
        ..MatchOptions::new()
    };
    let matches = glob::glob_with(&pattern.to_string_lossy(), options)
        .map_err(|error| wrong(format!("{name:?} is not a pattern: {}", error.msg)))?;
    let mut paths = matches
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| could_not_read(error.path(), &reason(error.error())))
        .map_err(|problem| at_include(main, include, &problem))?;
    paths.sort();
    Ok(paths)
}

fn could_not_read(path: &Path, reason: &str) -> Problem {
    let message = format!(r#"could not read configuration "{}": {reason}"#, path.display());
    Problem::new(message).with_code(Code::NoInput)
}
