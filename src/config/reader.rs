//! From a TOML table to a type, with all problems reported at once.
#![forbid(unsafe_code)]

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

use super::diagnostics::{Problem, Source, sort};
use super::fault::Fault;
use super::meant;
use super::wording::{Reason, Wrong};

/// After so many problems in one table, the rest is not looked for: each costs
/// another pass over the table.
const MAX_PROBLEMS: usize = 32;

/// A table that is to be read.
pub(super) struct Table<'a> {
    pub source: &'a Source,
    /// Its key path, `pool.echo`; empty for the whole file.
    pub path: &'a str,
    /// Where its name stands.
    pub at: Range<usize>,
    pub values: &'a DeTable<'a>,
}

impl Table<'_> {
    /// Reads the table as a `T`, and adds to `problems` what is wrong with it.
    ///
    /// serde stops at the first error. So the key at fault is taken out and the
    /// rest tried again, until that works: then what is right is given back, for
    /// further checks. `None` if a required key is missing or wrong, which serde
    /// only tells when it has seen all keys that are present.
    pub fn read<T: DeserializeOwned>(&self, problems: &mut Vec<Problem>) -> Option<T> {
        let mut values = self.values.clone();
        let mut removed: Vec<Vec<String>> = Vec::new();
        let (first, mut found) = (problems.len(), 0);
        let read = loop {
            let input = Spanned::new(self.at.clone(), DeValue::Table(values.clone()));
            let error = match T::deserialize(ValueDeserializer::from(input)) {
                Ok(read) => break Some(read),
                Err(error) => error,
            };
            let span = error.span().unwrap_or(self.at.clone());
            let at = span.clone();
            let mut trail = self.trail(&values, &span);
            let mut fault = Fault::from_text(error.message());
            let wrong = Wrong::from_message(&fault.message);
            let mut span = span;
            if let Some(key) = fault.key.take() {
                let listed = lookup(&values, &trail).and_then(|(_, list)| in_list(list, &span));
                if let Some((_, value)) = listed.and_then(|table| table.get_key_value(&*key)) {
                    // A fault in a list is reported at the list, and the whole list is
                    // removed.
                    span = value.span();
                } else {
                    trail.push(key);
                    span = lookup(&values, &trail).map_or(span, |(_, value)| value.span());
                }
            }
            // A wrong value was removed, and must not be reported as missing, too.
            let follows = matches!(&wrong, Wrong::Missing(key)
                if removed.iter().any(|gone| gone.split_last() == Some((key, &trail))));
            if !follows {
                problems.push(self.problem(&values, &trail, span, &wrong, fault));
            }
            found += 1;
            if found > MAX_PROBLEMS {
                break None;
            }
            // Only the faulty item of a list is removed, if possible, because other items
            // may have faults, too.
            if !remove_item(&mut values, &trail, &at) {
                if !remove(&mut values, &mut trail) {
                    break None;
                }
                removed.push(trail);
            }
        };
        sort(&mut problems[first..]);
        read
    }

    /// The keys that lead to what stands at `span`; none for the table itself.
    fn trail(&self, values: &DeTable<'_>, span: &Range<usize>) -> Vec<String> {
        let mut trail = Vec::new();
        if *span != self.at {
            find(values, span, &mut trail);
        }
        trail
    }

    /// The problem of what stands at `span`, to which the keys `trail` lead.
    fn problem(
        &self,
        values: &DeTable<'_>,
        trail: &[String],
        span: Range<usize>,
        wrong: &Wrong,
        fault: Fault,
    ) -> Problem {
        let shown_at = span.clone();
        let place = lookup(values, trail);
        let key_span = place.as_ref().map_or(self.at.clone(), |(key, _)| key.clone());
        let problem = match wrong {
            Wrong::Missing(key) => {
                let message = format!("missing key {key:?}{}", self.inside(trail));
                self.source.problem("", key_span, message)
            }
            Wrong::UnknownKey { key, .. } => {
                // In a list the trail ends with the key of that.
                let (parent, span) = match trail.split_last() {
                    Some((last, parent)) if last == key => (parent, key_span),
                    _ => (trail, span),
                };
                let message = format!("unknown key {key:?}{}", self.inside(parent));
                self.source.problem("", span, message)
            }
            Wrong::Value(_) | Wrong::Word { .. } => {
                let key = dotted(self.path, trail);
                let shown = match place {
                    Some((_, value)) => shown(self.source, innermost(value, &span)),
                    None => "the table",
                };
                let message = wrong.message(shown);
                self.source.problem(key, span, message)
            }
        };
        let meant = || self.meant(values, trail, &shown_at, wrong);
        problem.with_hints(fault.hint.or_else(meant).or_else(|| wrong.hint()))
    }

    /// What is most likely meant by what stands at `span`.
    fn meant(
        &self,
        values: &DeTable<'_>,
        trail: &[String],
        span: &Range<usize>,
        wrong: &Wrong,
    ) -> Option<String> {
        let (_, value) = lookup(values, trail)?;
        match wrong {
            Wrong::UnknownKey { key, .. } => {
                let (_, parent) = trail.split_last()?;
                let parent = dotted(self.path, parent);
                meant::unknown_key(&parent, key, value.get_ref(), values)
            }
            Wrong::Value(Reason::Not(expected)) => {
                let value = innermost(value, span);
                meant::value(&dotted(self.path, trail), expected, value.get_ref())
            }
            Wrong::Missing(_) | Wrong::Word { .. } | Wrong::Value(Reason::Told(_)) => None,
        }
    }

    fn inside(&self, trail: &[String]) -> String {
        match dotted(self.path, trail) {
            path if path.is_empty() => path,
            path => format!(" in {path}"),
        }
    }
}

