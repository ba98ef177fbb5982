//! Storms: what the daemon has to live through many times, and not once.
//!
//! Each runs for some seconds here, on a sample that its printed seed chooses. With the
//! variable `PREFORKD_TEST_LONG` it runs whole. The storms of signals and of retirements
//! are in `nothing_lost.rs`.

mod injection;
mod master_faults;
mod reloads;
mod worker_faults;
