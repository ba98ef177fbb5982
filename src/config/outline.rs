//! A table by the places of its values, for reading it again.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a table has what. toml's own table borrows from the text, so that nobody
/// could keep it with the text; and to parse a whole file for one of its tables
/// costs a large file as many times as it has tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Outline(Vec<(Spanned<String>, Spanned<Shape>)>);

#[derive(Clone, Debug)]
enum Shape {
    /// Its text says it all.
    Plain,
    List(Vec<Spanned<Shape>>),
    Table(Outline),
}

impl Outline {
    /// The outline of a table that was parsed without errors.
    pub fn of(table: &DeTable<'_>) -> Self {
        let entry = |key: &Spanned<Cow<'_, str>>, value| {
            (Spanned::new(key.span(), key.get_ref().to_string()), shape(value))
        };
        Outline(table.iter().map(|(key, value)| entry(key, value)).collect())
    }

    /// The table, from the text that it was parsed from.
    pub fn read<'s>(&self, text: &'s str) -> DeTable<'s> {
        let entry = |key: &Spanned<String>, value| {
            (Spanned::new(key.span(), Cow::Owned(key.get_ref().clone())), read(value, text))
        };
        self.0.iter().map(|(key, value)| entry(key, value)).collect()
    }

    /// Where the value of `key` stands.
    pub fn place(&self, key: &str) -> Option<Range<usize>> {
        let (_, value) = self.0.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(value.span())
    }
}

fn shape(value: &Spanned<DeValue<'_>>) -> Spanned<Shape> {
    let shape = match value.get_ref() {
        DeValue::Table(table) => Shape::Table(Outline::of(table)),
        DeValue::Array(items) => Shape::List(items.iter().map(shape).collect()),
        _ => Shape::Plain,
    };
    Spanned::new(value.span(), shape)
}

fn read<'s>(shape: &Spanned<Shape>, text: &'s str) -> Spanned<DeValue<'s>> {
    let value = match shape.get_ref() {
        Shape::Table(outline) => DeValue::Table(outline.read(text)),
        Shape::List(items) => DeValue::Array(items.iter().map(|item| read(item, text)).collect()),
        Shape::Plain => {
            let written = text.get(shape.span()).unwrap_or_default();
            DeValue::parse_recoverable(written).0.into_inner()
        }
    };
    Spanned::new(shape.span(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_again_as_it_was() {
        let text = r#"
            "a key".b = 'lit\eral'
            "ü\"".c = """
two \
lines \u00e4"""
            list = [1_000, 0xff, -1.5e3, inf, true, ["x", { y = 0o17 }], []]
            date = 1979-05-27 07:32:00.5Z
            time = 07:32:00
            [t]
            [t.sub.deep]
            d = +1
            [[t.many]]
            e = 1
            [[t.many]]
        "#;
        let (table, errors) = DeTable::parse_recoverable(text);
        assert!(errors.is_empty(), "{errors:?}");
        let table = table.into_inner();
        // Debug shows the places too.
        let again = Outline::of(&table).read(text);
        assert_eq!(format!("{again:?}"), format!("{table:?}"));
    }
}
