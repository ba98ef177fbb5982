//! Which service a pool runs, and the options that the service reads for itself.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Problem, Problems, Source};
use super::fault::Fault;
use super::outline::Outline;
use super::reader::{Table, dotted};

/// A service by its name, with its options.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceChoice {
    /// The name, as in `service = "echo"` or `service.echo = {}`.
    pub name: Spanned<String>,
    /// The options; empty for the bare name.
    pub options: Options,
}

impl<'de> Deserialize<'de> for ServiceChoice {
    /// Reads the name alone: what the options mean, only the service knows.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let choice = Spanned::<Choice>::deserialize(from)?;
        let span = choice.span();
        let name = match choice.into_inner() {
            Choice::Name(name) => Spanned::new(span, name),
            Choice::Table(name) => name,
        };
        Ok(ServiceChoice { name, options: Options::default() })
    }
}

enum Choice {
    Name(String),
    Table(Spanned<String>),
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ChoiceVisitor;

        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = Choice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a service or a table with one")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Choice, E> {
                Ok(Choice::Name(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Choice, A::Error> {
                let Some(name) = map.next_key::<Spanned<String>>()? else {
                    return Err(A::Error::custom("no service is named"));
                };
                map.next_value::<AnyTable>()?;
                if let Some(other) = map.next_key::<String>()? {
                    let message = format!("both {:?} and {other:?} are named", name.get_ref());
                    return Err(A::Error::custom(
                        Fault::new(message).with_hint("a pool has one service"),
                    ));
                }
                Ok(Choice::Table(name))
            }
        }

        from.deserialize_any(ChoiceVisitor)
    }
}

/// A table whose content is read elsewhere.
#[derive(Default)]
pub(super) struct AnyTable;

impl<'de> Deserialize<'de> for AnyTable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TableVisitor;

        impl<'de> Visitor<'de> for TableVisitor {
            type Value = AnyTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyTable, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(AnyTable)
            }
        }

        from.deserialize_any(TableVisitor)
    }
}

/// The options of a service, which the service itself gives a type.
///
/// Two are equal if they say the same, wherever they stand.
#[derive(Clone, Debug, Default)]
pub struct Options {
    source: Arc<Source>,
    pool: String,
    service: String,
    /// Where the name of the service stands.
    at: Range<usize>,
    outline: Outline,
    /// What they say, in one form; for comparing.
    said: String,
}

impl Options {
    /// The options of the service `name` of the pool `pool`, whose table is `values`.
    pub(super) fn new(
        source: &Arc<Source>,
        pool: &str,
        values: &DeTable<'_>,
        name: &Spanned<String>,
    ) -> Self {
        let (mut outline, mut said) = (Outline::default(), String::new());
        if let Some(values) = options_in(values, name.get_ref()) {
            outline = Outline::of(values);
            say_table(values, &mut said);
        }
        Options {
            source: Arc::clone(source),
            pool: pool.to_owned(),
            service: name.get_ref().clone(),
            at: name.span(),
            outline,
            said,
        }
    }

    /// The options as a `T`, or everything that is wrong with them.
    ///
    /// `T` should deny unknown fields. A check of its own may fail with a
    /// [`Fault`], which carries a hint and the key that is at fault.
    ///
    /// # Errors
    ///
    /// Every problem, at its place in the file.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Problems> {
        let mut problems = Vec::new();
        let (path, values) = (self.path(), self.outline.read(self.source.text()));
        let table =
            Table { source: &self.source, path: &path, at: self.at.clone(), values: &values };
        match table.read(&mut problems) {
            Some(options) => Problems::unless_empty(problems, options),
            None => Err(problems.into()),
        }
    }

    /// A problem with the value of `key`, or with the service if that is absent;
    /// an empty `key` is the choice of the service itself.
    pub fn problem(&self, key: &str, message: impl fmt::Display) -> Problem {
        let at = self.outline.place(key);
        let path = match key {
            "" => dotted("pool", [self.pool.as_str(), "service"]),
            key => dotted(&self.path(), [key]),
        };
        self.source.problem(path, at.unwrap_or(self.at.clone()), message)
    }

    /// Forgets them, and gives what they said.
    pub(super) fn forget(&mut self) -> String {
        self.source = Arc::default();
        self.outline = Outline::default();
        std::mem::take(&mut self.said)
    }

    fn path(&self) -> String {
        dotted("pool", [&self.pool, "service", &self.service])
    }
}

impl PartialEq for Options {
    fn eq(&self, other: &Self) -> bool {
        self.said == other.said
    }
}

/// The options of `service` in the table of a pool; none for the bare name.
fn options_in<'t, 'i>(pool: &'t DeTable<'i>, service: &str) -> Option<&'t DeTable<'i>> {
    let services = pool.get("service")?.get_ref().as_table()?;
    services.get(service)?.get_ref().as_table()
}

