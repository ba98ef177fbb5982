//! The MESSAGE_ID of each event, by which the journal's catalog explains it.
//!
//! The catalog itself is the table: what it does not explain has no id.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

const CATALOG: &str = include_str!("../../packaging/catalog/preforkd.catalog");

/// The events of the catalog and their ids. It is made in the master, before
/// the first fork.
static IDS: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| ids(CATALOG).collect());

/// The id of a message, if it has one.
pub fn of(message: &str) -> Option<&'static str> {
    IDS.iter().find(|(event, _)| *event == message).map(|(_, id)| *id)
}

/// Each entry is `-- ID`, after a comment `# event: MESSAGE`.
fn ids(catalog: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut event = None;
    catalog.lines().filter_map(move |line| {
        if let Some(message) = line.strip_prefix("# event: ") {
            event = Some(message);
        }
        let id = line.strip_prefix("-- ")?;
        Some((event.take()?, id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_id_is_one_and_there_is_one_for_each_event() {
        let entries = CATALOG.lines().filter(|line| line.starts_with("-- ")).count();
        let distinct: BTreeSet<_> = IDS.iter().map(|(_, id)| id).collect();
        assert_eq!((IDS.len(), distinct.len()), (entries, entries));
        assert!(
            distinct.iter().all(|id| id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()))
        );
        assert!(of("worker killed").is_some());
        assert!(of("no such event").is_none());
    }
}
