//! What a reload changes, decided without touching anything.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::config::Pool;

/// What becomes of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Add,
    /// It keeps its workers.
    Keep,
    /// It keeps its workers, as far as there is room for them.
    Resize,
    /// A new generation takes over.
    Renew,
    /// It is in the configuration no more.
    Remove,
}

/// What becomes of each pool, by name, when the configuration of the `running`
/// ones gives way to that of the `wanted` ones. `size` is how many workers a
/// running pool has, which need not be what its configuration says. `all_new`
/// renews also what has not changed.
pub fn changes<'a>(
    running: impl IntoIterator<Item = (&'a Pool, u32)>,
    wanted: impl IntoIterator<Item = &'a Pool>,
    all_new: bool,
) -> BTreeMap<&'a str, Change> {
    let mut running: BTreeMap<&str, (&Pool, u32)> =
        running.into_iter().map(|(pool, size)| (pool.name.as_str(), (pool, size))).collect();
    let mut changes = BTreeMap::new();
    for pool in wanted {
        let change = match running.remove(pool.name.as_str()) {
            None => Change::Add,
            Some(_) if all_new => Change::Renew,
            Some((old, size)) => change(old, size, pool),
        };
        changes.insert(pool.name.as_str(), change);
    }
    changes.extend(running.into_keys().map(|name| (name, Change::Remove)));
    changes
}

/// What becomes of each pool by `earlier`, which has not ended, and by `later`, which
/// takes its place, together.
pub fn merge(
    earlier: &BTreeMap<String, Change>,
    later: BTreeMap<String, Change>,
) -> BTreeMap<String, Change> {
    let merged = later.into_iter().filter_map(|(name, later)| {
        let change = match (earlier.get(&name), later) {
            (Some(Change::Add), Change::Remove) => return None,
            (Some(Change::Add), _) => Change::Add,
            (Some(Change::Renew), Change::Keep | Change::Resize) => Change::Renew,
            (Some(Change::Resize), Change::Keep) => Change::Resize,
            (_, later) => later,
        };
        Some((name, change))
    });
    merged.collect()
}

fn change(old: &Pool, size: u32, new: &Pool) -> Change {
    let mut resized = old.clone();
    resized.workers = new.workers;
    if resized != *new {
        Change::Renew
    } else if size != new.workers {
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
        let running =
            || old.iter().map(|pool| (pool, if pool.name == "tuned" { 5 } else { pool.workers }));
        let expected = [
            ("gone", Change::Remove),
            ("grown", Change::Resize),
            ("kept", Change::Keep),
            ("moved", Change::Renew),
            ("new", Change::Add),
            ("tuned", Change::Resize),
        ];
        assert_eq!(changes(running(), &new, false), BTreeMap::from(expected));
        let all_new = changes(running(), &new, true);
        assert_eq!(all_new["kept"], Change::Renew);
        assert_eq!(all_new["gone"], Change::Remove);
    }

    #[test]
    fn what_two_reloads_change_is_told_together() {
        use Change::{Add, Keep, Remove, Renew, Resize};
        for (earlier, later, together) in [
            (Add, Keep, Some(Add)),
            (Add, Renew, Some(Add)),
            (Add, Remove, None),
            (Renew, Keep, Some(Renew)),
            (Renew, Resize, Some(Renew)),
            (Resize, Keep, Some(Resize)),
            (Resize, Renew, Some(Renew)),
            (Remove, Keep, Some(Keep)),
            (Keep, Remove, Some(Remove)),
        ] {
            let of = |change| BTreeMap::from([("pool".to_owned(), change)]);
            let merged = merge(&of(earlier), of(later));
            assert_eq!(merged.get("pool").copied(), together, "{earlier:?}, {later:?}");
        }
        let new = BTreeMap::from([("new".to_owned(), Add)]);
        assert_eq!(merge(&BTreeMap::new(), new.clone()), new);
    }
}
