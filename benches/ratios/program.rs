//! The program that the exec service is measured with.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

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
pub fn build(directory: &Path) -> Result<PathBuf> {
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
