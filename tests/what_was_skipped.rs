//! The last word of `cargo test`: how many tests were skipped, and why. Cargo runs the
//! binaries in the order of their names, and this one prints what the others have noted.

use std::io::Write;

fn main() {
    // `cargo test -- --list` asks for tests, and there is none here.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    // There is nothing to do about an output that is gone.
    let _ = write!(std::io::stdout(), "\n{}", support::skipped::tell());
}
