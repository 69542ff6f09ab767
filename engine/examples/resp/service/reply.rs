//! Answers, encoded straight into the output.

use baton::Io;

/// Values up to this length are encoded with their head and tail in one piece.
const SHORT_BYTES_MAX: usize = 16 << 10;

/// Longest head: a type byte, 20 digits, an end of line.
const HEAD_BYTES_MAX: usize = 24;

/// Longest error text, so that a request of any size does not come back in full.
const ERROR_BYTES_MAX: usize = 1024;

/// Writes one answer, in the client's version of the protocol.
pub(super) struct Reply<'a, 'io> {
    pub(super) io: &'a mut Io<'io>,
    pub(super) is_resp3: bool,
}

impl Reply<'_, '_> {
    #[inline]
    pub(super) fn ok(&mut self) {
        self.io.write(b"+OK\r\n");
    }

    /// A text that is already encoded.
    #[inline]
    pub(super) fn encoded(&mut self, bytes: &'static [u8]) {
        self.io.write(bytes);
    }

    #[inline]
    pub(super) fn integer(&mut self, number: i64) {
        self.head(b':', number);
    }

    pub(super) fn count(&mut self, number: usize) {
        self.integer(number as i64);
    }

    #[inline]
    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        if bytes.len() > SHORT_BYTES_MAX {
            self.head(b'$', bytes.len() as i64);
            self.io.write(bytes);
            self.io.write(b"\r\n");
            return;
        }
        let out = self.io.reserve(HEAD_BYTES_MAX + bytes.len() + 2);
        let head = encode_head(out, b'$', bytes.len() as i64);
        let end = head + bytes.len();
        out[head..end].copy_from_slice(bytes);
        out[end..end + 2].copy_from_slice(b"\r\n");
        self.io.commit(end + 2);
    }

    #[inline]
    pub(super) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    #[inline]
    pub(super) fn null(&mut self) {
        self.io.write(if self.is_resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// Announces this many answers.
    pub(super) fn array(&mut self, count: usize) {
        self.head(b'*', count as i64);
    }

    /// Announces this many pairs of answers.
    pub(super) fn map(&mut self, count: usize) {
        if self.is_resp3 {
            self.head(b'%', count as i64);
        } else {
            self.head(b'*', 2 * count as i64);
        }
    }

    /// Announces this many answers, in no order.
    pub(super) fn set(&mut self, count: usize) {
        self.head(if self.is_resp3 { b'~' } else { b'*' }, count as i64);
    }

    /// A text for a person.
    pub(super) fn verbatim(&mut self, text: &[u8]) {
        if self.is_resp3 {
            self.head(b'=', text.len() as i64 + 4);
            self.io.write(b"txt:");
            self.io.write(text);
            self.io.write(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// An error of one line, which begins with its kind: `ERR …`.
    #[cold]
    pub(super) fn error(&mut self, parts: &[&[u8]]) {
        let mut line = vec![b'-'];
        for part in parts {
            let room = ERROR_BYTES_MAX.saturating_sub(line.len()).min(part.len());
            line.extend(part[..room].iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
        }
        line.extend_from_slice(b"\r\n");
        self.io.write(&line);
    }

    #[inline]
    fn head(&mut self, kind: u8, number: i64) {
        let out = self.io.reserve(HEAD_BYTES_MAX);
        let length = encode_head(out, kind, number);
        self.io.commit(length);
    }
}

#[inline]
fn encode_head(out: &mut [u8], kind: u8, number: i64) -> usize {
    out[0] = kind;
    if (0..10).contains(&number) {
        out[1] = b'0' + number as u8;
        out[2] = b'\r';
        out[3] = b'\n';
        return 4;
    }
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number).as_bytes();
    let end = 1 + digits.len();
    out[1..end].copy_from_slice(digits);
    out[end..end + 2].copy_from_slice(b"\r\n");
    end + 2
}
