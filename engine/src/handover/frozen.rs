//! A connection that is moving from one worker to another, as plain data.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::ConnectionTimeouts;

/// The direction towards the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WriteEnd {
    #[default]
    Open,
    /// FIN follows what is queued.
    Ending,
    /// FIN is sent.
    Ended,
}

/// The state of a connection, apart from bytes. Times are durations, since the clocks of two machines or binaries have
/// no common origin. Fields that a later version adds have a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Standing {
    /// Bytes of input to wait for before the protocol is called again.
    pub(crate) at_least: u32,
    pub(crate) paused: bool,
    pub(crate) full: bool,
    pub(crate) rerun: bool,
    pub(crate) peer_ended: bool,
    pub(crate) eof_told: bool,
    pub(crate) write_end: WriteEnd,
    pub(crate) is_hung_up: bool,
    /// The proxy's header has not arrived: the protocol does not know of the connection, and there is no state.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) awaits_header: bool,
    /// Its layer's handshake has not begun: the protocol does not know of the connection, and there is no state.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) awaits_handshake: bool,
    /// The name of its layer, if it is an outbound connection with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outbound_layer: Option<Box<str>>,
    /// Bytes at the beginning of the input that its layer has already opened.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) opened_bytes: usize,
    /// Time since it was accepted or began to be established, at whichever worker. Earlier releases do not report it.
    pub(crate) age_ns: u64,
    /// Time since input last arrived or output last ended.
    pub(crate) idle_ns: u64,
    /// Time since the first byte of the message in the input.
    pub(crate) message_ns: Option<u64>,
    /// Time since the peer last took output.
    pub(crate) stalled_ns: u64,
    /// Number of leaving workers that got it, one after the other.
    pub(crate) passes: u8,
    /// Time-outs that the protocol has set for it.
    #[serde(skip_serializing_if = "ConnectionTimeouts::is_default")]
    pub(crate) timeouts: ConnectionTimeouts,
    /// The protocol's timers, with the time that is left.
    pub(crate) timers_ns: Vec<(u16, u64)>,
}

/// A connection between two workers: everything except its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub(crate) standing: Standing,
    /// What the protocol wrote.
    pub(crate) state: Vec<u8>,
    /// Input that was not consumed.
    pub(crate) input: Vec<u8>,
    /// Output that was not sent.
    pub(crate) output: Vec<u8>,
    /// The proxy's header.
    pub(crate) proxy: Vec<u8>,
    /// What its layer wrote.
    pub(crate) layer: LayerState,
}

/// What a [layer](crate::layer::Layer) has written. It contains keys, so it is neither displayed nor left in memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct LayerState(Zeroizing<Vec<u8>>);

impl LayerState {
    /// Bytes that a layer may write before the buffer has to grow, which would leave a copy behind.
    const ROOM_BYTES: usize = 1024;

    /// The buffer to write to.
    pub(crate) fn room(&mut self) -> &mut Vec<u8> {
        self.0.reserve_exact(Self::ROOM_BYTES);
        &mut self.0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for LayerState {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for LayerState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

pub(super) fn is_zero(bytes: &usize) -> bool {
    *bytes == 0
}

impl Frozen {
    /// All bytes, in the order in which they travel.
    pub(crate) fn parts(&self) -> [&[u8]; 5] {
        [&self.state, &self.input, &self.output, &self.proxy, self.layer.bytes()]
    }

    /// Its input is encrypted: not yet what the protocol reads.
    pub(crate) fn is_layered(&self) -> bool {
        !self.layer.bytes().is_empty() || self.standing.awaits_handshake
    }

    pub(crate) fn bytes(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}
