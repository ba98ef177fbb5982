//! Words of memory that the master shares with all workers of a pool.

use std::io;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;

use super::memory::Memory;

const WORD_BYTES: usize = size_of::<u64>();

/// Some words, all of them 0 at first. The process that makes them maps none of them.
#[derive(Debug)]
pub struct Words {
    memory: Memory,
    count: usize,
}

impl Words {
    /// This many words.
    ///
    /// # Errors
    ///
    /// There is no memory, or this process may not make a file of this size.
    pub fn new(count: usize) -> io::Result<Self> {
        let bytes = (count * WORD_BYTES) as u64;
        if bytes > Memory::most_bytes()? {
            return Err(Errno::EFBIG.into());
        }
        Ok(Words { memory: Memory::new(c"ledger", bytes)?, count })
    }

    /// Writes words from `first` on. After a failure the workers just do not see them.
    pub fn write(&self, first: usize, values: &[u64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let _ = self.memory.write(&bytes, (first * WORD_BYTES) as u64);
    }

    /// Reads the word at `index`. If the read fails, it is 0.
    #[cfg(test)]
    pub fn read(&self, index: usize) -> u64 {
        let mut bytes = [0; WORD_BYTES];
        let _ = self.memory.read(&mut bytes, (index * WORD_BYTES) as u64);
        u64::from_ne_bytes(bytes)
    }

    /// Maps all of them permanently, in a worker.
    pub fn map(&self) -> io::Result<&'static [AtomicU64]> {
        self.memory.map(0, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn all_sides_see_the_same_words() {
        let words = Words::new(1000).unwrap();
        let (one, other) = (words.map().unwrap(), words.map().unwrap());
        assert_eq!((one.len(), one[999].load(Relaxed)), (1000, 0));
        one[999].store(7, Relaxed);
        words.write(997, &[8, 9]);
        let seen: Vec<_> = other[997..].iter().map(|word| word.load(Relaxed)).collect();
        assert_eq!((seen, words.read(999)), (vec![8, 9, 7], 7));
    }
}
