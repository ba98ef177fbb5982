//! What the listener of a TCP address is to be like.
#![forbid(unsafe_code)]

/// The options of a TCP listener; its connections have some of them from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Whether clients over IPv4 are left to another listener; `None` is as the system has it
    /// (net.ipv6.bindv6only).
    pub ipv6_only: Option<bool>,
}
