//! The figures of the exec service, and the program that it is measured with.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::cores::Cores;
use crate::daemon::{Floor, Job, Service};
use crate::figures::{Bench, WORKERS};
use crate::load::Manner;
use crate::table::{Row, Target};
use crate::turns::{Load, Outcome};

/// On all cores: a program runs next to the client that waits for it, and its start is so
/// much work that the scheduler's share is small.
fn with_programs(
    bench: &Bench,
    manner: Manner,
    stderr: Option<&'static str>,
    floor: Floor,
) -> Result<Outcome> {
    let program = build(&bench.directory)?;
    let service = Service::Exec { program, stderr, floor };
    let load = Load { manner, clients: 8, cores: Cores::All };
    Outcome::measure(bench, &Job { service, ..Job::echo(WORKERS) }, load)
}

/// What a bare loop by posix_spawn(3) is beaten by.
const OVER_SPAWN: Target = Target::RatioAtLeast(1.05);
/// What is left of the least that starts a program.
const OVER_VFORK: Target = Target::RatioAtLeast(0.97);

/// A program for each connection.
pub fn exec(bench: &Bench) -> Result<Vec<Row>> {
    let load = |stderr, floor| with_programs(bench, Manner::Once, stderr, floor);
    let (spawn, vfork) = (Floor::PosixSpawn, Floor::Vfork);
    Ok(vec![
        load(None, spawn)?.rate("exec of a static program, 8 clients", OVER_SPAWN),
        load(Some("null"), spawn)?.rate("  with stderr = \"null\"", OVER_SPAWN),
        load(Some("null"), vfork)?.rate("  the same, over vfork and exec", OVER_VFORK),
    ])
}

/// The end of a connection: the client says nothing more, and waits until the end of its
/// program closes the connection.
pub fn close(bench: &Bench) -> Result<Vec<Row>> {
    let load = |stderr, floor| with_programs(bench, Manner::UntilClosed, stderr, floor);
    let (spawn, vfork) = (Floor::PosixSpawn, Floor::Vfork);
    Ok(vec![
        load(None, spawn)?.rate("exec until the program's end closes, 8 clients", OVER_SPAWN),
        load(Some("null"), vfork)?
            .rate("  with stderr = \"null\", over vfork and exec", OVER_VFORK),
    ])
}

/// As little as a program can do for its client: send back 64 bytes and leave. Static and
/// without stdio, so that starting it costs what exec costs and no dynamic linker.
const SOURCE: &str = r"
#include <unistd.h>

int main(void)
{
    char message[64];
    size_t have = 0;
    ssize_t count;

    while (have < sizeof message
           && (count = read(0, message + have, sizeof message - have)) > 0)
        have += count;
    return write(1, message, have) == (ssize_t)have ? 0 : 1;
}
";

/// Compiles the program into `directory` and tells its path.
fn build(directory: &Path) -> Result<PathBuf> {
    let source = directory.join("answer.c");
    let program = directory.join("answer");
    std::fs::write(&source, SOURCE)?;
    let status = Command::new("cc")
        .args(["-static", "-O2", "-o"])
        .arg(&program)
        .arg(&source)
        .status()
        .map_err(|reason| format!("could not run program \"cc\": {reason}"))?;
    if status.success() {
        Ok(program)
    } else {
        Err(format!("could not compile program \"{}\": {status}", source.display()).into())
    }
}
