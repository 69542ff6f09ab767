//! Memory that the master and the workers it forks share, or that is shared with programs in the kernel.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use super::bpf;

/// Types that may lie in memory which several processes see. [`shareable!`] declares structures that may.
///
/// # Safety
/// All-zero bytes must be a valid value, and every field must be an atomic integer (or an array or structure of such),
/// so that concurrent access from other processes is defined.
pub(crate) unsafe trait Shareable: Sync + 'static {}

// SAFETY: it is an atomic integer, for which zero is valid.
unsafe impl Shareable for AtomicU64 {}

// SAFETY: an array of values that meet these conditions.
unsafe impl<T: Shareable, const LENGTH: usize> Shareable for [T; LENGTH] {}

/// Declares a structure whose fields are all [`Shareable`], which makes the structure [`Shareable`] as well. So other
/// modules can declare what lies in shared memory without an unchecked promise.
macro_rules! shareable {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty,)+
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)+
        }

        // SAFETY: the where clause makes the compiler check that every field may be shared.
        #[allow(unsafe_code)]
        unsafe impl $crate::sys::shared_memory::Shareable for $name
        where
            $($type: $crate::sys::shared_memory::Shareable,)+
        {
        }
    };
}
pub(crate) use shareable;

/// A `T` in anonymous shared memory: forked children see the same one. It lives until the last of them unmaps it.
pub(crate) struct Shared<T: Shareable> {
    value: NonNull<T>,
}

// SAFETY: T is Sync, and Shared gives out only shared references.
unsafe impl<T: Shareable> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Shareable> Sync for Shared<T> {}

impl<T: Shareable> Shared<T> {
    /// Maps zeroed memory.
    ///
    /// # Errors
    /// As mmap(2).
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: an anonymous mapping is zeroed, and only processes that know it share it.
        unsafe { Self::map(libc::MAP_ANONYMOUS, -1, 0) }
    }

    /// Maps a page of [`create_pages`](super::bpf::create_pages), and no other. The map's descriptor is not needed
    /// afterwards. The kernel does not let such a mapping grow (VM_DONTEXPAND).
    ///
    /// # Errors
    /// As mmap(2): `InvalidInput` beyond the last page, or if the descriptor is not such a map.
    pub(crate) fn of_pages(map: BorrowedFd<'_>, index: u32) -> io::Result<Self> {
        let offset = bpf::page_offset(index).try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel only maps array maps created for it, whose memory is never truncated. Any bytes are valid
        // integers, and the program accesses them atomically.
        unsafe { Self::map(0, map.as_raw_fd(), offset) }
    }

    /// Whether the mapping can be extended to the memory that follows it.
    #[cfg(test)]
    pub(crate) fn can_grow(&self) -> bool {
        let address = self.value.as_ptr().cast();
        // SAFETY: the mapping belongs to this value. If it grew, it stays valid, and the call does not move it.
        let grown = unsafe { libc::mremap(address, size_of::<T>(), 3 * 4096, 0) };
        // SAFETY: as above; a mapping of nothing of its old length would be a second one.
        let moved = unsafe { libc::mremap(address, size_of::<T>(), 3 * 4096, libc::MREMAP_MAYMOVE) };
        grown != libc::MAP_FAILED || moved != libc::MAP_FAILED
    }

    /// # Safety
    /// What is mapped must exist as long as the mapping, and hold a valid `T`, whichever process writes to it.
    unsafe fn map(flags: libc::c_int, descriptor: RawFd, offset: libc::off_t) -> io::Result<Self> {
        let length = NonZeroUsize::new(size_of::<T>()).expect("shared types have a size");
        // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length.get(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | flags,
                descriptor,
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        assert!(align_of::<T>() <= 4096, "mappings are page-aligned");
        let value = NonNull::new(address.cast()).expect("mmap does not return null");
        Ok(Self { value })
    }
}

impl<T: Shareable> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: mapped in `map`, page-aligned and large enough. Shareable guarantees that it holds a valid T. It is
        // unmapped only in `drop`.
        unsafe { self.value.as_ref() }
    }
}

impl<T: Shareable> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length; no reference outlives `self`.
        unsafe { libc::munmap(self.value.as_ptr().cast(), size_of::<T>()) };
    }
}
