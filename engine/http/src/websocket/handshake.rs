//! The server's part of the opening handshake (RFC 6455 section 4.2).

use std::fmt;

use ::http::StatusCode;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest, Sha1};

use crate::method::Method;

/// The only supported version of the protocol, as `Sec-WebSocket-Version` names it.
pub const VERSION: &str = "13";

/// Appended to the key before it is hashed (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of a client's nonce.
const NONCE_BYTES: usize = 16;

/// RFC 6455 only specifies the result of decoding a key, so unused bits may be set.
const KEY: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Bytes of a SHA-1 hash in base64.
const ACCEPT_BYTES: usize = 20usize.div_ceil(3) * 4;

/// Why a request does not open a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The method is not GET: 405.
    #[error("a WebSocket opens with GET")]
    Method,
    /// `Upgrade` does not list `websocket`, or `Connection` does not list `upgrade`: 426.
    #[error("this resource speaks WebSocket: Upgrade: websocket and Connection: Upgrade are missing")]
    NotUpgrade,
    /// `Sec-WebSocket-Version` is not 13: 426, with `Sec-WebSocket-Version: 13` (RFC 6455 section 4.4).
    #[error("the only version of WebSocket that this server speaks is 13")]
    Version,
    /// `Sec-WebSocket-Key` is missing, repeated, or not 16 bytes in base64: 400.
    #[error("Sec-WebSocket-Key is not 16 bytes in base64")]
    Key,
}

impl HandshakeError {
    /// The status to answer with. An answer of 426 has `Upgrade: websocket` and `Connection: Upgrade` (RFC 9110 section 15.5.22)
    /// and `Sec-WebSocket-Version:` [`VERSION`].
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Key => StatusCode::BAD_REQUEST,
        }
    }
}

/// The value of `Sec-WebSocket-Accept` in the answer of 101.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptKey([u8; ACCEPT_BYTES]);

impl AcceptKey {
    /// The answer to a client's key; `None` if that is not 16 bytes in base64.
    fn of(key: &[u8]) -> Option<Self> {
        // The decoder writes whole groups of three bytes.
        let mut nonce = [0; NONCE_BYTES.next_multiple_of(3)];
        (KEY.decode_slice(key, &mut nonce) == Ok(NONCE_BYTES)).then(|| Self::of_key(key))
    }

    fn of_key(key: &[u8]) -> Self {
        let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
        let mut text = [b'='; ACCEPT_BYTES];
        let written = BASE64_STANDARD.encode_slice(hash, &mut text);
        debug_assert_eq!(written, Ok(ACCEPT_BYTES));
        Self(text)
    }

    /// The value, in base64.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for AcceptKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(formatter)
    }
}

/// Checks a request of HTTP/1.1 by its method and all its headers (RFC 6455 section 4.2.1); the server has checked `Host`.
///
/// # Errors
/// See [`HandshakeError`], in that order.
pub fn accept<N, V>(method: Method, headers: impl IntoIterator<Item = (N, V)>) -> Result<AcceptKey, HandshakeError>
where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let (mut is_websocket, mut is_upgrade) = (false, false);
    let (mut version, mut key) = (None, None);
    for (name, value) in headers {
        let (name, value) = (name.as_ref(), value.as_ref());
        // The length excludes most headers before any is compared.
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => is_websocket |= lists(value, b"websocket"),
            10 if name.eq_ignore_ascii_case(b"connection") => is_upgrade |= lists(value, b"upgrade"),
            17 if name.eq_ignore_ascii_case(b"sec-websocket-key") => once(&mut key, AcceptKey::of(value)),
            21 if name.eq_ignore_ascii_case(b"sec-websocket-version") => {
                once(&mut version, (value == VERSION.as_bytes()).then_some(()));
            }
            _ => {}
        }
    }
    if method != Method::Get {
        return Err(HandshakeError::Method);
    }
    if !is_websocket || !is_upgrade {
        return Err(HandshakeError::NotUpgrade);
    }
    version.flatten().ok_or(HandshakeError::Version)?;
    key.flatten().ok_or(HandshakeError::Key)
}

