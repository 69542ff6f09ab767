//! A connection on its way from one worker to another, as plain data.

use serde::{Deserialize, Serialize};

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

/// Where a connection stands, apart from bytes. Times are lengths, since clocks of two machines or binaries have no common
/// start that they could rely on. What a later version adds has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Standing {
    /// Input wanted before the protocol is called again.
    pub(crate) at_least: u32,
    pub(crate) paused: bool,
    pub(crate) full: bool,
    pub(crate) rerun: bool,
    pub(crate) peer_ended: bool,
    pub(crate) eof_told: bool,
    pub(crate) write_end: WriteEnd,
    pub(crate) is_hung_up: bool,
    /// A proxy has not said yet whose it is: the protocol does not know of it, and there is no state.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) awaits_header: bool,
    /// Since input last arrived or output last ended.
    pub(crate) idle_ns: u64,
    /// Since the first byte of the message in the input.
    pub(crate) message_ns: Option<u64>,
    /// Since the peer last took output.
    pub(crate) stalled_ns: u64,
    /// Workers that were leaving when they got it, one after the other.
    pub(crate) passes: u8,
    /// Time-outs that the protocol has set for it.
    #[serde(skip_serializing_if = "ConnectionTimeouts::is_default")]
    pub(crate) timeouts: ConnectionTimeouts,
    /// The protocol's timers, with the time that is left.
    pub(crate) timers_ns: Vec<(u16, u64)>,
}

/// A connection between two workers: everything but its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub(crate) standing: Standing,
    /// What the protocol wrote.
    pub(crate) state: Vec<u8>,
    /// Not consumed.
    pub(crate) input: Vec<u8>,
    /// Not sent.
    pub(crate) output: Vec<u8>,
    /// What a proxy has said about it.
    pub(crate) proxy: Vec<u8>,
}

impl Frozen {
    /// All bytes, in the order in which they travel.
    pub(crate) fn parts(&self) -> [&[u8]; 4] {
        [&self.state, &self.input, &self.output, &self.proxy]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}
