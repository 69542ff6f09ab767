//! Session tickets that all workers of a server and the next binary understand, because their keys are derived from one secret.
//!
//! A ticket is `name (16 bytes) || nonce (12) || AES-256-GCM(session) with its tag (16)`, with the name as associated data. Keys
//! belong to periods of [`PERIOD_SECONDS`] of wall clock time. A period's key and name are HKDF-SHA256 of the secret, with the
//! salt "baton tickets" and the number of the period, so processes that share the secret need not exchange anything. The
//! key of this period seals; those of this period and the previous one open.
//!
//! Any other ticket of a client is unknown, and leads to a full handshake.
//!
//! A key may seal 2^32 tickets with random nonces (NIST SP 800-38D section 8.3): 198,000 tickets each second of a period, for all
//! workers together.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, rand};
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use zeroize::{Zeroize as _, Zeroizing};

use crate::accept::is_tls13_spoken;

/// How long a key seals tickets.
pub const PERIOD_SECONDS: u64 = 6 * 60 * 60;

/// The longest time for which a ticket can be used, as its client learns. The last one of a period can be used half as
/// long.
pub const LIFETIME_SECONDS: u32 = 12 * 60 * 60;

const _: () = assert!(LIFETIME_SECONDS as u64 == 2 * PERIOD_SECONDS, "two keys open tickets");

/// Bytes of a server's secret.
pub const SECRET_BYTES: usize = 32;

/// Number of tickets that a client gets for TLS 1.3 after each handshake. Clients use each once (RFC 8446 appendix
/// C.4). With one ticket a client that opens two connections at once, as browsers do, would need a full handshake for
/// the second.
pub const TICKETS_PER_HANDSHAKE: usize = 2;

const SALT: &[u8] = b"baton tickets";
const NAME_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// Seals and opens the tickets of a server.
pub struct Tickets {
    secret: hkdf::Prk,
    time: Arc<dyn TimeProvider>,
    keys: Mutex<Option<Keys>>,
}

/// A secret for [`Tickets::new`] that is derived from a certificate's private key, as the file has it. Anyone with that
/// key could pose as the server, and keys of connections do not follow from tickets alone (RFC 8446 section 2.2,
/// `psk_dhe_ke`, the only mode in rustls). So this gives nothing away with TLS 1.3 (for TLS 1.2 see
/// [`secret_of_process`]), and all servers with the certificate share the secret without communication.
pub fn secret_of(key_file: &[u8]) -> Zeroizing<[u8; SECRET_BYTES]> {
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(key_file);
    let filled = key.expand(&[b"of a private key"], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut *secret));
    filled.expect("HKDF gives up to 255 times the bytes of its hash");
    secret
}

/// A secret for the tickets of TLS 1.2, which the first call makes: the forks of this process have the same one, and it
/// is stored nowhere. `None` if there is no randomness.
///
/// A ticket of TLS 1.2 holds the master secret of its connection, and is sent in the clear. So with its key one can
/// read what was recorded of the connection, and of all that resume it. A key derived from the certificate's would take
/// forward secrecy away.
pub fn secret_of_process() -> Option<&'static [u8; SECRET_BYTES]> {
    static SECRET: OnceLock<Option<Zeroizing<[u8; SECRET_BYTES]>>> = OnceLock::new();
    let secret = SECRET.get_or_init(|| {
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        rand::fill(&mut *secret).is_ok().then_some(secret)
    });
    secret.as_deref()
}

/// Tickets of both versions, each with keys of its own. Those of TLS 1.3 are sealed if a handshake is known to be of
/// that version.
#[derive(Debug)]
pub(crate) struct TicketsOfVersions {
    pub(crate) tls13: Tickets,
    /// `None`: clients of TLS 1.2 get none.
    pub(crate) tls12: Option<Tickets>,
}

impl ProducesTickets for TicketsOfVersions {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if is_tls13_spoken() { self.tls13.seal(plain) } else { self.tls12.as_ref()?.seal(plain) }
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        // Each recognises its own tickets by name; rustls checks the version inside.
        self.tls13.open(cipher).or_else(|| self.tls12.as_ref()?.open(cipher))
    }
}

impl Tickets {
    /// All with the same secret open each other's tickets. `time` is the wall clock.
    pub fn new(secret: &[u8; SECRET_BYTES], time: Arc<dyn TimeProvider>) -> Self {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret);
        Self { secret, time, keys: Mutex::new(None) }
    }

    /// The keys for now; `None` if the time is unknown. Other threads do not wait for long: keys are made once in a
    /// period.
    fn keys(&self) -> Option<MutexGuard<'_, Option<Keys>>> {
        let period = self.time.current_time()?.as_secs() / PERIOD_SECONDS;
        // Keys are stored as a whole, so they are valid even if a thread panicked.
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.as_ref().is_none_or(|keys| keys.period != period) {
            *keys = Keys::new(&self.secret, period).ok();
        }
        Some(keys)
    }

    fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys()?;
        let key = &keys.as_ref()?.current;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_BYTES + session.len() + TAG_BYTES);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&[0; NONCE_BYTES]);
        ticket.extend_from_slice(session);
        let (head, sealed) = ticket.split_at_mut(NAME_BYTES + NONCE_BYTES);
        let Ok((nonce, tag)) = key.aead.seal_in_place_separate_tag(Aad::from(&key.name), sealed) else {
            ticket.zeroize();
            return None;
        };
        head[NAME_BYTES..].copy_from_slice(nonce.as_ref());
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let keys = self.keys()?;
        let Keys { current, previous, .. } = keys.as_ref()?;
        let mut both = [Some(current), previous.as_ref()].into_iter().flatten();
        let key = both.find(|key| verify_slices_are_equal(&key.name, name).is_ok())?;
        let mut session = sealed.to_vec();
        let opened = key.aead.open_in_place(Nonce::from(nonce), Aad::from(&key.name), &mut session);
        let length = opened.ok()?.len();
        session.truncate(length);
        Some(session)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tickets").finish_non_exhaustive()
    }
}

/// The keys that open tickets in a period.
struct Keys {
    period: u64,
    current: Key,
    /// `None` before the first period.
    previous: Option<Key>,
}

impl Keys {
    fn new(secret: &hkdf::Prk, period: u64) -> Result<Self, Unspecified> {
        let previous = period.checked_sub(1).map(|period| Key::new(secret, period)).transpose()?;
        Ok(Self { period, current: Key::new(secret, period)?, previous })
    }
}

/// The key of a period.
struct Key {
    /// Distinguishes tickets of this key from others. It is derived from the secret, but nothing is derived from it.
    name: [u8; NAME_BYTES],
    aead: RandomizedNonceKey,
}

impl Key {
    fn new(secret: &hkdf::Prk, period: u64) -> Result<Self, Unspecified> {
        let period = period.to_be_bytes();
        let (mut name, mut key) = ([0; NAME_BYTES], Zeroizing::new([0; KEY_BYTES]));
        secret.expand(&[b"name", &period], Length(NAME_BYTES))?.fill(&mut name)?;
        secret.expand(&[b"key", &period], Length(KEY_BYTES))?.fill(&mut *key)?;
        Ok(Self { name, aead: RandomizedNonceKey::new(&AES_256_GCM, &*key)? })
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
