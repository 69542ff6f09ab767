//! Traffic secrets and what is derived from them: keys, IVs and the next secret (RFC 8446 sections 7.1 to 7.3).

use std::fmt;

use aws_lc_rs::{aead, hkdf};
use rustls::CipherSuite;
use zeroize::Zeroizing;

use crate::settings::Version;

/// Bytes of the longest traffic secret: those of SHA-384.
pub const SECRET_BYTES_MAX: usize = 48;

/// Bytes of the longest key of an AEAD.
pub(crate) const KEY_BYTES_MAX: usize = 32;

/// Bytes of a nonce, and so of an IV (RFC 8446 section 5.3).
pub const NONCE_BYTES: usize = 12;

/// The most bytes of `HkdfLabel`: a length, a label of up to twelve bytes after its prefix, and an empty context.
const LABEL_BYTES_MAX: usize = 2 + 1 + LABEL_PREFIX.len() + 12 + 1;

const LABEL_PREFIX: &[u8] = b"tls13 ";

/// A cipher suite: all suites of TLS 1.3 in rustls (RFC 8446 appendix B.4), and all of TLS 1.2 (RFC 5289, RFC 7905).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// TLS_AES_128_GCM_SHA256.
    Aes128GcmSha256,
    /// TLS_AES_256_GCM_SHA384.
    Aes256GcmSha384,
    /// TLS_CHACHA20_POLY1305_SHA256.
    Chacha20Poly1305Sha256,
    /// TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, of TLS 1.2.
    EcdheEcdsaAes128GcmSha256,
    /// TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, of TLS 1.2.
    EcdheEcdsaAes256GcmSha384,
    /// TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, of TLS 1.2.
    EcdheEcdsaChacha20Poly1305Sha256,
    /// TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, of TLS 1.2.
    EcdheRsaAes128GcmSha256,
    /// TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, of TLS 1.2.
    EcdheRsaAes256GcmSha384,
    /// TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, of TLS 1.2.
    EcdheRsaChacha20Poly1305Sha256,
}

/// The algorithm that encrypts records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

impl Suite {
    /// The suites of TLS 1.3.
    pub const TLS13: [Self; 3] = [Self::Aes128GcmSha256, Self::Aes256GcmSha384, Self::Chacha20Poly1305Sha256];

    /// The suites of TLS 1.2.
    pub const TLS12: [Self; 6] = [
        Self::EcdheEcdsaAes128GcmSha256,
        Self::EcdheEcdsaAes256GcmSha384,
        Self::EcdheEcdsaChacha20Poly1305Sha256,
        Self::EcdheRsaAes128GcmSha256,
        Self::EcdheRsaAes256GcmSha384,
        Self::EcdheRsaChacha20Poly1305Sha256,
    ];

    /// The suite with this number in the registry; `None` for any other.
    pub fn of(suite: CipherSuite) -> Option<Self> {
        Self::TLS13.into_iter().chain(Self::TLS12).find(|known| known.id() == suite)
    }

    /// Its number in the registry.
    pub fn id(self) -> CipherSuite {
        match self {
            Self::Aes128GcmSha256 => CipherSuite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256GcmSha384 => CipherSuite::TLS13_AES_256_GCM_SHA384,
            Self::Chacha20Poly1305Sha256 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            Self::EcdheEcdsaAes128GcmSha256 => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            Self::EcdheEcdsaAes256GcmSha384 => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            Self::EcdheEcdsaChacha20Poly1305Sha256 => CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            Self::EcdheRsaAes128GcmSha256 => CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            Self::EcdheRsaAes256GcmSha384 => CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            Self::EcdheRsaChacha20Poly1305Sha256 => CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        }
    }

    /// The only version of TLS that has it.
    pub fn version(self) -> Version {
        match self {
            Self::Aes128GcmSha256 | Self::Aes256GcmSha384 | Self::Chacha20Poly1305Sha256 => Version::Tls13,
            _ => Version::Tls12,
        }
    }

    /// Length of its traffic secrets: that of its hash. TLS 1.2 has none: 0.
    pub fn secret_bytes(self) -> usize {
        match self {
            Self::Aes256GcmSha384 => 48,
            Self::Aes128GcmSha256 | Self::Chacha20Poly1305Sha256 => 32,
            _ => 0,
        }
    }

    /// Bytes of its AEAD's key.
    pub fn key_bytes(self) -> usize {
        self.algorithm().key_len()
    }

