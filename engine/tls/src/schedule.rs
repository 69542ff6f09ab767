//! Traffic secrets and what follows from them: keys, IVs and the next secret (RFC 8446 sections 7.1 to 7.3).

use std::fmt;

use aws_lc_rs::{aead, hkdf};
use rustls::CipherSuite;
use zeroize::Zeroizing;

/// Bytes of the longest traffic secret: those of SHA-384.
pub const SECRET_BYTES_MAX: usize = 48;

/// Bytes of the longest key of an AEAD.
const KEY_BYTES_MAX: usize = 32;

/// Bytes of a nonce, and so of an IV (RFC 8446 section 5.3).
pub(crate) const NONCE_BYTES: usize = 12;

/// Bytes of `HkdfLabel` at most: a length, a label of up to twelve bytes behind its prefix, and an empty context.
const LABEL_BYTES_MAX: usize = 2 + 1 + LABEL_PREFIX.len() + 12 + 1;

const LABEL_PREFIX: &[u8] = b"tls13 ";

/// A cipher suite of TLS 1.3 (RFC 8446 appendix B.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// TLS_AES_128_GCM_SHA256.
    Aes128GcmSha256,
    /// TLS_AES_256_GCM_SHA384.
    Aes256GcmSha384,
    /// TLS_CHACHA20_POLY1305_SHA256.
    Chacha20Poly1305Sha256,
}

impl Suite {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Aes128GcmSha256, Self::Aes256GcmSha384, Self::Chacha20Poly1305Sha256];

    /// The suite of a number of the registry; `None` where it is another one.
    pub fn of(suite: CipherSuite) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.id() == suite)
    }

    /// Its number in the registry.
    pub fn id(self) -> CipherSuite {
        match self {
            Self::Aes128GcmSha256 => CipherSuite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256GcmSha384 => CipherSuite::TLS13_AES_256_GCM_SHA384,
            Self::Chacha20Poly1305Sha256 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        }
    }

    /// Bytes of its secrets: those of its hash.
    pub fn secret_bytes(self) -> usize {
        match self {
            Self::Aes256GcmSha384 => 48,
            Self::Aes128GcmSha256 | Self::Chacha20Poly1305Sha256 => 32,
        }
    }

    /// Records that one key may seal. AES-GCM: the power of two below the 2^24.5 of RFC 8446 section 5.5. ChaCha20-Poly1305 has
    /// no limit but the sequence number's end, which this keeps far from.
    pub fn records_per_key_max(self) -> u64 {
        match self {
            Self::Aes128GcmSha256 | Self::Aes256GcmSha384 => 1 << 24,
            Self::Chacha20Poly1305Sha256 => 1 << 62,
        }
    }

    pub(crate) fn aead(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128GcmSha256 => &aead::AES_128_GCM,
            Self::Aes256GcmSha384 => &aead::AES_256_GCM,
            Self::Chacha20Poly1305Sha256 => &aead::CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes128GcmSha256 | Self::Chacha20Poly1305Sha256 => hkdf::HKDF_SHA256,
            Self::Aes256GcmSha384 => hkdf::HKDF_SHA384,
        }
    }
}

/// `client_application_traffic_secret_N` or `server_application_traffic_secret_N`. Zeroised when dropped, and not printed.
#[derive(Clone)]
pub struct Secret {
    suite: Suite,
    bytes: Zeroizing<[u8; SECRET_BYTES_MAX]>,
}

impl Secret {
    /// `None` where it has another length than [`Suite::secret_bytes`].
    pub fn new(suite: Suite, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != suite.secret_bytes() {
            return None;
        }
        let mut secret = Self { suite, bytes: Zeroizing::new([0; SECRET_BYTES_MAX]) };
        secret.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(secret)
    }

    /// The suite that it belongs to.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The secret itself: who has it can read one direction of the connection from here on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.suite.secret_bytes()]
    }

    /// The secret that follows at a KeyUpdate (section 7.2).
    #[must_use]
    pub fn next(&self) -> Self {
        let mut next = Self { suite: self.suite, bytes: Zeroizing::new([0; SECRET_BYTES_MAX]) };
        self.expand(b"traffic upd", &mut next.bytes[..self.suite.secret_bytes()]);
        next
    }

    /// `[sender]_write_key` and `[sender]_write_iv` (section 7.3).
    pub fn traffic_key(&self) -> TrafficKey {
        let mut traffic_key = TrafficKey { suite: self.suite, key: Zeroizing::default(), iv: Zeroizing::default() };
        self.expand(b"key", &mut traffic_key.key[..self.suite.aead().key_len()]);
        self.expand(b"iv", &mut traffic_key.iv[..]);
        traffic_key
    }

    /// HKDF-Expand-Label with an empty context (section 7.1).
    fn expand(&self, label: &[u8], out: &mut [u8]) {
        let algorithm = self.suite.hkdf();
        let info = Label::new(label, out.len());
        let secret = hkdf::Prk::new_less_safe(algorithm, self.bytes());
        let expanded = secret.expand(&[info.bytes()], Length(out.len())).and_then(|okm| okm.fill(out));
        expanded.expect("keys, IVs and secrets are far shorter than 255 hashes");
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Secret").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// The key and the IV of one direction. Zeroised when dropped, and not printed.
pub struct TrafficKey {
    suite: Suite,
    key: Zeroizing<[u8; KEY_BYTES_MAX]>,
    iv: Zeroizing<[u8; NONCE_BYTES]>,
}

impl TrafficKey {
    /// The AEAD's key.
    pub fn key(&self) -> &[u8] {
        &self.key[..self.suite.aead().key_len()]
    }

    /// What the sequence number is added to for a nonce.
    pub fn iv(&self) -> &[u8; NONCE_BYTES] {
        &self.iv
    }
}

impl fmt::Debug for TrafficKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TrafficKey").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// `HkdfLabel` (section 7.1), without a context.
struct Label {
    bytes: [u8; LABEL_BYTES_MAX],
    length: usize,
}

impl Label {
    fn new(label: &[u8], output_bytes: usize) -> Self {
        let mut info = Self { bytes: [0; LABEL_BYTES_MAX], length: 0 };
        let output_bytes = u16::try_from(output_bytes).expect("of a key, an IV or a secret");
        info.push(&output_bytes.to_be_bytes());
        info.push(&[(LABEL_PREFIX.len() + label.len()) as u8]);
        info.push(LABEL_PREFIX);
        info.push(label);
        info.push(&[0]);
        info
    }

    fn push(&mut self, part: &[u8]) {
        self.bytes[self.length..][..part.len()].copy_from_slice(part);
        self.length += part.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
pub(crate) mod tests;
