//! Finding and reading the files of a configuration.
//!
//! All that may block is here: see [`super::Gathered`] for what comes out.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use toml::de::{DeTable, DeValue};

use super::gathered::{File, Gathered, Included, MAX_BYTES, MAX_FILES, MAX_TOTAL, Unread};
use crate::error::reason;

/// What the main file may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MainFile {
    /// Anything that can be read: who starts a daemon may give it a pipe.
    Any,
    /// A regular file: to open a FIFO or a device, or to read it, may take for ever.
    Regular,
}

/// Reads the file `path` and those that it includes.
pub fn gather(path: &Path, main: MainFile) -> Gathered {
    let main = main_file(path, main);
    let included = main.content.as_ref().map_or_else(|_| Vec::new(), |main| include(path, main));
    Gathered { main, included }
}

/// Reads the file `path` alone.
pub(super) fn main_file(path: &Path, main: MainFile) -> File {
    let content = match main {
        MainFile::Any => read_any(path, MAX_TOTAL),
        MainFile::Regular => read(path, MAX_TOTAL),
    };
    File { path: path.to_owned(), content }
}

/// Reads the files that the file `path`, whose content is `main`, includes.
fn include(path: &Path, main: &[u8]) -> Vec<Included> {
    let mut included = Vec::new();
    // Two patterns may match one file, which is no fault.
    let mut seen = BTreeSet::new();
    let mut room = MAX_TOTAL - main.len().min(MAX_TOTAL);
    for (include, name) in includes(main) {
        let paths = match expand(path, &name) {
            Ok(paths) => paths,
            Err((path, unread)) => {
                included.push(Included { include, file: File { path, content: Err(unread) } });
                continue;
            }
        };
        for path in paths {
            if !seen.insert(path.clone()) {
                continue;
            }
            let at_end = included.len() == MAX_FILES;
            let content = match at_end {
                true => Err(wrong(&path, &format!("more than {MAX_FILES} files are included"))),
                false => read(&path, room),
            };
            room -= content.as_ref().map_or(0, Vec::len);
            included.push(Included { include: include.clone(), file: File { path, content } });
            if at_end {
                return included;
            }
        }
    }
    included
}

/// The values of the key `include` of a file, with their places. A wrong value gives
/// nothing here, and the parser of the file reports it.
pub(super) fn includes(main: &[u8]) -> Vec<(Range<usize>, String)> {
    let Ok(text) = std::str::from_utf8(main) else { return Vec::new() };
    let (values, errors) = DeTable::parse_recoverable(text);
    let includes = values.get_ref().get("include").filter(|_| errors.is_empty());
    let includes = includes.and_then(|includes| includes.get_ref().as_array());
    let name = |item: &toml::Spanned<DeValue<'_>>| {
        Some((item.span(), item.get_ref().as_str()?.to_owned()))
    };
    includes.and_then(|items| items.iter().map(name).collect()).unwrap_or_default()
}

/// The files that `name`, a path or a pattern in the file `main`, stands for.
///
/// They are sorted by name, so that the order does not depend on the directory.
pub(super) fn expand(main: &Path, name: &str) -> Result<Vec<PathBuf>, (PathBuf, Unread)> {
    let directory = main.parent().unwrap_or(Path::new(""));
    let path = directory.join(name);
    if !is_pattern(name) {
        return Ok(vec![path]);
    }
    let Some(directory) = directory.to_str() else {
        let message = "a pattern needs a directory whose name is UTF-8".to_owned();
        return Err((path, Unread::Wrong(message)));
    };
    let pattern = Path::new(&Pattern::escape(directory)).join(name);
    let options = MatchOptions {
        // Editors keep their locks and copies in files with a dot in front.
        require_literal_leading_dot: true,
        ..MatchOptions::new()
    };
    let matches = glob::glob_with(&pattern.to_string_lossy(), options).map_err(|error| {
        (path, Unread::Wrong(format!("{name:?} is not a pattern: {}", error.msg)))
    })?;
    let mut paths = matches
        .take(MAX_FILES + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| (error.path().to_owned(), missing(error.path(), error.error())))?;
    paths.sort();
    Ok(paths)
}

/// Whether an entry of `include` may stand for several files.
pub(super) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// Reads the file `path`, which has to be a regular one.
pub(super) fn read(path: &Path, room: usize) -> Result<Vec<u8>, Unread> {
    match path.metadata() {
        Ok(file) if file.is_file() || file.is_dir() => read_any(path, room),
        Ok(_) => Err(Unread::Missing(could_not_read(path, "it is not a regular file"))),
        Err(error) => Err(missing(path, &error)),
    }
}

/// Reads the file `path`, whatever it is, if it fits into so many bytes.
fn read_any(path: &Path, room: usize) -> Result<Vec<u8>, Unread> {
    let missing = |error| missing(path, &error);
    let file = fs::File::open(path).map_err(missing)?;
    if file.metadata().map_err(missing)?.is_dir() {
        return Err(Unread::Missing(could_not_read(path, "it is a directory")));
    }
    // The length of the file is not asked for: a pipe has none.
    let most = room.min(MAX_BYTES);
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(missing)?;
    if bytes.len() <= most {
        Ok(bytes)
    } else if most == MAX_BYTES {
        Err(wrong(path, "it is larger than 1 MiB"))
    } else {
        Err(wrong(path, "all files together are larger than 32 MiB"))
    }
}

fn missing(path: &Path, error: &std::io::Error) -> Unread {
    Unread::Missing(could_not_read(path, &reason(error)))
}

fn wrong(path: &Path, reason: &str) -> Unread {
    Unread::Wrong(could_not_read(path, reason))
}

pub(super) fn could_not_read(path: &Path, reason: &str) -> String {
    format!(r#"could not read configuration "{}": {reason}"#, path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_has_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        fs::write(place("main"), "include = [\"*.d\"]").unwrap();
        fs::write(place("0.d"), "#".repeat(MAX_BYTES)).unwrap();
        for at in 1..33 {
            fs::hard_link(place("0.d"), place(&format!("{at}.d"))).unwrap();
        }
        let last = || gather(&place("main"), MainFile::Regular).included.pop().unwrap();
        let told = last().file.content.unwrap_err();
        assert!(told.message().contains("all files together are larger than 32 MiB"), "{told:?}");
        fs::write(place("0.d"), "").unwrap();
        for at in 33..=MAX_FILES {
            fs::hard_link(place("0.d"), place(&format!("{at}.d"))).unwrap();
        }
        let told = last().file.content.unwrap_err();
        assert!(told.message().contains("more than 8192 files are included"), "{told:?}");
    }
}