/// Writes a table so that two texts are equal if the tables are. toml keeps the
/// keys sorted.
fn say_table(table: &DeTable<'_>, said: &mut String) {
    for (key, value) in table.iter() {
        said.push_str(&format!("{:?}=", key.get_ref().as_ref()));
        say(value.get_ref(), said);
    }
}

fn say(value: &DeValue<'_>, said: &mut String) {
    match value {
        DeValue::String(text) => said.push_str(&format!("{:?}", text.as_ref())),
        DeValue::Integer(number) => said.push_str(&number.to_string()),
        DeValue::Float(number) => said.push_str(number.as_str()),
        DeValue::Boolean(truth) => said.push_str(&truth.to_string()),
        DeValue::Datetime(time) => said.push_str(&time.to_string()),
        DeValue::Array(items) => {
            said.push('[');
            items.iter().for_each(|item| say(item.get_ref(), said));
            said.push(']');
        }
        DeValue::Table(table) => {
            said.push('{');
            say_table(table, said);
            said.push('}');
        }
    }
    said.push(',');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{pool, pools};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Exec {
        command: Vec<String>,
        #[serde(default)]
        retries: u8,
    }

    fn options(lines: &str) -> Options {
        let text = format!("[pool.a]\nlisten = \"@a\"\n{lines}\n");
        pool(&text).service.options
    }

    /// The problems as they are printed, without the path of the file.
    fn problems(lines: &str) -> Vec<String> {
        let problems = options(lines).parse::<Exec>().unwrap_err();
        let told = problems.iter().map(|p| {
            let (line, col) = (p.line().unwrap(), p.col().unwrap());
            format!("{line}:{col} {} {} {:?}", p.key(), p.message(), p.hint())
        });
        told.collect()
    }

    #[test]
    fn options_become_a_type() {
        let expected = Exec { command: vec!["cat".to_owned()], retries: 2 };
        let cases = [
            "service.exec.command = [\"cat\"]\nservice.exec.retries = 2",
            "service = { exec = { command = [\"cat\"], retries = 2 } }",
            "[pool.a.service.exec]\ncommand = [\"cat\"]\nretries = 2",
        ];
        for lines in cases {
            assert_eq!(options(lines).parse::<Exec>().unwrap(), expected, "{lines}");
        }
    }

    #[test]
    fn everything_wrong_with_options_is_told() {
        assert_eq!(
            problems("service = \"exec\""),
            ["3:11  missing key \"command\" in pool.a.service.exec None"]
        );
        assert_eq!(
            problems("service.exec.comand = []\nservice.exec.retries = 256"),
            [
                "3:9  missing key \"command\" in pool.a.service.exec None",
                "3:14  unknown key \"comand\" in pool.a.service.exec Some(\"did you mean \\\"command\\\"?\")",
                "4:24 pool.a.service.exec.retries 256 is not a whole number from 0 to 255 None",
            ]
        );
        assert_eq!(
            problems("service.exec.command = [\"a\", [5]]"),
            ["3:30 pool.a.service.exec.command [5] is not a string None"]
        );
    }

    // So many that to parse the file for each of them would keep this test for
    // many minutes.
    #[test]
    fn a_pool_among_many_has_its_options() {
        let pool =
            |at| format!("[pool.p{at}]\nlisten = \"@{at}\"\nservice.exec.command = [\"{at}\"]\n");
        let pools = pools(&(0..5000).map(pool).collect::<String>());
        assert_eq!(pools.len(), 5000);
        for pool in pools {
            let command = vec![pool.name[1..].to_owned()];
            let options = pool.service.options.parse::<Exec>().unwrap();
            assert_eq!(options, Exec { command, retries: 0 });
        }
    }

    #[test]
    fn a_problem_stands_at_the_value_or_at_the_name() {
        let options = options("service.exec.command = []");
        let place = |problem: Problem| (problem.line(), problem.col());
        assert_eq!(place(options.problem("command", "x")), (Some(3), Some(24)));
        assert_eq!(place(options.problem("root", "x")), (Some(3), Some(9)));
        assert_eq!(options.problem("root", "x").key(), "pool.a.service.exec.root");
    }

    #[test]
    fn options_are_told_apart() {
        let all = [
            "{ a = 1 }",
            "{ a = \"1\" }",
            "{ a = [1] }",
            "{ a = {} }",
            "{ a = 1.0 }",
            "{}",
            "{ a = [[], 1] }",
            "{ a = [[1]] }",
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                let options = |table: &str| options(&format!("service.x = {table}"));
                assert_eq!(options(one) == options(other), at == other_at, "{one} {other}");
            }
        }
        assert_eq!(options("service = \"x\""), options("service.x = {}"));
    }
}
