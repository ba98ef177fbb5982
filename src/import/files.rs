//! The files to import, with those that they include.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Problem, Problems, Source};
use crate::error::{Code, reason};

use super::xinetd::{self, Include};

/// How many files there may be.
const MOST_FILES: usize = 4096;

/// How large one may be.
const MOST_BYTES: u64 = 1 << 20;

/// Reads these files and folders, and what an xinetd.conf includes.
///
/// # Errors
///
/// Every file that cannot be read.
pub fn gather(paths: &[PathBuf]) -> Result<Vec<Source>, Problems> {
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<PathBuf> = paths.iter().rev().cloned().collect();
    while let Some(path) = waiting.pop() {
        // A file that includes itself is read once.
        if sources.len() >= MOST_FILES || !seen.insert(path.clone()) {
            continue;
        }
        match read(&path) {
            Ok(Found::Folder(files)) => waiting.extend(files.into_iter().rev()),
            Ok(Found::File(source)) => {
                let included = xinetd::includes(source.text());
                for include in included.into_iter().rev() {
                    let Include(name) = include;
                    waiting.push(path.parent().unwrap_or(Path::new("")).join(name));
                }
                sources.push(source);
            }
            Err(reason) => {
                let message = format!("could not read file \"{}\": {reason}", path.display());
                problems.push(Problem::new(message).with_code(Code::NoInput));
            }
        }
    }
    Problems::unless_empty(problems, sources)
}

enum Found {
    File(Source),
    Folder(Vec<PathBuf>),
}

fn read(path: &Path) -> Result<Found, String> {
    let about = path.metadata().map_err(|error| reason(&error))?;
    if about.is_dir() {
        return read_folder(path).map(Found::Folder);
    }
    if about.len() > MOST_BYTES {
        return Err("it is larger than 1 MiB".to_owned());
    }
    let bytes = fs::read(path).map_err(|error| reason(&error))?;
    // Comments of old files are in any encoding.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Found::File(Source::new(path, text)))
}

/// The files that xinetd would read: those without a dot, and without a tilde at the end.
fn read_folder(path: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| reason(&error))? {
        let entry = entry.map_err(|error| reason(&error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.contains('.') && !name.ends_with('~') && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
