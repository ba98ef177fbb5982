//! What a reload changes, decided without touching anything.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::config::Pool;

/// What becomes of a pool; of those that stay, the less its workers stay the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
/// running pool has, which need not be what its configuration says. `must_renew`
/// tells of a pool that has not changed whether it is renewed all the same.
pub fn changes<'a>(
    running: impl IntoIterator<Item = (&'a Pool, u32)>,
    wanted: impl IntoIterator<Item = &'a Pool>,
    must_renew: impl Fn(&Pool) -> bool,
) -> BTreeMap<&'a str, Change> {
    let mut running: BTreeMap<&str, (&Pool, u32)> =
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

/// What becomes of each pool by several reloads together, of which each takes the place
/// of the one before it.
#[derive(Debug, Default)]
pub struct Together(BTreeMap<String, Course>);

/// What becomes of a pool: as what it stays, if it does not go in the end.
#[derive(Debug)]
struct Course {
    stays: Change,
    goes: bool,
}

impl Together {
    /// One more reload takes the place of those before it.
    pub fn add(&mut self, changes: BTreeMap<String, Change>) {
        for (name, change) in changes {
            let stays = change.min(Change::Keep);
            let course = self.0.entry(name).or_insert(Course { stays, goes: false });
            course.goes = change == Change::Remove;
            // A pool that is to go has its workers until it is gone.
            if course.stays != Change::Add && !course.goes {
                course.stays = course.stays.max(change);
            }
        }
    }

    /// What has become of each pool that was there before or is now.
    pub fn all(&self) -> impl Iterator<Item = (&str, Change)> {
        self.0.iter().filter_map(|(name, course)| match course {
            Course { stays: Change::Add, goes: true } => None,
            Course { goes: true, .. } => Some((name.as_str(), Change::Remove)),
            Course { stays, goes: false } => Some((name.as_str(), *stays)),
        })
    }
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
        assert_eq!(changes(running(), &new, |_| false), BTreeMap::from(expected));
        let renewed = changes(running(), &new, |pool| pool.name == "kept");
        assert_eq!(renewed["kept"], Change::Renew);
        assert_eq!(renewed["grown"], Change::Resize);
        assert_eq!(renewed["gone"], Change::Remove);
    }

    #[test]
    fn what_several_reloads_change_is_told_together() {
        use Change::{Add, Keep, Remove, Renew, Resize};
        let histories = [
            (&[Resize][..], Some(Resize)),
            (&[Add, Keep], Some(Add)),
            (&[Add, Renew], Some(Add)),
            (&[Add, Remove], None),
            (&[Add, Remove, Keep], Some(Add)),
            (&[Renew, Keep], Some(Renew)),
            (&[Renew, Resize], Some(Renew)),
            (&[Resize, Keep], Some(Resize)),
            (&[Resize, Renew], Some(Renew)),
            (&[Keep, Remove], Some(Remove)),
            (&[Remove, Keep], Some(Keep)),
            (&[Renew, Remove, Keep], Some(Renew)),
        ];
        for (history, summary) in histories {
            let mut together = Together::default();
            for change in history {
                together.add(BTreeMap::from([("pool".to_owned(), *change)]));
            }
            let told = together.all().next();
            assert_eq!(told, summary.map(|change| ("pool", change)), "{history:?}");
        }
        let mut together = Together::default();
        together.add(BTreeMap::new());
        together.add(BTreeMap::from([("new".to_owned(), Add)]));
        assert_eq!(together.all().collect::<Vec<_>>(), [("new", Add)]);
    }
}