/// The first of the `supported` subprotocols that the client offers, for `Sec-WebSocket-Protocol` in the answer. `None` if it
/// offers none of them: then the answer has no such header, and the client decides whether it stays. Names are case-sensitive.
pub fn choose_protocol<'s, N, V>(headers: impl IntoIterator<Item = (N, V)>, supported: &[&'s str]) -> Option<&'s str>
where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut best = supported.len();
    for (name, value) in headers {
        if name.as_ref().eq_ignore_ascii_case(b"sec-websocket-protocol") {
            for offered in value.as_ref().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                let place = supported.iter().position(|name| name.as_bytes() == offered);
                best = best.min(place.unwrap_or(best));
            }
        }
    }
    supported.get(best).copied()
}

/// Stores a header's value; none if the header occurs twice.
fn once<T>(slot: &mut Option<Option<T>>, value: Option<T>) {
    *slot = Some(if slot.is_some() { None } else { value });
}

fn lists(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("Host", "server.example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];

    fn with(name: &'static str, values: &[&'static str]) -> Result<String, HandshakeError> {
        let others = GOOD.into_iter().filter(|(other, _)| *other != name);
        let headers = others.chain(values.iter().map(|value| (name, *value)));
        accept(Method::Get, headers).map(|key| key.to_string())
    }

    #[test]
    fn accepts_the_example_of_the_rfc() {
        let accepted = accept(Method::Get, GOOD).expect("a good request");
        assert_eq!(accepted.as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accepted.to_string(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn reads_lists_and_any_case() {
        assert!(with("Connection", &["keep-alive, UPGRADE"]).is_ok());
        assert!(with("Connection", &["keep-alive", "upgrade"]).is_ok());
        assert!(with("Upgrade", &["h2c, WebSocket"]).is_ok());
        let names = GOOD.map(|(name, value)| (name.to_ascii_uppercase(), value));
        assert!(accept(Method::Get, names).is_ok());
        assert!(with("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZR=="]).is_ok(), "unused bits do not matter");
    }

    #[test]
    fn each_defect_has_its_error() {
        use HandshakeError::{Key, Method as NotGet, NotUpgrade, Version};
        assert_eq!(accept(Method::Post, GOOD), Err(NotGet));
        assert_eq!(NotGet.status(), 405);
        for (name, values, error, status) in [
            ("Upgrade", &[][..], NotUpgrade, 426),
            ("Upgrade", &["websockets"], NotUpgrade, 426),
            ("Connection", &["close"], NotUpgrade, 426),
            ("Connection", &[], NotUpgrade, 426),
            ("Sec-WebSocket-Version", &[], Version, 426),
            ("Sec-WebSocket-Version", &["8"], Version, 426),
            ("Sec-WebSocket-Version", &["013"], Version, 426),
            ("Sec-WebSocket-Version", &["13, 8"], Version, 426),
            ("Sec-WebSocket-Version", &["13", "13"], Version, 426),
            ("Sec-WebSocket-Key", &[], Key, 400),
            ("Sec-WebSocket-Key", &[""], Key, 400),
            ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ"], Key, 400),
            ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ=!"], Key, 400),
            ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZSE="], Key, 400),
            ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25j"], Key, 400),
            ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="], Key, 400),
        ] {
            assert_eq!(with(name, values), Err(error), "{name}: {values:?}");
            assert_eq!(error.status(), status);
        }
    }

    #[test]
    fn the_server_chooses_the_subprotocol() {
        let choose = |values: &[&'static str], supported: &[&'static str]| {
            choose_protocol(values.iter().map(|value| ("sec-websocket-PROTOCOL", *value)), supported)
        };
        assert_eq!(choose(&["soap, wamp"], &["wamp", "soap"]), Some("wamp"));
        assert_eq!(choose(&["soap", "mqtt ,wamp"], &["wamp", "soap"]), Some("wamp"));
        assert_eq!(choose(&["WAMP,,"], &["wamp"]), None);
        assert_eq!(choose(&[], &["wamp"]), None);
        assert_eq!(choose(&["wamp"], &[]), None);
    }

    proptest! {
        #[test]
        fn any_nonce_is_taken_and_any_key_is_safe(nonce: [u8; NONCE_BYTES], junk: Vec<u8>) {
            let key = BASE64_STANDARD.encode(nonce);
            prop_assert!(AcceptKey::of(key.as_bytes()).is_some());
            let is_key = BASE64_STANDARD.decode(&junk).is_ok_and(|bytes| bytes.len() == NONCE_BYTES);
            prop_assert!(!is_key || AcceptKey::of(&junk).is_some());
        }
    }
}
