//! Memory that a process shares with its children, a page each.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::libc::off_t;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::unistd::ftruncate;

/// The size of a page in bytes. A page larger than this on some machine would
/// let a worker keep its neighbours' words; `Pages::new` checks it.
const PAGE_BYTES: usize = 4096;

/// The words of one page.
pub type Page = [AtomicU64; PAGE_BYTES / size_of::<AtomicU64>()];

/// A run of shared pages: a file in memory (memfd_create(2)) that this process
/// maps whole and a child only in part.
///
/// A page is nothing but atomic words: whatever another process writes there
/// is some number, and reading it is never undefined. Pages are backed by
/// memory only once they are touched, so a large run costs address space only.
pub struct Pages {
    file: OwnedFd,
    start: NonNull<Page>,
    count: usize,
}

impl Pages {
    /// Makes `count` pages of zeroes. A child does not inherit the mapping
    /// (MADV_DONTFORK), see [`Pages::map_one`].
    pub fn new(count: usize) -> io::Result<Self> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
        if page != Some(PAGE_BYTES as i64) {
            return Err(io::Error::other(format!("the page size is not {PAGE_BYTES} bytes")));
        }
        let bytes = count.checked_mul(PAGE_BYTES).and_then(NonZeroUsize::new);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        let file = memfd_create(c"scoreboard", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&file, offset(bytes.get())?)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches
        // no memory that anybody holds. The file is never made shorter.
        let start = unsafe { mmap(None, bytes, READ_WRITE, MapFlags::MAP_SHARED, &file, 0) }?;
        let pages = Pages { file, start: start.cast(), count };
        // SAFETY: the range is that mapping; the advice concerns children only.
        unsafe { madvise(start, bytes.get(), MmapAdvise::MADV_DONTFORK) }?;
        Ok(pages)
    }

    /// Drops what this process has of the pages in its page table; they stay
    /// in the file, and come back when they are touched.
    pub fn let_go(&self) {
        // SAFETY: the mapping is shared, so this loses nothing (madvise(2) on
        // MADV_DONTNEED), and it stays mapped. A failure costs memory only.
        let _ = unsafe { madvise(self.start.cast(), self.bytes(), MmapAdvise::MADV_DONTNEED) };
    }

    fn bytes(&self) -> usize {
        self.count * PAGE_BYTES
    }

    /// The page at `index`.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn page(&self, index: usize) -> &Page {
        assert!(index < self.count, "page {index} of {}", self.count);
        // SAFETY: the index is inside the mapping, which is page-aligned,
        // lives as long as self, and holds atomics for which any bits are valid.
        unsafe { self.start.add(index).as_ref() }
    }

    /// Maps one page for good, in a child that is to have no other; `self` is
    /// empty afterwards.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn map_one(&mut self, index: usize) -> io::Result<&'static Page> {
        assert!(index < self.count, "page {index} of {}", self.count);
        // In a child the whole is not mapped: nothing of it may be touched, and
        // nothing unmapped.
        self.count = 0;
        const ONE: NonZeroUsize = NonZeroUsize::new(PAGE_BYTES).expect("not zero");
        let at = offset(index * PAGE_BYTES)?;
        // SAFETY: a new mapping, as in `new`. It is never unmapped, so the
        // reference is good for as long as the process lives.
        unsafe {
            Ok(mmap(None, ONE, READ_WRITE, MapFlags::MAP_SHARED, &self.file, at)?.cast().as_ref())
        }
    }
}

const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

fn offset(bytes: usize) -> io::Result<off_t> {
    off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.count > 0 {
            // SAFETY: the mapping is ours, and no reference into it outlives
            // self. A failure would only leave address space in use.
            let _ = unsafe { munmap(self.start.cast(), self.bytes()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn one_page_has_the_words_of_the_whole() {
        let mut pages = Pages::new(8).unwrap();
        pages.page(5)[7].store(42, Relaxed);
        let kept = pages.map_one(5).unwrap();
        assert_eq!(kept[7].load(Relaxed), 42);
    }

    #[test]
    #[should_panic = "page 8 of 8"]
    fn a_page_outside_is_refused() {
        Pages::new(8).unwrap().page(8);
    }
}
