//! The ports of services, from the text of services(5).
#![forbid(unsafe_code)]

use std::collections::HashMap;

/// The TCP ports by name.
pub struct Ports<'t>(HashMap<&'t str, u16>);

impl<'t> Ports<'t> {
    /// Reads the file: `name port/protocol alias ...`. Of two lines with the same name the
    /// first one counts, as for getservbyname(3).
    pub fn parse(text: &'t str) -> Self {
        let mut ports = HashMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let (Some(name), Some(number)) = (words.next(), words.next()) else { continue };
            let Some((port, "tcp")) = number.split_once('/') else { continue };
            let Ok(port) = port.parse() else { continue };
            for name in [name].into_iter().chain(words) {
                ports.entry(name).or_insert(port);
            }
        }
        Ports(ports)
    }

    /// The port that is written as a number or as a name.
    ///
    /// # Errors
    ///
    /// Why there is none, for a comment.
    pub fn find(&self, name: &str) -> Result<u16, String> {
        let number = name.parse().ok().filter(|&port: &u16| port > 0);
        number
            .or_else(|| self.0.get(name).copied())
            .ok_or_else(|| format!("services(5) has no port for {name:?} over TCP"))
    }
}
