//! An allocator that leaves nothing behind in freed memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::ptr;

/// The allocator of the system, which overwrites freed memory.
///
/// A worker is a copy of its master, and a configuration leaves parts of itself in freed
/// memory, such as the passwords of other pools. A program that embeds the daemon can use
/// this allocator, too:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: preforkd::WipingAllocator = preforkd::WipingAllocator;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WipingAllocator;

// SAFETY: each call goes to the allocator of the system with the same arguments. A block is
// overwritten while it is still ours, and only within its size. `realloc` is that of the
// trait, made of these two, because the old block must be overwritten.
unsafe impl GlobalAlloc for WipingAllocator {
    /// # Safety
    ///
    /// As in the trait.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller promises what this asks for.
        unsafe { System.alloc(layout) }
    }

    /// # Safety
    ///
    /// As in the trait.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller promises what this asks for.
        unsafe { System.alloc_zeroed(layout) }
    }

    /// # Safety
    ///
    /// As in the trait.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has that many bytes, and is ours until the next line.
        unsafe { ptr::write_bytes(block, 0, layout.size()) };
        // The compiler would leave the write out, because nothing reads the block.
        black_box(block);
        // SAFETY: our caller promises what this asks for.
        unsafe { System.dealloc(block, layout) }
    }
}
