//! 1 configuration: from the files that the user writes to checked values.
//!
//! `gather` reads the files, and all else is pure. All problems are reported at once, each
//! with its line and the nearest key. Facts that only the system knows, such as whether a
//! user exists, are checked where they are used. Their problems, too, are a [`Problem`] at
//! the place in the file.
#![forbid(unsafe_code)]

mod address;
mod diagnostics;
mod endpoint;
mod fairness;
mod fault;
mod foreign;
mod gather;
mod gathered;
mod leftovers;
mod limits;
mod listen;
mod meant;
mod outline;
mod overlap;
mod peers;
mod reader;
mod sealed;
mod service;
mod strays;
mod syntax;
mod tables;
mod tcp;
#[cfg(test)]
mod tests;
mod units;
mod variables;
mod wording;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use toml::de::DeTable;

use crate::error::{Code, reason};
use crate::program;

pub use address::Address;
use diagnostics::sort;
pub use diagnostics::{Problem, Problems, Source};
pub use endpoint::{Endpoint, Port};
pub use fairness::{PerSource, Rate};
pub use fault::Fault;
pub use gather::{MainFile, gather};
use gather::{could_not_read, main_file};
pub use gathered::Gathered;
use gathered::{File, Included};
pub use leftovers::Leftovers;
pub use limits::Limits;
pub use listen::{Listen, Listens};
pub use meant::{command as command_of, service as service_hint};
pub use peers::Peers;
pub use service::{Options, ServiceChoice};
pub use strays::strays;
pub use tables::{Config, Daemon, Format, Level, Log, MOST_WORKERS, Pool};
pub use tcp::{Keepalive, Tcp};
#[cfg(test)]
pub(crate) use tests::pool;
#[cfg(test)]
pub(crate) use variables::OF_CONNECTIONS;

use reader::{Table, dotted, shown};
use service::AnyTable;
use tables::Origin;

/// So many included files are named that cannot be read, and the others are counted.
const MAX_UNREAD: usize = 32;

/// Reads the configuration from the file `path` and from those that it includes.
///
/// # Errors
///
/// Everything that is wrong, in the order of the files and of their lines.
pub fn load(path: &Path) -> Result<Config, Problems> {
    parse(gather(path, MainFile::Any))
}

/// The configuration that these files hold. It looks at nothing but them.
///
/// # Errors
///
/// Everything that is wrong, in the order of the files and of their lines.
pub fn parse(gathered: Gathered) -> Result<Config, Problems> {
    let path = gathered.main.path.clone();
    let mut loader = Loader::default();
    let root = loader.read_all(gathered).unwrap_or_default();
    let Loader { mut pools, mut problems } = loader;
    problems.extend(shared_names(&pools));
    problems.extend(shared_addresses(&pools));
    problems.extend(overlap::overlapping(&pools));
    if pools.is_empty() && problems.is_empty() {
        let problem = Problem::of_file(&path, "no pool is configured");
        problems.push(problem.with_hint("add one, which begins with a line like [pool.echo]"));
    }
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    for pool in pools.iter_mut().filter(|pool| pool.user.is_none()) {
        pool.default_user = root.daemon.default_user();
    }
    // The text of the file is not to be kept by what outlives the start.
    let mut daemon = Daemon { origin: Origin::default(), ..root.daemon };
    if daemon.control.as_os_str().is_empty() {
        daemon.control = program::control(&path);
    }
    let config = Config { daemon, log: root.log, pools };
    Problems::unless_empty(problems, config)
}

/// The configuration that this text holds, if it stood in the file `path` and included none.
///
/// # Errors
///
/// Everything that is wrong.
pub fn parse_text(path: &Path, text: &str) -> Result<Config, Problems> {
    let main = File { path: path.to_owned(), content: Ok(text.into()) };
    parse(Gathered { main, included: Vec::new() })
}

impl Config {
    /// Puts the number in the place of each port that has a name, as `find` knows it.
    ///
    /// # Errors
    ///
    /// The names that mean nothing, or all addresses that are the same as others now.
    pub fn number_ports(&mut self, find: impl Fn(&str) -> io::Result<u16>) -> Result<(), Problems> {
        let mut problems = Vec::new();
        for pool in &mut self.pools {
            for (span, name, error) in pool.listen.number_ports(&find) {
                let message = format!("could not find port {name:?}: {}", reason(&error));
                let problem = pool.problem("listen", span, message);
                problems.push(problem.with_hint("the names of ports are in /etc/services"));
            }
        }
        problems.extend(shared_addresses(&self.pools));
        problems.extend(overlap::overlapping(&self.pools));
        Problems::unless_empty(problems, ())
    }
}

