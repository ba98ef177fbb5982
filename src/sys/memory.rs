//! Memory that a process shares with its children, a page each.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// The size of a page in bytes. A page larger than this on some machine would
/// let a worker keep its neighbours' words; `Pages::new` checks it.
const PAGE_BYTES: usize = 4096;

/// The words of one page.
pub type Page = [AtomicU64; PAGE_BYTES / size_of::<AtomicU64>()];

/// A run of pages, each of which this process can share with one child.
///
/// A page is nothing but atomic words: whatever another process writes there
/// is some number, and reading it is never undefined.
///
/// Each is an object of its own in the kernel. Were they parts of one, a child
/// could reach the others from its own (mremap(2), remap_file_pages(2)). Only
/// the page that is being shared is inherited at a fork (MADV_DONTFORK); so the
/// others are not there in a child, and cost the fork nothing.
pub struct Pages {
    start: NonNull<Page>,
    /// How many there is room for.
    room: usize,
    /// How many there are.
    count: usize,
}

impl Pages {
    /// Room for so many pages. It is address space only.
    pub fn with_room_for(room: usize) -> io::Result<Self> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
        if page != Some(PAGE_BYTES as i64) {
            return Err(io::Error::other(format!("the page size is not {PAGE_BYTES} bytes")));
        }
        let bytes = room.checked_mul(PAGE_BYTES).and_then(NonZeroUsize::new);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches
        // no memory that anybody holds.
        let start = unsafe {
            mmap_anonymous(
                None,
                bytes,
                ProtFlags::PROT_NONE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        let pages = Pages { start: start.cast(), room, count: 0 };
        // SAFETY: the range is that mapping; the advice concerns children only.
        unsafe { madvise(start, bytes.get(), MmapAdvise::MADV_DONTFORK) }?;
        Ok(pages)
    }

    /// Makes one more page, of zeroes, and gives its index; None if there is
    /// no more room.
    pub fn add(&mut self) -> io::Result<Option<usize>> {
        if self.count == self.room {
            return Ok(None);
        }
        const ONE: NonZeroUsize = NonZeroUsize::new(PAGE_BYTES).expect("not zero");
        // SAFETY: the address is inside our own mapping, at a page to which no
        // reference exists, since there is no page of that index yet.
        let (address, page) = unsafe {
            let address = self.start.add(self.count).cast();
            let page = mmap_anonymous(
                NonZeroUsize::new(address.addr().get()),
                ONE,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
            )?;
            (address, page)
        };
        debug_assert_eq!(address, page);
        let index = self.count;
        self.count += 1;
        self.share(index, false)?;
        Ok(Some(index))
    }

    /// Says whether the next fork shares the page at `index`.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn share(&self, index: usize, shared: bool) -> io::Result<()> {
        let advice = if shared { MmapAdvise::MADV_DOFORK } else { MmapAdvise::MADV_DONTFORK };
        let page = NonNull::from(self.page(index));
        // SAFETY: the range is one page of ours; the advice concerns children
        // only.
        Ok(unsafe { madvise(page.cast(), PAGE_BYTES, advice) }?)
    }

    /// The page at `index`.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn page(&self, index: usize) -> &Page {
        assert!(index < self.count, "page {index} of {}", self.count);
        // SAFETY: the index is that of a page that was mapped, which is
        // aligned, lives as long as self, and holds atomics for which any bits
        // are valid.
        unsafe { self.start.add(index).as_ref() }
    }

    /// In a child that shares the page at `index`: that page. It stays for as
    /// long as the process lives; `self` is empty afterwards, as the child's
    /// memory is.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn keep_only(&mut self, index: usize) -> &'static Page {
        let page = NonNull::from(self.page(index));
        self.count = 0;
        self.room = 0;
        // SAFETY: `self` counts nothing any more, so dropping it unmaps
        // nothing, and the page stays mapped for good.
        unsafe { page.as_ref() }
    }

    /// Drops what this process has of the pages in its page table. They stay,
    /// and come back when they are touched.
    pub fn let_go(&self) {
        // SAFETY: these are the pages that were mapped; they are shared, so
        // this loses nothing (madvise(2) on MADV_DONTNEED), and they stay
        // mapped. A failure costs memory only.
        let _ = unsafe {
            madvise(self.start.cast(), self.count * PAGE_BYTES, MmapAdvise::MADV_DONTNEED)
        };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.room > 0 {
            // SAFETY: the mapping is ours, and no reference into it outlives
            // self. A failure would only leave address space in use.
            let _ = unsafe { munmap(self.start.cast(), self.room * PAGE_BYTES) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    fn eight() -> Pages {
        let mut pages = Pages::with_room_for(8).unwrap();
        for index in 0..8 {
            assert_eq!(pages.add().unwrap(), Some(index));
        }
        pages
    }

    #[test]
    fn the_page_that_is_kept_keeps_its_words() {
        let mut pages = eight();
        pages.page(5)[7].store(42, Relaxed);
        pages.let_go();
        assert_eq!(pages.keep_only(5)[7].load(Relaxed), 42);
    }

    #[test]
    fn there_is_no_more_than_there_is_room_for() {
        assert_eq!(eight().add().unwrap(), None);
    }

    #[test]
    #[should_panic = "page 8 of 8"]
    fn a_page_outside_is_refused() {
        eight().page(8);
    }
}
