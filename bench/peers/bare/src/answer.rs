//! Counts requests without reading them, and holds prepared answers.

/// As many answers as fit here lie side by side, so that one send answers all pipelined requests.
const BLOCK_BYTES: usize = 256 * 1024;

/// How many bytes (0 to 3) at the end of a connection's stream may begin the end of a head.
pub(crate) type Carry = u8;

/// Counts how many requests a piece of the stream completes, and has their answers.
pub(crate) struct Answers {
    /// Static, since the kernel may read it at any time until the process ends.
    block: &'static [u8],
    each: usize,
    resp: bool,
    /// The next request may be the SET that defines the answer to all others.
    may_learn: bool,
    pub(crate) close: bool,
}

const OK: &[u8] = b"+OK\r\n";
const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n";

impl Answers {
    /// The same answer to each request.
    pub(crate) fn http((kind, body): (&str, &str), close: bool) -> Self {
        let connection = if close { "Connection: close\r\n" } else { "" };
        Self::new(http(connection, kind, body), false, close)
    }

    /// OK to each request. Or OK only to the first SET, and to every other request the value that it has set.
    pub(crate) fn resp(get: bool) -> Self {
        let answer = if get { &b"$-1\r\n"[..] } else { OK };
        Self { may_learn: get, ..Self::new(answer.to_vec(), true, false) }
    }

    fn new(answer: Vec<u8>, resp: bool, close: bool) -> Self {
        let each = answer.len();
        let count = if close { 1 } else { (BLOCK_BYTES / each).max(1) };
        Self { block: answer.repeat(count).leak(), each, resp, may_learn: false, close }
    }

    /// The answer to `bytes`, if they are the SET of the value that all other requests get.
    pub(crate) fn learn(&mut self, bytes: &[u8]) -> Option<&'static [u8]> {
        if !self.may_learn || !bytes.starts_with(SET) {
            return None;
        }
        let value = bytes.strip_suffix(b"\r\n")?.rsplit(|byte| *byte == b'\n').next()?;
        let answer = [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        *self = Self::new(answer, true, false);
        Some(OK)
    }

    /// Requests that end in `bytes`, the next piece of the stream to which `carry` belongs.
    #[inline]
    pub(crate) fn count(&self, carry: &mut Carry, bytes: &[u8]) -> usize {
        if self.resp { memchr::memchr_iter(b'*', bytes).count() } else { heads(carry, bytes) }
    }

    /// The answers to this many requests, in as few pieces as possible; with each, whether more follow.
    #[inline]
    pub(crate) fn pieces(&self, requests: usize) -> impl Iterator<Item = (&'static [u8], bool)> + use<> {
        let (block, mut left) = (self.block, requests * self.each);
        std::iter::from_fn(move || {
            let piece = &block[..left.min(block.len())];
            left -= piece.len();
            (!piece.is_empty()).then_some((piece, left > 0))
        })
    }
}

/// An answer, with whole header lines in the middle of it.
pub(crate) fn http(lines: &str, kind: &str, body: &str) -> Vec<u8> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nServer: B\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n{lines}Content-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    answer.into_bytes()
}

/// Counts each `\r\n\r\n` that ends in `bytes`.
#[inline]
fn heads(carry: &mut Carry, bytes: &[u8]) -> usize {
    let mut count = 0;
    // Only the first three bytes can complete an end that began before them.
    let mut matched = *carry;
    for &byte in bytes.iter().take(3) {
        matched = step(matched, byte);
        if matched == 4 {
            count += 1;
            matched = 2;
        }
    }
    if bytes.len() > 3 {
        count += windows(bytes);
        matched = bytes[bytes.len() - 3..].iter().fold(0, |matched, &byte| step(matched, byte));
    }
    *carry = matched;
    count
}

/// How many bytes of `\r\n\r\n` are matched after one more byte, if `matched` bytes of it (at most 3) were matched
/// before.
#[inline]
fn step(matched: u8, byte: u8) -> u8 {
    match (matched, byte) {
        (1 | 3, b'\n') | (2, b'\r') => matched + 1,
        (_, b'\r') => 1,
        _ => 0,
    }
}

/// Written so that the compiler compares 16 windows at once. With pipelining there is a match every 40 bytes, and a
/// search for the next match would cost more than the whole scan.
#[inline]
fn windows(bytes: &[u8]) -> usize {
    // An 8-bit count per lane must not overflow.
    const CHUNK: usize = 240;
    let last = bytes.len() - 3;
    let mut count = 0;
    for start in (0..last).step_by(CHUNK) {
        let end = (start + CHUNK).min(last);
        let (first, second) = (&bytes[start..end], &bytes[start + 1..end + 1]);
        let (third, fourth) = (&bytes[start + 2..end + 2], &bytes[start + 3..end + 3]);
        let mut hits = 0_u8;
        for index in 0..end - start {
            let odd = (first[index] == b'\r') & (third[index] == b'\r');
            let even = (second[index] == b'\n') & (fourth[index] == b'\n');
            hits += u8::from(odd & even);
        }
        count += usize::from(hits);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_split_of_a_stream_counts_the_same() {
        let stream =
            b"GET / HTTP/1.1\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\r\n\r\nx\n\r\n\r\r\n\n\r\n\r\n".repeat(12);
        let whole = stream.windows(4).filter(|window| window == b"\r\n\r\n").count();
        assert_eq!(whole, 48);
        for size in 1..stream.len() {
            let mut carry = 0;
            let count: usize = stream.chunks(size).map(|piece| heads(&mut carry, piece)).sum();
            assert_eq!(count, whole, "pieces of {size} bytes");
        }
    }

    #[test]
    fn answers_beyond_the_block_come_in_pieces() {
        let mut answers = Answers::resp(true);
        assert_eq!(answers.pieces(2).next(), Some((&b"$-1\r\n$-1\r\n"[..], false)));
        let value = "x".repeat(100_000);
        let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n{value}\r\n");
        assert_eq!(answers.learn(set.as_bytes()), Some(OK));
        assert_eq!(answers.learn(set.as_bytes()), None);
        let (pieces, more): (Vec<_>, Vec<_>) = answers.pieces(5).unzip();
        assert_eq!(more, [true, true, false]);
        assert_eq!(pieces.concat(), format!("$100000\r\n{value}\r\n").repeat(5).as_bytes());
        assert!(answers.pieces(0).next().is_none());
    }
}
