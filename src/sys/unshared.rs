//! Memory that children do not get (MADV_DONTFORK of madvise(2)).

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes that a fork leaves out. A child that reads them dies of SIGSEGV.
///
/// This costs a worker nothing, whereas overwriting the bytes in each child would copy
/// their pages.
#[derive(Debug)]
pub struct Unshared {
    start: NonNull<c_void>,
    length: usize,
}

impl Unshared {
    /// This many zeroes.
    pub fn zeroes(length: usize) -> io::Result<Self> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let size = NonZeroUsize::new(length).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory
        // that anybody holds.
        let start = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_PRIVATE) }?;
        let bytes = Unshared { start, length };
        bytes.advise(MmapAdvise::MADV_DONTFORK)?;
        Ok(bytes)
    }

    /// A copy of these bytes.
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        let mut copy = Unshared::zeroes(bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }

    /// Gives the bytes to the children that are forked from here on.
    ///
    /// # Errors
    ///
    /// The error of madvise(2).
    pub fn share(&self) -> io::Result<()> {
        self.advise(MmapAdvise::MADV_DOFORK)
    }

    /// No longer gives the bytes to children.
    pub fn unshare(&self) {
        // This cannot fail, because the kernel has nothing to allocate for it.
        let _ = self.advise(MmapAdvise::MADV_DONTFORK);
    }

    /// The address of the bytes.
    pub fn start(&self) -> NonNull<c_void> {
        self.start
    }

    fn advise(&self, advice: MmapAdvise) -> io::Result<()> {
        // SAFETY: the range is our mapping, and neither advice changes what is in it.
        Ok(unsafe { madvise(self.start, self.length.max(1), advice) }?)
    }
}

impl Deref for Unshared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is ours, readable, and as long as that; no other reference
        // writes to it while `self` is borrowed.
        unsafe { slice::from_raw_parts(self.start.cast().as_ptr(), self.length) }
    }
}

impl DerefMut for Unshared {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed by nobody else.
        unsafe { slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.length) }
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody borrows it any more.
        let _ = unsafe { munmap(self.start, self.length.max(1)) };
    }
}
