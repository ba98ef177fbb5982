//! The numbers of ports that have names (services(5)).

use std::ffi::CStr;
use std::io;
use std::ptr;

use nix::libc;

/// The number of the TCP port of this name. getaddrinfo(3) may be called from any thread, as
/// getservbyname(3) may not.
///
/// # Errors
///
/// There is none, or the database cannot be read.
pub fn by_name(name: &CStr) -> io::Result<u16> {
    let hints = libc::addrinfo {
        ai_flags: libc::AI_PASSIVE,
        ai_family: libc::AF_INET,
        ai_socktype: libc::SOCK_STREAM,
        ai_protocol: 0,
        ai_addrlen: 0,
        ai_addr: ptr::null_mut(),
        ai_canonname: ptr::null_mut(),
        ai_next: ptr::null_mut(),
    };
    let mut found: *mut libc::addrinfo = ptr::null_mut();
    // SAFETY: the name is a C string and the hints are a struct, both live during the call;
    // the result goes to a live local.
    let code = unsafe { libc::getaddrinfo(ptr::null(), name.as_ptr(), &hints, &mut found) };
    match code {
        0 => {}
        libc::EAI_SYSTEM => return Err(io::Error::last_os_error()),
        libc::EAI_SERVICE | libc::EAI_NONAME => return Err(io::Error::other("no such service")),
        other => return Err(io::Error::other(format!("the look-up failed with code {other}"))),
    }
    // SAFETY: on success there is at least one entry, and for AF_INET its address is a
    // sockaddr_in.
    let port = unsafe { (*(*found).ai_addr.cast::<libc::sockaddr_in>()).sin_port };
    // SAFETY: getaddrinfo has made the list, and nobody else frees it.
    unsafe { libc::freeaddrinfo(found) };
    Ok(u16::from_be(port))
}
