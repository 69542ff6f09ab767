//! Input that the protocol has not consumed: contiguous, and cheap to consume from the front.
//!
//! An empty one holds no memory, so idle connections have no buffer.

/// The unconsumed input. It is boxed, since idle connections have none and every byte counts ten thousand times.
#[derive(Default)]
pub(crate) struct Input(Option<Box<Kept>>);

/// Input that is not empty.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// Number of bytes at the front that are consumed. They are moved out when they are the larger part.
    consumed: usize,
}

impl Input {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |kept| kept.bytes.len() - kept.consumed)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes of memory that are allocated for it.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |kept| kept.bytes.capacity())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |kept| &kept.bytes[kept.consumed..])
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], |kept| &mut kept.bytes[kept.consumed..])
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.get_or_insert_default().bytes.extend_from_slice(bytes);
        }
    }

    /// Drops `count` bytes from the front. All calls together move each byte a bounded number of times.
    pub(crate) fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consumed more input than there is");
        let Some(kept) = &mut self.0 else { return };
        kept.consumed += count;
        let left = kept.bytes.len() - kept.consumed;
        if left == 0 {
            self.0 = None;
        } else if kept.consumed > left {
            kept.bytes.drain(..kept.consumed);
            kept.consumed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_was_not_consumed() {
        let mut input = Input::default();
        let mut expected: std::collections::VecDeque<u8> = std::collections::VecDeque::new();
        for round in 0..1000usize {
            let piece: Vec<u8> = (0..round * 7 % 50).map(|index| (round + index) as u8).collect();
            input.append(&piece);
            expected.extend(&piece);
            let count = input.len().min(round * 13 % 41);
            input.consume(count);
            expected.drain(..count);
            assert!(input.bytes().iter().eq(expected.iter()));
        }
        input.consume(input.len());
        assert_eq!((input.is_empty(), input.capacity()), (true, 0));
    }
}
