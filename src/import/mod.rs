//! Moving over: pools for what the files of inetd and xinetd have.
//!
//! From text to text, and pure except `files.rs`. A setting without a counterpart becomes a
//! comment. A service that would be open to more clients than before becomes a pool that is
//! commented out. Only a file that cannot be read, or not in its format, is a failure.
#![forbid(unsafe_code)]

mod attributes;
mod draft;
mod files;
mod inetd;
mod peers;
mod ports;
#[cfg(test)]
mod tests;
mod xinetd;

use crate::config::{Problems, Source};

use draft::render;
pub use files::gather;
use ports::Ports;

/// What comes before the pools.
const HEAD: &str = "\
# Made by `preforkd import`. Put it into /etc/preforkd/pool.d/NAME.toml, read it, and try
# it with `preforkd check`. inetd and xinetd may consult /etc/hosts.allow and
# /etc/hosts.deny (hosts_access(5)). preforkd does not: use `allow` and `deny`, or run the
# program by tcpd(8).
";

/// Pools for these files, as a configuration. `services` is the text of services(5), which
/// has the ports.
///
/// # Errors
///
/// Every line that cannot be understood, with its place.
pub fn import(originals: &[Source], services: &str) -> Result<String, Problems> {
    let ports = Ports::parse(services);
    let mut problems = Vec::new();
    let mut entries = Vec::new();
    for original in originals.iter().filter(|source| !xinetd::is_of_xinetd(source.text())) {
        entries.extend(inetd::read(original, &ports, &mut problems));
    }
    let blocks: Vec<_> = originals
        .iter()
        .filter(|source| xinetd::is_of_xinetd(source.text()))
        .flat_map(|source| xinetd::parse(source, &mut problems))
        .collect();
    entries.extend(attributes::entries(&blocks, &ports));
    let rendered = render(entries);
    Problems::unless_empty(problems, format!("{HEAD}{rendered}"))
}
