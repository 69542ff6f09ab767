//! A stored value: short ones in place, others in their own memory, which an overwrite reuses.

/// The longest value that is kept in place, such as counters of up to fifteen digits.
const INLINE_BYTES_MAX: usize = 15;

#[derive(Clone, Debug)]
pub(super) enum Value {
    Inline { length: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Heap(Vec<u8>),
}

const _: () = assert!(size_of::<Value>() == 24);

impl Value {
    #[inline]
    pub(super) fn new(value: &[u8]) -> Self {
        if value.len() <= INLINE_BYTES_MAX {
            let mut bytes = [0; INLINE_BYTES_MAX];
            bytes[..value.len()].copy_from_slice(value);
            Self::Inline { length: value.len() as u8, bytes }
        } else {
            Self::Heap(value.to_vec())
        }
    }

    #[inline]
    pub(super) fn set(&mut self, value: &[u8]) {
        match self {
            // Memory is kept unless most of it would be unused.
            Self::Heap(memory) if value.len() <= memory.capacity() && value.len() >= memory.capacity() / 2 => {
                memory.clear();
                memory.extend_from_slice(value);
            }
            _ => *self = Self::new(value),
        }
    }

    pub(super) fn append(&mut self, more: &[u8]) {
        match self {
            Self::Heap(memory) => memory.extend_from_slice(more),
            Self::Inline { length, bytes } => {
                let length = *length as usize;
                *self = Self::new(&[&bytes[..length], more].concat());
            }
        }
    }

    /// Bytes of memory in addition to its place in the store.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(memory) => memory.capacity(),
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => &bytes[..*length as usize],
            Self::Heap(memory) => memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overwrite_of_similar_length_uses_the_memory_again() {
        let mut value = Value::new(&[1; 100]);
        let place = value.bytes().as_ptr();
        value.set(&[2; 80]);
        value.set(&[3; 99]);
        assert_eq!((value.bytes(), value.bytes().as_ptr()), ([3; 99].as_slice(), place));
        value.set(&[4; 20]);
        assert!(matches!(&value, Value::Heap(memory) if memory.capacity() < 50));
        value.set(b"short");
        assert!(matches!(value, Value::Inline { .. }));
        value.append(&[b'x'; 11]);
        assert_eq!(value.bytes(), b"shortxxxxxxxxxxx");
    }
}
