//! Pages of memory, each shared with one other process.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;

use super::memory::Memory;

/// The size of a page in bytes. On a machine with larger pages the mapping fails, and the
/// failure is reported.
const PAGE_BYTES: usize = 4096;

/// The most pages of a file: the most processes that Linux can have (PID_MAX_LIMIT). A page
/// that nobody has touched uses no memory.
const MOST_PAGES: u64 = 1 << 22;

const PAGE_WORDS: usize = PAGE_BYTES / size_of::<AtomicU64>();

/// The words of a mapped page.
pub type Page = [AtomicU64; PAGE_WORDS];

/// A file in memory that holds the pages: a thousand of them cost one descriptor.
#[derive(Debug)]
pub struct Pages {
    memory: Memory,
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
        // This process could not write beyond its own limit for files.
        let size = MOST_PAGES.min(Memory::most_bytes()? / PAGE_BYTES as u64);
        let memory = Memory::new(c"scoreboard", size * PAGE_BYTES as u64)?;
        let size = size as usize;
        Ok(Rc::new(Pages { memory, size, free: RefCell::default(), fresh: Cell::new(0) }))
    }

    /// A page of zeroes.
    ///
    /// # Errors
    ///
    /// There is no memory for the page, or all pages are taken.
    pub fn take(self: &Rc<Self>) -> io::Result<SharedPage> {
        let free = self.free.borrow_mut().pop();
        let index = match free {
            Some(index) => index,
            None if self.fresh.get() == self.size => return Err(Errno::ENOSPC.into()),
            None => self.fresh.replace(self.fresh.get() + 1),
        };
        let page = SharedPage { pages: Rc::clone(self), index };
        if free.is_some() {
            self.memory.write(&[0; PAGE_BYTES], page.offset(0))?;
        }
        Ok(page)
    }
}

impl SharedPage {
    /// Reads `N` words from the word `first` on. If the read fails, they are 0.
    pub fn read<const N: usize>(&self, first: usize) -> [u64; N] {
        let mut bytes = [[0; 8]; N];
        let _ = self.pages.memory.read(bytes.as_flattened_mut(), self.offset(first));
        bytes.map(u64::from_ne_bytes)
    }

    /// Writes one word. After a failure the other side just does not see the word.
    pub fn write(&self, word: usize, value: u64) {
        let _ = self.pages.memory.write(&value.to_ne_bytes(), self.offset(word));
    }

    /// Maps the page permanently in its process, a child that has no other page.
    pub fn map(&self) -> io::Result<&'static Page> {
        let words = self.pages.memory.map(self.offset(0), PAGE_WORDS)?;
        words.try_into().map_err(|_| io::ErrorKind::InvalidInput.into())
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