/// The control socket of the daemon whose configuration the file `path` is. It
/// is found in a file with faults, too, so that its daemon can be asked.
///
/// # Errors
///
/// The file cannot be read.
pub fn control(path: &Path) -> Result<PathBuf, Problems> {
    let source = source_of(main_file(path, MainFile::Any))?;
    let (values, _) = DeTable::parse_recoverable(source.text());
    let daemon = values.get_ref().get("daemon").and_then(|daemon| daemon.get_ref().as_table());
    let control = daemon.and_then(|daemon| daemon.get("control")?.get_ref().as_str());
    let control = control.map(Path::new).filter(|control| control.is_absolute());
    Ok(control.map_or_else(|| program::control(path), Path::to_owned))
}

/// The main file without its pools.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Root {
    /// Followed by `gather`; here only its form is checked.
    include: Vec<Spanned<String>>,
    daemon: Daemon,
    log: Log,
    /// Read one by one, so that what is wrong in one does not hide another.
    #[serde(rename = "pool")]
    _pool: AnyTable,
}

/// What has been read so far, right and wrong.
#[derive(Default)]
struct Loader {
    pools: Vec<Pool>,
    problems: Vec<Problem>,
}

impl Loader {
    fn read_all(&mut self, gathered: Gathered) -> Option<Root> {
        let Gathered { main, included } = gathered;
        let source = source_of(main).map_err(|problem| self.problems.push(problem)).ok()?;
        let root = self.read_main(&source)?;
        let mut unread = 0;
        for Included { include, file } in included {
            match source_of(file) {
                Ok(file) => self.read_included(&file, &source),
                // The user of a missing file wants to know which entry includes it.
                Err(problem) => {
                    let is_missing = problem.code() == Code::NoInput;
                    unread += usize::from(is_missing);
                    if unread <= MAX_UNREAD || !is_missing {
                        let at = source.problem("include", include, problem.message());
                        self.problems.push(at.with_code(problem.code()));
                    }
                }
            }
        }
        if unread > MAX_UNREAD {
            let message = format!("could not read {} more files", unread - MAX_UNREAD);
            self.problems.push(Problem::of_file(source.path(), message).with_code(Code::NoInput));
        }
        Some(root)
    }

    fn read_main(&mut self, source: &Arc<Source>) -> Option<Root> {
        let mut values = self.parse(source)?;
        let first = self.problems.len();
        self.take_lists_out(source, &mut values);
        let table = Table { source, path: "", at: 0..0, values: &values };
        let mut root: Option<Root> = table.read(&mut self.problems);
        if let Some(root) = &mut root {
            root.daemon.origin.source = Arc::clone(source);
        }
        self.read_pools(source, &values);
        sort(&mut self.problems[first..]);
        root
    }

    /// Takes out what is written [[log]]. serde would read the list as the fields of the table.
    fn take_lists_out(&mut self, source: &Source, values: &mut DeTable<'_>) {
        for key in ["daemon", "log"] {
            let Some(value) = values.get(key).filter(|value| value.get_ref().is_array()) else {
                continue;
            };
            let message = format!("{} is not a table", shown(source, value));
            let problem = source.problem(key, value.span(), message);
            self.problems.push(problem.with_hints(meant::value(key, "a table", value.get_ref())));
            values.remove(key);
        }
    }

    fn read_included(&mut self, source: &Arc<Source>, main: &Source) {
        let Some(values) = self.parse(source) else {
            return;
        };
        let first = self.problems.len();
        for (key, value) in values.iter().filter(|(key, _)| key.get_ref().as_ref() != "pool") {
            let key_name = key.get_ref().as_ref();
            let (message, hint) = match meant::pool_table(key_name, value.get_ref()) {
                Some(hint) => (format!("unknown key {key_name:?}"), hint),
                None => (
                    format!("key {key_name:?} belongs in {}", main.path().display()),
                    "an included file holds [pool.*] tables alone".to_owned(),
                ),
            };
            self.problems.push(source.problem("", key.span(), message).with_hint(hint));
        }
        self.read_pools(source, &values);
        sort(&mut self.problems[first..]);
    }

