//! Files that somebody most likely wanted to include: pools stand in them, and no pattern
//! matches their names.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::gather::{MainFile, expand, includes, is_pattern, main_file, read};
use super::gathered::MAX_BYTES;

/// How many files of a directory are looked at.
const MOST_FILES: usize = 1000;

/// Endings of files that editors and package managers leave behind, and that people put
/// aside.
const LEFT_BEHIND: [&str; 16] = [
    "~",
    ".bak",
    ".disabled",
    ".dist",
    ".example",
    ".off",
    ".old",
    ".orig",
    ".rpmnew",
    ".rpmorig",
    ".rpmsave",
    ".sample",
    ".save",
    ".swp",
    ".template",
    ".tmp",
];

/// The files next to those that the configuration `path` includes by patterns, in which
/// pools stand, and which no pattern matches. Nothing if the file cannot be read, because
/// loading the file reports that.
pub fn strays(path: &Path) -> Vec<PathBuf> {
    let Ok(main) = main_file(path, MainFile::Regular).content else { return Vec::new() };
    let names: Vec<_> = includes(&main).into_iter().map(|(_, name)| name).collect();
    let mut known: BTreeSet<PathBuf> =
        names.iter().flat_map(|name| expand(path, name).unwrap_or_default()).collect();
    known.insert(path.to_owned());
    let patterns = names.iter().filter(|name| is_pattern(name));
    let directories: BTreeSet<PathBuf> =
        patterns.filter_map(|name| directory(path, name)).collect();
    let mut strays: Vec<_> = directories.iter().flat_map(|directory| files(directory)).collect();
    strays.retain(|file| !known.contains(file) && !is_left_behind(file) && holds_pools(file));
    strays.sort();
    strays
}

/// The directory of a pattern, if it is one and no pattern itself.
fn directory(main: &Path, pattern: &str) -> Option<PathBuf> {
    let inner = Path::new(pattern).parent()?;
    let whole = main.parent().unwrap_or(Path::new("")).join(inner);
    (!is_pattern(inner.to_str()?)).then_some(whole)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    // An empty path means the working directory.
    let place = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let entries = fs::read_dir(place).into_iter().flatten().flatten().take(MOST_FILES);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| directory.join(entry.file_name()))
        .collect()
}

fn is_left_behind(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.')
        || LEFT_BEHIND.iter().any(|ending| name.ends_with(ending))
        || [".dpkg-", ".ucf-"].iter().any(|part| name.contains(part))
}

fn holds_pools(file: &Path) -> bool {
    read(file, MAX_BYTES).unwrap_or_default().split(|&byte| byte == b'\n').any(begins_pool)
}

/// Whether a line is the head of a pool's table, and not a sentence that mentions one.
fn begins_pool(line: &[u8]) -> bool {
    let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
    line.starts_with(b"[pool.") && line.ends_with(b"]")
}

#[cfg(test)]
mod tests {
    use super::begins_pool;

    #[test]
    fn a_sentence_about_pools_is_no_pool() {
        for line in ["[pool.a]", "  [pool.a.service.exec] # a program"] {
            assert!(begins_pool(line.as_bytes()), "{line}");
        }
        for line in ["[pool.NAME] tables alone; see preforkd.toml(5).", "#[pool.a]", "", "pool.a"] {
            assert!(!begins_pool(line.as_bytes()), "{line}");
        }
    }
}
