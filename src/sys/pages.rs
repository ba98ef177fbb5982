//! Pages of memory, each shared with one other process.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc::{self, off_t};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::resource::{Resource, getrlimit};

/// The size of a page in bytes. On a machine with larger ones the mapping of a
/// page fails, which is told.
const PAGE_BYTES: usize = 4096;

/// The most pages of a file: Linux has no more processes than this (PID_MAX_LIMIT).
/// A page that nobody has touched takes no memory.
const MOST_PAGES: u64 = 1 << 22;

/// The words of a mapped page.
pub type Page = [AtomicU64; PAGE_BYTES / size_of::<AtomicU64>()];

/// A file in memory (memfd_create(2)) that holds the pages.
///
/// The side that makes it reads and writes the file and maps nothing: so
/// whatever the other side does to its page is no more than some numbers, a
/// fork has nothing to copy, and a thousand pages cost one descriptor.
///
/// Its size is sealed (F_ADD_SEALS of fcntl(2)). Were it made shorter, each process that
/// has mapped a page of it would die of SIGBUS.
#[derive(Debug)]
pub struct Pages {
    file: File,
    /// How many pages the file has.
    size: usize,
    free: RefCell<Vec<usize>>,
    /// Pages from here on were never used.
    fresh: Cell<usize>,
}

/// A page of the file. It is given back when it is dropped.
#[derive(Debug)]
pub struct SharedPage {
    pages: Rc<Pages>,
    index: usize,
}

impl Pages {
    /// A file without a page.
    pub fn new() -> io::Result<Rc<Self>> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"scoreboard", flags)?);
        // Beyond its own limit for files this process could not write.
        let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
        let size = MOST_PAGES.min(limit / PAGE_BYTES as u64);
        file.set_len(size * PAGE_BYTES as u64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let size = size as usize;
        Ok(Rc::new(Pages { file, size, free: RefCell::default(), fresh: Cell::new(0) }))
    }

    /// A page of zeroes.
    ///
    /// # Errors
    ///
    /// There is no memory for it, or all pages are taken.
    pub fn take(self: &Rc<Self>) -> io::Result<SharedPage> {
        let free = self.free.borrow_mut().pop();
        let index = match free {
            Some(index) => index,
            None if self.fresh.get() == self.size => return Err(Errno::ENOSPC.into()),
            None => self.fresh.replace(self.fresh.get() + 1),
        };
        let page = SharedPage { pages: Rc::clone(self), index };
        if free.is_some() {
            self.file.write_all_at(&[0; PAGE_BYTES], page.offset(0))?;
        }
        Ok(page)
    }
}

impl SharedPage {
    /// Reads `N` words from the word `first` on. What cannot be read is 0.
    pub fn read<const N: usize>(&self, first: usize) -> [u64; N] {
        let mut bytes = [[0; 8]; N];
        let _ = self.pages.file.read_at(bytes.as_flattened_mut(), self.offset(first));
        bytes.map(u64::from_ne_bytes)
    }

    /// Writes one word. A failure is as if the other side had not looked.
    pub fn write(&self, word: usize, value: u64) {
        let _ = self.pages.file.write_at(&value.to_ne_bytes(), self.offset(word));
    }

    /// Maps the page, for good, in the process that it is for: a child, which
    /// closes the file and has no other page.
    ///
    /// A mapping could be moved along its file to the pages of others (mremap(2),
    /// remap_file_pages(2)), so it is sealed where the kernel can (mseal(2),
    /// Linux 6.10).
    pub fn map(&self) -> io::Result<&'static Page> {
        const ONE: NonZeroUsize = NonZeroUsize::new(PAGE_BYTES).expect("not zero");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let at = off_t::try_from(self.offset(0)).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no
        // memory that anybody holds. It is never unmapped, so the reference is
        // good for as long as the process lives; any bits are valid atomics;
        // and the file has the page, for its size is sealed.
        let page = unsafe { mmap(None, ONE, access, MapFlags::MAP_SHARED, &self.pages.file, at) }?;
        // SAFETY: the range is that mapping; sealing takes nothing from us, who
        // never change it. An older kernel fails with ENOSYS.
        let _ = unsafe { libc::syscall(libc::SYS_mseal, page.as_ptr(), PAGE_BYTES, 0) };
        // SAFETY: see above.
        Ok(unsafe { page.cast().as_ref() })
    }

    fn offset(&self, word: usize) -> u64 {
        (self.index * PAGE_BYTES + word * size_of::<u64>()) as u64
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        self.pages.free.borrow_mut().push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn both_sides_see_the_same_words() {
        let pages = Pages::new().unwrap();
        let (other, page) = (pages.take().unwrap(), pages.take().unwrap());
        let mapped = page.map().unwrap();
        mapped[7].store(42, Relaxed);
        assert_eq!(page.read::<3>(6), [0, 42, 0]);
        page.write(8, 43);
        assert_eq!(mapped[8].load(Relaxed), 43);
        assert_eq!(other.read::<3>(6), [0, 0, 0]);
    }

    #[test]
    fn nobody_can_change_the_size_of_the_file() {
        let pages = Pages::new().unwrap();
        let size = pages.file.metadata().unwrap().len();
        for wrong in [0, size - 1, size + 1] {
            assert!(pages.file.set_len(wrong).is_err(), "{wrong}");
        }
        assert_eq!(pages.file.metadata().unwrap().len(), size);
    }

    #[test]
    fn a_page_that_is_taken_again_is_empty() {
        let pages = Pages::new().unwrap();
        let page = pages.take().unwrap();
        page.write(3, 9);
        drop(page);
        let again = pages.take().unwrap();
        assert_eq!((again.index, again.read::<1>(3)), (0, [0]));
        assert_eq!(pages.take().unwrap().index, 1);
    }
}
