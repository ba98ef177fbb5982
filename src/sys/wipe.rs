//! An allocator that leaves nothing behind in memory that is free again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::ptr;

/// The allocator of the system, which overwrites what is given back.
///
/// A worker is a copy of its master, and a configuration leaves parts of itself in
/// memory that is free again: what the passwords of other pools are, for example. A
/// program that embeds the daemon can have it, too:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: preforkd::WipingAllocator = preforkd::WipingAllocator;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WipingAllocator;

// SAFETY: each call goes to the allocator of the system with what it was called with. A
// block is overwritten while it is still ours, and for no more bytes than it has.
// `realloc` is that of the trait, made of these two: it has to overwrite the old block.
unsafe impl GlobalAlloc for WipingAllocator {
    /// # Safety
    ///
    /// As of the trait.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller promises what this asks for.
        unsafe { System.alloc(layout) }
    }

    /// # Safety
    ///
    /// As of the trait.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller promises what this asks for.
        unsafe { System.alloc_zeroed(layout) }
    }

    /// # Safety
    ///
    /// As of the trait.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has that many bytes, and is ours until the next line.
        unsafe { ptr::write_bytes(block, 0, layout.size()) };
        // Nobody reads that, so the compiler would leave it out.
        black_box(block);
        // SAFETY: our caller promises what this asks for.
        unsafe { System.dealloc(block, layout) }
    }
}
