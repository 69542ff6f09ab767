//! Memory that the allocator holds but nothing uses.

/// Gives it back to the system, from everywhere in the heap (malloc_trim(3), glibc 2.8); elsewhere it does nothing.
pub(crate) fn release_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
