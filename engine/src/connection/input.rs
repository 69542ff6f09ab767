//! Input that the protocol has not consumed: contiguous, and cheap to consume from the front.
//!
//! An empty one holds no memory, so idle connections have no buffer.

/// See the module's head.
#[derive(Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    /// Bytes at the front that are consumed; they are moved out when they are the larger part.
    consumed: usize,
}

impl Input {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.consumed
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that is allocated for it.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Drops `count` bytes from the front. All calls together move each byte a bounded number of times.
    pub(crate) fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consumed more input than there is");
        self.consumed += count;
        if self.is_empty() {
            *self = Self::default();
        } else if self.consumed > self.len() {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
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
        assert_eq!(input.bytes.capacity(), 0);
    }
}
