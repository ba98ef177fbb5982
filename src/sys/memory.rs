//! Memory that a process shares with its children, a page each.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The size of a page in bytes. A page larger than this on some machine would
/// let a worker keep its neighbours' words; `Pages::new` checks it.
const PAGE_BYTES: usize = 4096;

/// The words of one page.
pub type Page = [AtomicU64; PAGE_BYTES / size_of::<AtomicU64>()];

/// A run of shared pages (mmap(2), MAP_SHARED).
///
/// A page is nothing but atomic words: whatever another process writes there
/// is some number, and reading it is never undefined. Pages are backed by
/// memory only once they are touched, so a large run costs address space only.
pub struct Pages {
    start: NonNull<Page>,
    count: usize,
}

impl Pages {
    /// Maps `count` pages of zeroes.
    pub fn new(count: usize) -> io::Result<Self> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
        if page != Some(PAGE_BYTES as i64) {
            return Err(io::Error::other(format!("the page size is not {PAGE_BYTES} bytes")));
        }
        let length = count
            .checked_mul(PAGE_BYTES)
            .and_then(NonZeroUsize::new)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice
        // touches no memory that anybody holds.
        let start = unsafe {
            mmap_anonymous(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
            )
        }?;
        Ok(Pages { start: start.cast(), count })
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

    /// Gives up every page but the one at `index`; `self` is empty afterwards.
    ///
    /// This is for a child that must not reach its siblings' pages. The page
    /// stays mapped until the process ends.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn keep_only(&mut self, index: usize) -> io::Result<&'static Page> {
        assert!(index < self.count, "page {index} of {}", self.count);
        let count = std::mem::take(&mut self.count);
        // SAFETY: both parts are inside the mapping. No reference into it is
        // alive, since each borrows from `self`, and none can be made again,
        // since `self` counts no page any more; for the same reason dropping
        // it unmaps nothing, so the page kept lives as long as the process.
        unsafe {
            let kept = self.start.add(index);
            if index > 0 {
                munmap(self.start.cast(), index * PAGE_BYTES)?;
            }
            if index + 1 < count {
                munmap(kept.add(1).cast(), (count - index - 1) * PAGE_BYTES)?;
            }
            Ok(kept.as_ref())
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        // SAFETY: the mapping is ours, and no reference into it outlives self.
        // A failure would only leave address space in use.
        let _ = unsafe { munmap(self.start.cast(), self.count * PAGE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn the_page_that_is_kept_keeps_its_words() {
        let mut pages = Pages::new(8).unwrap();
        pages.page(5)[7].store(42, Relaxed);
        let kept = pages.keep_only(5).unwrap();
        assert_eq!(kept[7].load(Relaxed), 42);
    }

    #[test]
    #[should_panic = "page 8 of 8"]
    fn a_page_outside_is_refused() {
        Pages::new(8).unwrap().page(8);
    }
}
