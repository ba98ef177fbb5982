//! Checks ahead of a start: above all a child looks up users and groups.
//!
//! For its user database the C library loads further libraries (nsswitch.conf(5)), and
//! keeps them. In the master they would be mappings that each fork must copy.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::path::Path;

use crate::accounts::{self, Found};
use crate::config::{self, Config};
use crate::log::event::Event;
use crate::pool::Blueprint;
use crate::sys::fork::{self, Fork, fork};
use crate::sys::wait::reap;

use super::plan;

/// Looks up the users and groups that the pools name. If that fails, the master repeats the
/// look-up later, and reports the reason.
pub fn look_up(config: &Config) {
    if let Ok(answer) = ask(config)
        && let Ok(found) = toml::from_str(&answer)
    {
        accounts::remember(found);
    }
}

/// The files that the user most likely wanted to include.
pub fn strays(file: &Path) -> impl Iterator<Item = Event> {
    config::strays(file).into_iter().map(|stray| Event::FileNotIncluded {
        file: stray.display().to_string(),
        reason: "no pattern of include matches its name".to_owned(),
    })
}

fn ask(config: &Config) -> io::Result<String> {
    let (mut ours, its) = io::pipe()?;
    match fork()? {
        Fork::Parent(pid) => {
            drop(its);
            let mut answer = String::new();
            let read = ours.read_to_string(&mut answer);
            reap(pid)?;
            read.map(|_| answer)
        }
        Fork::Child => answer(config, its),
    }
}

/// The child.
fn answer(config: &Config, mut master: io::PipeWriter) -> ! {
    accounts::remember(Found::default());
    config.pools.iter().for_each(Blueprint::look_up);
    // The master repeats this, and then reports faults.
    let _ = plan::number_ports(&mut config.clone());
    let answer = toml::to_string(&accounts::found()).unwrap_or_default();
    // If this fails, the end of the pipe says enough.
    let _ = master.write_all(answer.as_bytes());
    fork::leave(0)
}