    /// Reads every `[pool.*]` table of the file whose content is `values`.
    fn read_pools(&mut self, source: &Arc<Source>, values: &DeTable<'_>) {
        let Some(pools) = values.get("pool").and_then(|pools| pools.get_ref().as_table()) else {
            return;
        };
        let mut in_order: Vec<_> = pools.iter().collect();
        in_order.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in in_order {
            let path = dotted("pool", [name.get_ref()]);
            if !is_pool_name(name.get_ref()) {
                let message = format!("{:?} is not a name for a pool", name.get_ref().as_ref());
                let problem = source.problem("", name.span(), message);
                self.problems.push(problem.with_hint("a name has 1 to 64 of A-Z a-z 0-9 _ -"));
            }
            let Some(table) = value.get_ref().as_table() else {
                let message = format!("{} is not a table", shown(source, value));
                let hint = meant::value(&path, "a table", value.get_ref());
                let problem = source.problem(path, value.span(), message);
                self.problems.push(problem.with_hints(hint));
                continue;
            };
            let read = Table { source, path: &path, at: name.span(), values: table };
            let Some(mut pool) = read.read::<Pool>(&mut self.problems) else {
                continue;
            };
            pool.name = name.get_ref().to_string();
            pool.service.options = Options::new(source, &pool.name, table, &pool.service.name);
            pool.origin = Origin { source: Arc::clone(source), name: name.span() };
            self.problems.extend(pool.check());
            self.pools.push(pool);
        }
    }

    fn parse<'s>(&mut self, source: &'s Source) -> Option<DeTable<'s>> {
        match syntax::parse(source) {
            Ok(values) => Some(values),
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }
}

/// The text of a file that was read.
fn source_of(file: File) -> Result<Arc<Source>, Problem> {
    let File { path, content } = file;
    let bytes =
        content.map_err(|unread| Problem::new(unread.message()).with_code(unread.code()))?;
    String::from_utf8(bytes).map(|text| Arc::new(Source::new(&path, text))).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let reason = format!("line {line} is not UTF-8");
        Problem::new(could_not_read(&path, &reason)).with_code(Code::Config)
    })
}

/// Names stand in log lines and key paths, so they hold nothing to be quoted.
fn is_pool_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Pools that have the name of an earlier one; in one file, TOML forbids that.
fn shared_names(pools: &[Pool]) -> Vec<Problem> {
    repeated(pools.iter().map(|pool| (&pool.name, pool)))
        .map(|(first, pool)| {
            let message = format!("pool {:?} is already in {}", pool.name, first.place());
            pool.origin.source.problem("", pool.origin.name.clone(), message)
        })
        .collect()
}

/// Addresses on which an earlier pool of another name listens, or this one already.
fn shared_addresses(pools: &[Pool]) -> Vec<Problem> {
    let addresses = pools.iter().flat_map(|pool| {
        pool.listen.iter().map(move |listen| (&listen.get_ref().address, (pool, listen)))
    });
    repeated(addresses)
        // Another check reports a name that two pools have.
        .filter(|((first, _), (pool, _))| first.name != pool.name || ptr::eq(*first, *pool))
        .map(|((first, _), (pool, listen))| {
            let address = &listen.get_ref().address;
            let message = match ptr::eq(first, pool) {
                true => format!(r#"address "{address}" is already in the list"#),
                false => {
                    let (name, place) = (&first.name, first.place());
                    format!(r#"address "{address}" is already that of pool {name:?} in {place}"#)
                }
            };
            pool.problem("listen", listen.span(), message)
        })
        .collect()
}

/// Each value whose key an earlier one has too, behind the first that has it.
fn repeated<K: Eq + Hash, V: Clone>(
    values: impl Iterator<Item = (K, V)>,
) -> impl Iterator<Item = (V, V)> {
    let mut firsts = HashMap::new();
    values.filter_map(move |(key, value)| match firsts.entry(key) {
        Entry::Occupied(first) => Some((V::clone(first.get()), value)),
        Entry::Vacant(place) => {
            place.insert(value);
            None
        }
    })
}
