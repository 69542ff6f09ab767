//! Masking (RFC 6455 section 5.3): XOR with a key of four bytes, eight and more bytes at a time.

/// Writes `input` unmasked to `output`, which has the same length.
#[inline]
pub(super) fn copy(output: &mut [u8], input: &[u8], key: [u8; 4]) {
    debug_assert_eq!(output.len(), input.len());
    let (blocks, tail) = output.as_chunks_mut::<8>();
    let (input_blocks, input_tail) = input.as_chunks::<8>();
    for (block, input) in blocks.iter_mut().zip(input_blocks) {
        *block = (u64::from_ne_bytes(*input) ^ wide(key)).to_ne_bytes();
    }
    for (at, (byte, input)) in tail.iter_mut().zip(input_tail).enumerate() {
        *byte = input ^ key[at % key.len()];
    }
}

/// Unmasks in place.
#[inline]
pub(super) fn apply(bytes: &mut [u8], key: [u8; 4]) {
    let (blocks, tail) = bytes.as_chunks_mut::<8>();
    for block in blocks {
        *block = (u64::from_ne_bytes(*block) ^ wide(key)).to_ne_bytes();
    }
    for (at, byte) in tail.iter_mut().enumerate() {
        *byte ^= key[at % key.len()];
    }
}

/// The key for the bytes after `count` masked ones.
pub(super) fn advance(key: [u8; 4], count: usize) -> [u8; 4] {
    std::array::from_fn(|at| key[(at + count % key.len()) % key.len()])
}

fn wide(key: [u8; 4]) -> u64 {
    let [a, b, c, d] = key;
    u64::from_ne_bytes([a, b, c, d, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_the_definition_at_any_place_and_cut(bytes: Vec<u8>, key: [u8; 4], cut: prop::sample::Index) {
            let expected: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
            let cut = cut.index(bytes.len() + 1);
            let mut copied = vec![0; bytes.len()];
            let (head, tail) = copied.split_at_mut(cut);
            copy(head, &bytes[..cut], key);
            copy(tail, &bytes[cut..], advance(key, cut));
            prop_assert_eq!(&copied, &expected);
            let mut applied = bytes;
            apply(&mut applied[..cut], key);
            apply(&mut applied[cut..], advance(key, cut));
            prop_assert_eq!(&applied, &expected);
        }
    }
}
