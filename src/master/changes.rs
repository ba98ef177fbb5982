//! Decides what a reload changes, and touches nothing.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::config::Pool;

/// What happens to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The pool is new.
    Add,
    /// The pool keeps its workers.
    Keep,
    /// Only the surplus workers retire, or new ones join.
    Resize,
    /// A new generation takes over.
    Renew,
    /// The pool is no longer in the configuration.
    Remove,
}

impl Change {
    /// What the log says of a pool that has changed.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Change::Add => Some("added"),
            Change::Keep => None,
            Change::Resize => Some("resized"),
            Change::Renew => Some("renewed"),
            Change::Remove => Some("removed"),
        }
    }
}

/// What happens to each pool, by name, when the configuration of the `running` pools is
/// replaced by that of the `wanted` ones. `size` gives how many workers a running pool has,
/// which may differ from its configuration. `must_renew` says whether an unchanged pool is
/// renewed all the same.
pub fn changes<'a>(
    running: impl IntoIterator<Item = (&'a Pool, i64)>,
    wanted: impl IntoIterator<Item = &'a Pool>,
    must_renew: impl Fn(&Pool) -> bool,
) -> BTreeMap<&'a str, Change> {
    let mut running: BTreeMap<&str, (&Pool, i64)> =
        running.into_iter().map(|(pool, size)| (pool.name.as_str(), (pool, size))).collect();
    let mut changes = BTreeMap::new();
    for pool in wanted {
        let change = match running.remove(pool.name.as_str()) {
            None => Change::Add,
            Some(_) if must_renew(pool) => Change::Renew,
            Some((old, size)) => change(old, size, pool),
        };
        changes.insert(pool.name.as_str(), change);
    }
    changes.extend(running.into_keys().map(|name| (name, Change::Remove)));
    changes
}

fn change(old: &Pool, size: i64, new: &Pool) -> Change {
    let mut resized = old.clone();
    resized.workers = new.workers;
    if resized != *new {
        Change::Renew
    } else if size != i64::from(new.workers) {
        Change::Resize
    } else {
        Change::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pool;

    #[test]
    fn only_what_changed_is_touched() {
        let old = [
            pool("[pool.kept]\nlisten = \"@a\"\nworkers = 2\nservice = \"echo\""),
            pool("[pool.grown]\nlisten = \"@b\"\nworkers = 2\nservice = \"echo\""),
            pool("[pool.moved]\nlisten = \"@c\"\nworkers = 2\nservice = \"echo\""),
            pool("[pool.gone]\nlisten = \"@d\"\nworkers = 2\nservice = \"echo\""),
            pool("[pool.tuned]\nlisten = \"@e\"\nworkers = 2\nservice = \"echo\""),
        ];
        let new = [
            pool("\n\n[pool.kept]\nservice = \"echo\" # moved\nlisten = \"@a\"\nworkers = 2"),
            pool("[pool.grown]\nlisten = \"@b\"\nworkers = 3\nservice = \"echo\""),
            pool("[pool.moved]\nlisten = \"@z\"\nworkers = 2\nservice = \"echo\""),
            pool("[pool.new]\nlisten = \"@d\"\nworkers = 2\nservice = \"echo\""),
            // Its size was changed by a signal since.
            pool("[pool.tuned]\nlisten = \"@e\"\nworkers = 2\nservice = \"echo\""),
        ];
        let running = || {
            old.iter()
                .map(|pool| (pool, if pool.name == "tuned" { 5 } else { i64::from(pool.workers) }))
        };
        let expected = [
            ("gone", Change::Remove),
            ("grown", Change::Resize),
            ("kept", Change::Keep),
            ("moved", Change::Renew),
            ("new", Change::Add),
            ("tuned", Change::Resize),
        ];
        assert_eq!(changes(running(), &new, |_| false), BTreeMap::from(expected));
        let renewed = changes(running(), &new, |pool| pool.name == "kept");
        assert_eq!(renewed["kept"], Change::Renew);
        assert_eq!(renewed["grown"], Change::Resize);
        assert_eq!(renewed["gone"], Change::Remove);
    }
}
