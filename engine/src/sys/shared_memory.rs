//! Memory shared between the process that starts workers and the workers it forks.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Types that may lie in memory that several processes see. [`shareable!`] declares structures that may.
///
/// # Safety
/// All-zero bytes must be a valid value, and every field must be an atomic integer (or an array or structure of
/// such), so that concurrent access from other processes is defined.
pub(crate) unsafe trait Shareable: Sync + 'static {}

// SAFETY: it is an atomic integer, for which zero is valid.
unsafe impl Shareable for AtomicU64 {}

// SAFETY: an array of values for which all of this holds.
unsafe impl<T: Shareable, const LENGTH: usize> Shareable for [T; LENGTH] {}

/// Declares a structure whose fields are all [`Shareable`], which makes the structure [`Shareable`] as well. So other
/// modules can say what lies in shared memory without a promise that nobody checks.
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

        // SAFETY: the where clause has the compiler check that every field may be shared.
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
        let length = NonZeroUsize::new(size_of::<T>()).expect("shared types have a size");
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length.get(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
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
        // SAFETY: mapped in `new`, page-aligned, large enough, zeroed, which Shareable says is a valid T; unmapped
        // only in `drop`.
        unsafe { self.value.as_ref() }
    }
}

impl<T: Shareable> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; no reference outlives `self`.
        unsafe { libc::munmap(self.value.as_ptr().cast(), size_of::<T>()) };
    }
}
