//! Files in memory (memfd_create(2)), and mappings of them for children.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::slice;
use std::sync::atomic::AtomicU64;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc::{self, off_t};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::resource::{Resource, getrlimit};

/// A file in memory, of zeroes at first. Pages that nobody has touched use no memory.
///
/// The process that makes it reads and writes it, and maps nothing. So a fork has nothing
/// to copy, and whatever others write to their mappings is only some numbers.
///
/// Its size is sealed (F_ADD_SEALS of fcntl(2)). If somebody shortened it, each process
/// that has mapped one of its pages would die of SIGBUS.
#[derive(Debug)]
pub(super) struct Memory {
    file: File,
    bytes: u64,
}

impl Memory {
    /// A file of this many bytes.
    pub fn new(name: &CStr, bytes: u64) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(name, flags)?);
        file.set_len(bytes)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Memory { file, bytes })
    }

    /// The size of the largest file that this process may write.
    pub fn most_bytes() -> io::Result<u64> {
        Ok(getrlimit(Resource::RLIMIT_FSIZE)?.0)
    }

    /// Reads bytes from the byte `at` on.
    pub fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(bytes, at)
    }

    /// Writes bytes from the byte `at` on.
    pub fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// Maps this many words from the byte `at` on, which is a multiple of the page size.
    /// The mapping is permanent, in a child, which closes the file.
    ///
    /// A mapping could be moved along its file to foreign pages (mremap(2),
    /// remap_file_pages(2)). So it is sealed where the kernel can (mseal(2), Linux 6.10).
    pub fn map(&self, at: u64, words: usize) -> io::Result<&'static [AtomicU64]> {
        let bytes = words * size_of::<AtomicU64>();
        let is_inside = at.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes);
        let size = NonZeroUsize::new(bytes).filter(|_| is_inside);
        let size = size.ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let at = off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory
        // that anybody holds.
        let start = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, &self.file, at) }?;
        // SAFETY: the range is that mapping, which this process never changes. An older
        // kernel fails with ENOSYS.
        let _ = unsafe { libc::syscall(libc::SYS_mseal, start.as_ptr(), bytes, 0) };
        // SAFETY: the mapping is never unmapped, so the reference is good for as long as
        // the process lives; any bits are valid atomics; it begins at a page, so it is
        // aligned; and the file has all of it, for its size is sealed.
        Ok(unsafe { slice::from_raw_parts(start.cast().as_ptr(), words) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_change_the_size_of_the_file() {
        let memory = Memory::new(c"test", 8192).unwrap();
        for wrong in [0, 8191, 8193] {
            assert!(memory.file.set_len(wrong).is_err(), "{wrong}");
        }
        assert_eq!(memory.file.metadata().unwrap().len(), 8192);
    }

    #[test]
    fn what_is_not_in_the_file_is_not_mapped() {
        let memory = Memory::new(c"test", 8192).unwrap();
        assert_eq!(memory.map(4096, 512).unwrap().len(), 512);
        for (at, words) in [(4096, 513), (8192, 1), (0, 0), (u64::MAX, 1), (1, 1)] {
            assert!(memory.map(at, words).is_err(), "{at} {words}");
        }
    }
}
