//! Memory that the allocator holds but nothing uses.

/// Gives such memory back to the system, from everywhere in the heap (malloc_trim(3), glibc 2.8). Does nothing with
/// other C libraries.
pub(crate) fn release_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions, and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
