//! How much of a pool one source of clients may have, and how often clients may come.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::fault::Fault;
use super::units::{Unit, Within, in_quotes, not, optional, plain};

/// The highest rate, and the largest burst. Above that, turning clients away keeps a worker
/// busy whatever the limit is.
const MOST: u32 = 1_000_000;

/// How many connections may begin in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many.
    pub count: u32,
    /// In so long.
    pub span: Duration,
    /// How many may begin at once, if none have begun for long enough.
    pub burst: u32,
}

/// What one source of clients may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSource {
    /// The most connections at a time.
    pub limit: Option<u32>,
    /// How often connections may begin.
    pub rate: Option<Rate>,
    /// How many bits of an IPv4 address name the source.
    pub ipv4: u8,
    /// How many bits of an IPv6 address name the source.
    pub ipv6: u8,
}

impl PerSource {
    const IPV4: u8 = 32;
    const IPV6: u8 = 64;
}

/// A rate alone: `"50/s"`.
struct Pace;

impl Unit for Pace {
    type Value = Rate;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rate")
    }

    fn text(text: &str) -> Result<Rate, Fault> {
        let refused = || not::<Self>(format_args!("{text:?}"));
        let hint = r#"write it like "50/s", "10/m" or "100/h""#;
        let (count, unit) = text.split_once('/').ok_or_else(|| refused().with_hint(hint))?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            _ => return Err(refused().with_hint(hint)),
        };
        // A sign is none of the digits, and nginx writes an r behind them.
        let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            return Err(refused().with_hint(hint));
        }
        let count = count.parse().ok().filter(|count| (1..=MOST).contains(count));
        let count = count
            .ok_or_else(|| refused().with_hint(format_args!("the number is from 1 to {MOST}")))?;
        Ok(Rate { count, span: Duration::from_secs(seconds), burst: count })
    }

    fn whole(number: i64) -> Result<Rate, Fault> {
        let fault = not::<Self>(number);
        Err(fault.with_hint(format_args!(r#"write "{number}/s" for a rate each second"#)))
    }
}

/// `rate` as a table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateTable {
    #[serde(deserialize_with = "plain::<Pace, _>")]
    limit: Rate,
    #[serde(default, deserialize_with = "optional::<Within<u32, 1, { MOST as i64 }>, _>")]
    burst: Option<u32>,
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct RateVisitor;

        impl<'de> Visitor<'de> for RateVisitor {
            type Value = Rate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate or a table with one")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Rate, E> {
                Pace::text(text).map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Rate, E> {
                Pace::whole(number).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rate, A::Error> {
                let RateTable { limit, burst } =
                    RateTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Rate { burst: burst.unwrap_or(limit.burst), ..limit })
            }
        }

        from.deserialize_any(RateVisitor)
    }
}

/// `per_source` as a table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PerSourceTable {
    #[serde(default, deserialize_with = "optional::<Connections, _>")]
    limit: Option<u32>,
    #[serde(default)]
    rate: Option<Rate>,
    #[serde(default, deserialize_with = "optional::<Within<u8, 1, 32>, _>")]
    ipv4: Option<u8>,
    #[serde(default, deserialize_with = "optional::<Within<u8, 1, 128>, _>")]
    ipv6: Option<u8>,
}

/// As many connections as a pool can have workers.
type Connections = Within<u32, 1, 16384>;

