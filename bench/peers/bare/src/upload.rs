//! Counts the bytes of bodies. One request at a time: a client that sends the next one before the answer is not served
//! further.

use memchr::memmem;

use crate::answer;

/// A longer head is invalid.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The state of a connection's request.
#[derive(Default)]
pub(crate) struct Upload {
    /// The head, while it is not complete.
    head: Vec<u8>,
    total: u64,
    remaining: u64,
}

impl Upload {
    /// Takes the next piece of the stream. Returns the answer if that completes a request. After an error the
    /// connection cannot continue.
    #[inline]
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, ()> {
        let mut count = bytes.len() as u64;
        if self.remaining == 0 {
            self.head.extend_from_slice(bytes);
            let Some(end) = memmem::find(&self.head, b"\r\n\r\n") else {
                return if self.head.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(()) };
            };
            let end = end + 4;
            self.total = length(&self.head[..end]).ok_or(())?;
            self.remaining = self.total;
            count = (self.head.len() - end) as u64;
            self.head.clear();
        }
        self.remaining = self.remaining.checked_sub(count).ok_or(())?;
        Ok((self.remaining == 0).then(|| answer::http("", "text/plain", &self.total.to_string())))
    }
}

/// The value of `Content-Length`.
fn length(head: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(head).ok()?;
    let fields = text.split("\r\n").filter_map(|line| line.split_once(':'));
    let (_, value) = fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_split_counts_the_same() {
        let request = b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789";
        for size in 1..=request.len() {
            let mut upload = Upload::default();
            for _ in 0..2 {
                let answers: Vec<Vec<u8>> =
                    request.chunks(size).filter_map(|piece| upload.take(piece).expect("right")).collect();
                assert_eq!(answers.len(), 1, "pieces of {size} bytes");
                assert!(answers[0].ends_with(b"\r\n\r\n10"));
            }
        }
        assert_eq!(Upload::default().take(b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n01"), Err(()));
        assert_eq!(Upload::default().take(b"POST / HTTP/1.1\r\n\r\n"), Err(()));
    }
}
