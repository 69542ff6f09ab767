//! Records after the handshake: of TLS 1.3 (RFC 8446 section 5) for servers and clients, and of TLS 1.2 (RFC 5246
//! section 6) for servers.
//!
//! A [`Session`] opens and seals records in place. It owns the keys and the sequence numbers, follows KeyUpdates of
//! both sides, and knows the alert for each error. It keeps no byte of the stream, except the start of a handshake
//! message that is split between two records.

mod control;
mod direction;
mod error;
mod header;
mod opening;
mod sealing;
#[cfg(test)]
mod tests;
mod tickets;
mod tls12;

pub use self::control::Control;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::direction::TAG_BYTES;
pub(crate) use self::direction::{Direction, Source};
pub use self::error::{Error, SealError};
pub use self::header::{HEADER_BYTES, PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX};
pub use self::opening::{Opened, Status, Window};
pub use self::sealing::{OVERHEAD_BYTES, TRAILER_BYTES};
pub(crate) use self::tickets::Tickets;
pub(crate) use self::tls12::Refusing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::tls12::sealed_bytes_tls12;
use crate::schedule::{Secret, Suite};
use crate::settings::Version;

/// Bytes of a KeyUpdate (RFC 8446 section 4.6.3), the only handshake message that a client may send after the handshake.
pub(crate) const KEY_UPDATE_BYTES: usize = 5;

/// Its type and its length: all of it except the request.
pub(crate) const KEY_UPDATE_START: [u8; KEY_UPDATE_BYTES - 1] = [24, 0, 0, 1];

/// Limits of a session. They are not part of its state, and may be different after a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of plaintext in a sent record: 1 to [`PLAINTEXT_BYTES_MAX`], which is the default.
    pub plaintext_bytes_max: usize,
    /// Records that one key may seal before a KeyUpdate; `None`, the default: those of the suite
    /// ([`Suite::records_per_key_max`]), which limit this number in any case. TLS 1.2 has no KeyUpdate: after this many records
    /// [`Session::should_end`] says to end the connection, and after two fifths more nothing is sealed.
    pub records_per_key_max: Option<u64>,
    /// Records without application data that the peer may send in a row (empty records, KeyUpdates, ignored alerts), so that it cannot
    /// keep a server busy with them. Default: 32, as in BoringSSL and rustls.
    pub idle_records_max: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { plaintext_bytes_max: PLAINTEXT_BYTES_MAX, records_per_key_max: None, idle_records_max: 32 }
    }
}

/// Sanitised [`Limits`], for one suite.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    plaintext_bytes_max: usize,
    records_per_key_max: u64,
    idle_records_max: u8,
}

/// One connection after its handshake.
#[derive(Debug)]
pub struct Session {
    pub(crate) opening: Direction,
    pub(crate) sealing: Direction,
    limits: Bounds,
    /// Its records are those of TLS 1.2.
    is_tls12: bool,
    /// An incomplete KeyUpdate; with TLS 1.2 the type and the length of a ClientHello.
    pub(crate) begun: Begun,
    /// Records without application data since the last one with some.
    pub(crate) idle_records: u8,
    /// The peer has requested a KeyUpdate, or another handshake: the answer is sent before the next record.
    pub(crate) owes_answer: bool,
    /// Handshakes that the peer requests, with TLS 1.2.
    pub(crate) refusing: Refusing,
    /// `close_notify` has arrived: what follows is ignored.
    pub(crate) peer_closed: bool,
    /// `close_notify` or another alert was sealed: nothing follows.
    pub(crate) closed: bool,
    failure: Option<Error>,
    /// `Some` on the client's side.
    pub(crate) tickets: Option<Box<Tickets>>,
}

/// The first bytes of a handshake message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) bytes: [u8; KEY_UPDATE_BYTES],
    pub(crate) length: u8,
}

impl Session {
    /// Both directions from their first record on, on the server's side; for the client's see [`Session::of_client`].
    /// `peer` is the secret of what the peer sends, `own` that of what is sent to it.
    ///
    /// # Panics
    /// If the secrets are of two suites.
    pub fn new(peer: Secret, own: Secret, limits: Limits) -> Self {
        Self::at(Direction::new(peer, 0), Direction::new(own, 0), limits)
    }

    /// Both directions at any sequence numbers.
    pub(crate) fn at(opening: Direction, sealing: Direction, limits: Limits) -> Self {
        assert!(opening.suite() == sealing.suite(), "both directions of a connection have one suite");
        let Limits { plaintext_bytes_max, records_per_key_max, idle_records_max } = limits;
        let of_suite = sealing.suite().records_per_key_max();
        let limits = Bounds {
            plaintext_bytes_max: plaintext_bytes_max.clamp(1, PLAINTEXT_BYTES_MAX),
            records_per_key_max: records_per_key_max.map_or(of_suite, |most| most.clamp(1, of_suite)),
            idle_records_max,
        };
        Self {
            is_tls12: sealing.suite().version() == Version::Tls12,
            opening,
            sealing,
            limits,
            begun: Begun::default(),
            idle_records: 0,
            owes_answer: false,
            refusing: Refusing::default(),
            peer_closed: false,
            closed: false,
            failure: None,
            tickets: None,
        }
    }

    /// The suite of both directions.
    pub fn suite(&self) -> Suite {
        self.opening.suite()
    }

    /// Whether the peer has sent `close_notify`: a FIN after it is not a truncation.
    pub fn has_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Whether nothing more can be sealed: `close_notify` or another alert was.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Frees the memory of the keys, about a kilobyte, for an idle connection. The next record of each direction
    /// derives them again from the secrets, which takes a few microseconds.
    pub fn rest(&mut self) {
        self.opening.rest();
        self.sealing.rest();
    }

    /// The error that has ended the direction from the peer, if any.
    pub fn failure(&self) -> Option<Error> {
        self.failure
    }
}
