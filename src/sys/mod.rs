//! The only unsafe code: the calls to the kernel that no safe crate wraps.
//!
//! Each file is one concept of the kernel. Every `unsafe` block names the contract it
//! enters and the fact that meets it. Nothing here knows what a pool is. Only [`handler`],
//! [`notice`] and [`family`] are about workers.

pub mod clock;
pub mod descriptor;
pub mod family;
pub mod fork;
pub mod handler;
pub mod identity;
pub mod listener;
mod memory;
pub mod notice;
pub mod pages;
pub mod place;
pub mod ports;
pub mod process;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod unshared;
pub mod wait;
pub mod wipe;
pub mod words;