/// A key path with further keys, each as TOML writes it.
pub(super) fn dotted<K: AsRef<str>>(path: &str, keys: impl IntoIterator<Item = K>) -> String {
    let mut dotted = path.to_owned();
    for key in keys {
        let key = key.as_ref();
        if !dotted.is_empty() {
            dotted.push('.');
        }
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !key.is_empty() && key.chars().all(bare) {
            dotted.push_str(key);
        } else {
            dotted.push_str(&format!("{key:?}"));
        }
    }
    dotted
}

/// Looks for the key or value at `span`, and leaves the keys to it in `trail`.
fn find(table: &DeTable<'_>, span: &Range<usize>, trail: &mut Vec<String>) -> bool {
    table.iter().any(|(key, value)| {
        trail.push(key.get_ref().to_string());
        let found = key.span() == *span
            || value.span() == *span
            || match value.get_ref() {
                DeValue::Table(table) => find(table, span, trail),
                // An error inside a list is one of its key.
                DeValue::Array(array) => array.iter().any(|item| holds(item, span)),
                _ => false,
            };
        if !found {
            trail.pop();
        }
        found
    })
}

fn holds(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    value.span() == *span
        || match value.get_ref() {
            DeValue::Table(table) => find(table, span, &mut Vec::new()),
            DeValue::Array(array) => array.iter().any(|item| holds(item, span)),
            _ => false,
        }
}

/// The table in a list that stands at `span`.
fn in_list<'t, 'i>(list: &'t Spanned<DeValue<'i>>, span: &Range<usize>) -> Option<&'t DeTable<'i>> {
    let mut items = list.get_ref().as_array()?.iter();
    items.find(|item| item.span() == *span)?.get_ref().as_table()
}

/// Where the last key of `trail` stands, and its value.
fn lookup<'t, 'i>(
    table: &'t DeTable<'i>,
    trail: &[String],
) -> Option<(Range<usize>, &'t Spanned<DeValue<'i>>)> {
    let (first, rest) = trail.split_first()?;
    let (key, value) = table.get_key_value(first.as_str())?;
    if rest.is_empty() {
        Some((key.span(), value))
    } else {
        lookup(value.get_ref().as_table()?, rest)
    }
}

/// Takes out what `trail` leads to, and shortens it to what is gone.
///
/// A table that becomes empty is removed, too: it was not empty in the file, and must not
/// be reported as empty. False if there is nothing to remove except the whole table.
fn remove(table: &mut DeTable<'_>, trail: &mut Vec<String>) -> bool {
    while let Some((last, parents)) = trail.split_last() {
        let parent = descend(table, parents);
        let Some(parent) = parent else { return false };
        if parent.remove(last.as_str()).is_none() {
            return false;
        }
        if parents.is_empty() || !parent.is_empty() {
            return true;
        }
        trail.pop();
    }
    false
}

/// The table that the keys `trail` lead to.
fn descend<'t, 'i>(table: &'t mut DeTable<'i>, trail: &[String]) -> Option<&'t mut DeTable<'i>> {
    trail.iter().try_fold(table, |table, key| match table.get_mut(key.as_str())?.get_mut() {
        DeValue::Table(table) => Some(table),
        _ => None,
    })
}

/// Takes an item that holds what stands at `span` out of the list that `trail` leads to.
/// False if that is no list, or all of it is at fault.
fn remove_item(table: &mut DeTable<'_>, trail: &[String], span: &Range<usize>) -> bool {
    let Some((last, parents)) = trail.split_last() else { return false };
    let Some(parent) = descend(table, parents) else { return false };
    let Some(value) = parent.get_mut(last.as_str()) else { return false };
    let DeValue::Array(items) = value.get_mut() else { return false };
    let before = items.len();
    *items = std::mem::replace(items, DeArray::new())
        .into_iter()
        .filter(|item| !holds(item, span))
        .collect();
    items.len() < before
}

/// The item of a list, however deep, that stands at `span`; else the value itself.
fn innermost<'t, 'i>(
    value: &'t Spanned<DeValue<'i>>,
    span: &Range<usize>,
) -> &'t Spanned<DeValue<'i>> {
    let items = value.get_ref().as_array().filter(|_| value.span() != *span);
    let item = items.and_then(|items| items.iter().find(|item| holds(item, span)));
    item.map_or(value, |item| innermost(item, span))
}

/// How a message names a value: as it is written, if that is short.
pub(super) fn shown<'s>(source: &'s Source, value: &Spanned<DeValue<'_>>) -> &'s str {
    let written = source.text().get(value.span()).unwrap_or_default();
    let short = written.len() <= 60 && !written.contains('\n');
    match value.get_ref() {
        DeValue::Table(_) => "a table",
        DeValue::Array(_) if !short => "a list",
        _ if !short => "this value",
        _ => written,
    }
}