    /// Records that one key may seal. AES-GCM: the power of two below the 2^24.5 of RFC 8446 section 5.5, which RFC
    /// 9325 section 4.4 also recommends for TLS 1.2. ChaCha20-Poly1305 has no limit except the last sequence number,
    /// from which this stays far away.
    pub fn records_per_key_max(self) -> u64 {
        match self.aead() {
            Aead::Aes128Gcm | Aead::Aes256Gcm => 1 << 24,
            Aead::Chacha20Poly1305 => 1 << 62,
        }
    }

    /// Bytes of the nonce that each record of TLS 1.2 carries (RFC 5288 section 3; RFC 7905 has none).
    pub(crate) fn explicit_nonce_bytes(self) -> usize {
        match self.aead() {
            Aead::Aes128Gcm | Aead::Aes256Gcm => 8,
            Aead::Chacha20Poly1305 => 0,
        }
    }

    pub(crate) fn is_chacha20(self) -> bool {
        self.aead() == Aead::Chacha20Poly1305
    }

    pub(crate) fn algorithm(self) -> &'static aead::Algorithm {
        match self.aead() {
            Aead::Aes128Gcm => &aead::AES_128_GCM,
            Aead::Aes256Gcm => &aead::AES_256_GCM,
            Aead::Chacha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn aead(self) -> Aead {
        match self {
            Self::Aes128GcmSha256 | Self::EcdheEcdsaAes128GcmSha256 | Self::EcdheRsaAes128GcmSha256 => Aead::Aes128Gcm,
            Self::Aes256GcmSha384 | Self::EcdheEcdsaAes256GcmSha384 | Self::EcdheRsaAes256GcmSha384 => Aead::Aes256Gcm,
            Self::Chacha20Poly1305Sha256
            | Self::EcdheEcdsaChacha20Poly1305Sha256
            | Self::EcdheRsaChacha20Poly1305Sha256 => Aead::Chacha20Poly1305,
        }
    }

    /// For a suite of TLS 1.3.
    fn hkdf(self) -> hkdf::Algorithm {
        if self.aead() == Aead::Aes256Gcm { hkdf::HKDF_SHA384 } else { hkdf::HKDF_SHA256 }
    }
}

/// `client_application_traffic_secret_N` or `server_application_traffic_secret_N`. Zeroised when dropped, and not printed.
#[derive(Clone)]
pub struct Secret {
    suite: Suite,
    bytes: Zeroizing<[u8; SECRET_BYTES_MAX]>,
}

impl Secret {
    /// `None` if its length is not [`Suite::secret_bytes`], and for a suite of TLS 1.2, whose keys are not derived from
    /// such a secret.
    pub fn new(suite: Suite, bytes: &[u8]) -> Option<Self> {
        if suite.version() != Version::Tls13 || bytes.len() != suite.secret_bytes() {
            return None;
        }
        let mut secret = Self { suite, bytes: Zeroizing::new([0; SECRET_BYTES_MAX]) };
        secret.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(secret)
    }

    /// Its suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The secret itself. With it one can read one direction of the connection from here on.
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
        self.expand(b"key", &mut traffic_key.key[..self.suite.key_bytes()]);
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
#[derive(Clone)]
pub struct TrafficKey {
    suite: Suite,
    key: Zeroizing<[u8; KEY_BYTES_MAX]>,
    iv: Zeroizing<[u8; NONCE_BYTES]>,
}

impl TrafficKey {
    /// `client_write_key` and `client_write_IV`, or the server's, of TLS 1.2 (RFC 5246 section 6.3). With AES-GCM the
    /// IV is the salt (RFC 5288 section 3), followed by the value that is combined with the sequence number for the
    /// nonce that a record carries. `None` if the key does not have the suite's length.
    pub fn new(suite: Suite, key: &[u8], iv: &[u8; NONCE_BYTES]) -> Option<Self> {
        if key.len() != suite.key_bytes() {
            return None;
        }
        let mut traffic_key = Self { suite, key: Zeroizing::default(), iv: Zeroizing::new(*iv) };
        traffic_key.key[..key.len()].copy_from_slice(key);
        Some(traffic_key)
    }

    /// Its suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The AEAD's key.
    pub fn key(&self) -> &[u8] {
        &self.key[..self.suite.key_bytes()]
    }

    /// The value that is combined with the sequence number for a nonce.
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
