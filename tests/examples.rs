//! The unit tests of the examples. Cargo does not build a program of `examples/` whose
//! tests it runs, and other tests need the programs.

#[expect(dead_code, reason = "the daemon runs elsewhere")]
#[path = "../examples/hello.rs"]
mod hello;
#[expect(dead_code, reason = "the daemon runs elsewhere")]
#[path = "../examples/lines.rs"]
mod lines;