impl<'de> Deserialize<'de> for PerSource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct PerSourceVisitor;

        impl<'de> Visitor<'de> for PerSourceVisitor {
            type Value = PerSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of connections or a table")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<PerSource, E> {
                let limit = Connections::whole(number).map_err(E::custom)?;
                let (ipv4, ipv6) = (PerSource::IPV4, PerSource::IPV6);
                Ok(PerSource { limit: Some(limit), rate: None, ipv4, ipv6 })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PerSource, E> {
                let fault = in_quotes::<Connections>(text);
                let is_rate = Pace::text(text).is_ok();
                Err(E::custom(match is_rate {
                    true => fault.with_hint(format_args!("write {{ rate = {text:?} }}")),
                    false => fault,
                }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PerSource, A::Error> {
                let PerSourceTable { limit, rate, ipv4, ipv6 } =
                    PerSourceTable::deserialize(MapAccessDeserializer::new(map))?;
                if limit.is_none() && rate.is_none() {
                    let fault = Fault::new("the table has neither limit nor rate");
                    return Err(A::Error::custom(
                        fault.with_hint("limit is the most connections of one source"),
                    ));
                }
                Ok(PerSource {
                    limit,
                    rate,
                    ipv4: ipv4.unwrap_or(PerSource::IPV4),
                    ipv6: ipv6.unwrap_or(PerSource::IPV6),
                })
            }
        }

        from.deserialize_any(PerSourceVisitor)
    }
}

/// The text for a client that is turned away. A longer text would not fit into one segment,
/// and be cut.
pub(super) struct Refusal;

const MOST_BYTES: usize = 512;

impl Unit for Refusal {
    type Value = String;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn text(text: &str) -> Result<String, Fault> {
        match text.len() {
            0 => Err(Fault::new("the text is empty").with_hint("without the key, nothing is sent")),
            1..=MOST_BYTES => Ok(text.to_owned()),
            length => {
                Err(Fault::new(format_args!("the text has {length} bytes, more than {MOST_BYTES}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Keys {
        #[serde(default)]
        per_source: Option<PerSource>,
        #[serde(default)]
        rate: Option<Rate>,
    }

    fn read(text: &str) -> Result<Keys, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    fn rate(count: u32, seconds: u64, burst: u32) -> Option<Rate> {
        Some(Rate { count, span: Duration::from_secs(seconds), burst })
    }

    #[test]
    fn a_rate_is_a_text_or_a_table() {
        for (text, expected) in [
            ("\"50/s\"", rate(50, 1, 50)),
            ("\"10/m\"", rate(10, 60, 10)),
            ("\"1000000/h\"", rate(1_000_000, 3600, 1_000_000)),
            ("{ limit = \"5/s\", burst = 20 }", rate(5, 1, 20)),
            ("{ limit = \"5/s\" }", rate(5, 1, 5)),
        ] {
            assert_eq!(read(&format!("rate = {text}")).unwrap().rate, expected, "{text}");
        }
        let form = "is not a rate\nhint: write it like \"50/s\", \"10/m\" or \"100/h\"";
        for (text, told) in [
            ("50", "50 is not a rate\nhint: write \"50/s\" for a rate each second".to_owned()),
            ("\"50\"", format!("\"50\" {form}")),
            ("\"50r/s\"", format!("\"50r/s\" {form}")),
            ("\"+5/s\"", format!("\"+5/s\" {form}")),
            ("\"/s\"", format!("\"/s\" {form}")),
            ("\"50/d\"", format!("\"50/d\" {form}")),
            ("\"0/s\"", "\"0/s\" is not a rate\nhint: the number is from 1 to 1000000".to_owned()),
            (
                "\"99999999999/s\"",
                "\"99999999999/s\" is not a rate\nhint: the number is from 1 to 1000000".to_owned(),
            ),
        ] {
            assert_eq!(read(&format!("rate = {text}")).unwrap_err(), told, "{text}");
        }
        assert!(read("rate = { burst = 5 }").unwrap_err().contains("missing field"));
    }

    #[test]
    fn per_source_is_a_number_or_a_table() {
        let per_source = |limit, rate, ipv4, ipv6| Some(PerSource { limit, rate, ipv4, ipv6 });
        for (text, expected) in [
            ("4", per_source(Some(4), None, 32, 64)),
            ("{ limit = 4 }", per_source(Some(4), None, 32, 64)),
            ("{ limit = 4, ipv4 = 24, ipv6 = 56 }", per_source(Some(4), None, 24, 56)),
            ("{ rate = \"5/m\" }", per_source(None, rate(5, 60, 5), 32, 64)),
            (
                "{ limit = 1, rate = { limit = \"5/m\", burst = 1 } }",
                per_source(Some(1), rate(5, 60, 1), 32, 64),
            ),
        ] {
            let keys = read(&format!("per_source = {text}")).unwrap();
            assert_eq!(keys.per_source, expected, "{text}");
        }
        for (text, told) in [
            ("0", "0 is not a whole number from 1 to 16384"),
            (
                "\"4\"",
                "\"4\" is not a whole number from 1 to 16384\nhint: write it without quotes, 4",
            ),
            (
                "\"4/s\"",
                "\"4/s\" is not a whole number from 1 to 16384\nhint: write { rate = \"4/s\" }",
            ),
            (
                "{ ipv6 = 48 }",
                "the table has neither limit nor rate\nhint: limit is the most connections of one source",
            ),
            ("{ limit = 4, ipv4 = 33 }", "33 is not a whole number from 1 to 32"),
            ("{ limit = 4, ipv6 = 0 }", "0 is not a whole number from 1 to 128"),
        ] {
            assert_eq!(read(&format!("per_source = {text}")).unwrap_err(), told, "{text}");
        }
    }

    #[test]
    fn a_refusal_is_a_short_text() {
        assert_eq!(Refusal::text("421 later\r\n").unwrap(), "421 later\r\n");
        for wrong in [String::new(), "x".repeat(MOST_BYTES + 1)] {
            assert!(Refusal::text(&wrong).is_err(), "{} bytes", wrong.len());
        }
    }
}
