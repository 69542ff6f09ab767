//! The connections of a server, one by one or by their peers, and the end of one of them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::count::Count;
use crate::endpoint::Endpoint;

/// Connections or peers that one answer may list.
pub const CONNECTIONS_LISTED_MAX: usize = 1_000;

/// The number of connections to list if a request does not give one.
pub const CONNECTIONS_LISTED: usize = 20;

/// The name of a connection of a server: `PID-SLOT-GENERATION`, with its worker's process, and its identifier there. No
/// other connection of a worker ever has the same name. A connection that moves to another worker gets another name
/// there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionName {
    /// The process of its worker.
    pub pid: u32,
    /// Its slot in the worker.
    pub slot: u32,
    /// How many connections had this slot before it.
    pub generation: u32,
}

/// A text that is not the name of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an ID is PID-SLOT-GENERATION, such as 4711-12-0; `batonctl connections` lists them")]
pub struct NotAConnectionName;

impl fmt::Display for ConnectionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}-{}", self.pid, self.slot, self.generation)
    }
}

impl FromStr for ConnectionName {
    type Err = NotAConnectionName;

    fn from_str(text: &str) -> Result<Self, NotAConnectionName> {
        let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let mut parts = text.split('-').map(|part| Some(part).filter(is_number)?.parse().ok());
        let mut next = || parts.next().flatten().ok_or(NotAConnectionName);
        let name = Self { pid: next()?, slot: next()?, generation: next()? };
        if parts.next().is_some() { Err(NotAConnectionName) } else { Ok(name) }
    }
}

impl Serialize for ConnectionName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConnectionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Which connections are listed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionOrder {
    /// Those that were accepted first.
    #[default]
    Oldest,
    /// Those that receive and send most often. The server counts for a second before it answers.
    Busiest,
    /// Not single connections, but how many each peer has; those with the most first.
    ByPeer,
}

impl fmt::Display for ConnectionOrder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Oldest => "the oldest first",
            Self::Busiest => "the busiest first",
            Self::ByPeer => "those with the most connections first",
        })
    }
}

/// The peer of a connection: the client that a trusted proxy has named, else the connected process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConnectionPeer {
    /// A peer with this address.
    Tcp {
        /// The address.
        address: SocketAddr,
    },
    /// A process of this machine, by a Unix socket.
    Unix {
        /// Its number when it connected; 0 if it is in another namespace.
        pid: i32,
        /// Its user.
        user: u32,
    },
    /// The peer has gone, or is not connected yet; or it is of a kind of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for ConnectionPeer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address } => address.fmt(formatter),
            Self::Unix { pid, user } => write!(formatter, "unix:pid {pid}, user {user}"),
            Self::Unknown => formatter.write_str("-"),
        }
    }
}

/// Peers whose connections are counted together: those with the same address, whatever their ports, or those of one
/// user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PeerHost {
    /// All peers with this address.
    Tcp {
        /// The address.
        address: IpAddr,
    },
    /// Processes of this user, by Unix sockets.
    Unix {
        /// The user.
        user: u32,
    },
    /// The peers have gone, or are not connected yet; or they are of a kind of a later version.
    #[serde(other)]
    Unknown,
}

impl From<ConnectionPeer> for PeerHost {
    fn from(peer: ConnectionPeer) -> Self {
        match peer {
            ConnectionPeer::Tcp { address } => Self::Tcp { address: address.ip().to_canonical() },
            ConnectionPeer::Unix { user, .. } => Self::Unix { user },
            ConnectionPeer::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for PeerHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address } => address.fmt(formatter),
            Self::Unix { user } => write!(formatter, "unix:user {user}"),
            Self::Unknown => formatter.write_str("-"),
        }
    }
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// An outbound one is being established.
    Connecting,
    /// The proxy's header has not arrived.
    Header,
    /// The handshake of its layer, such as TLS, is in progress.
    Handshake,
    /// The protocol serves it.
    Open,
    /// It is moving to another worker.
    Moving,
    /// It is ending: the last bytes are sent, or the server waits for the peer's end.
    Closing,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Connecting => "connecting",
            Self::Header => "header",
            Self::Handshake => "handshake",
            Self::Open => "open",
            Self::Moving => "moving",
            Self::Closing => "closing",
            Self::Unknown => "unknown",
        })
    }
}

/// What a worker knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectionFacts {
    /// The peer.
    pub peer: ConnectionPeer,
    /// The address of this machine at which it arrived, or from which it goes out; `None` for a Unix socket without a
    /// path, or if the connection has gone.
    pub local: Option<Endpoint>,
    /// Its state.
    pub state: ConnectionState,
    /// It has a layer, such as TLS.
    pub is_layered: bool,
    /// Milliseconds since it was accepted or established. A move to another worker does not reset it.
    pub age_ms: u64,
    /// Milliseconds since input last arrived or output last ended.
    pub idle_ms: u64,
    /// Bytes that its worker holds for it: input, output, and what the protocol reports.
    pub held_bytes: u64,
    /// How often it received or sent per second; only in a list of the busiest.
    pub events_per_second: Option<u32>,
}

/// A connection, and the worker that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Its name.
    pub id: ConnectionName,
    /// Its worker's generation.
    pub generation: u32,
    /// Its worker's slot.
    pub worker: usize,
    /// What its worker knows of it.
    #[serde(flatten)]
    pub facts: ConnectionFacts,
}

/// The number of a peer's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The peer.
    pub peer: PeerHost,
    /// The least number that it can have.
    pub connections: u64,
    /// The greatest number that it can have: each worker reports only the peers with the most connections there.
    pub connections_max: u64,
}

/// Why a worker's connections are not in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerSilence {
    /// The master could not ask it, or it has not answered in time.
    Late,
    /// It has ended, or is being killed.
    Ended,
    /// Its master is gone, and this one did not start it.
    Orphaned,
    /// For a reason of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for WorkerSilence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Late => "has not answered in time",
            Self::Ended => "has ended meanwhile",
            Self::Orphaned => "is of a master that is gone, and is not asked",
            Self::Unknown => "has not answered",
        })
    }
}

/// A worker whose connections are not in an answer, or not all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SilentWorker {
    /// Its process.
    pub pid: u32,
    /// Its generation.
    pub generation: u32,
    /// Its slot.
    pub worker: usize,
    /// Why.
    pub why: WorkerSilence,
}

impl fmt::Display for SilentWorker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, generation, worker, why } = self;
        write!(formatter, "worker {generation}.{worker} (pid {pid}) {why}")
    }
}

/// The connections of one master's workers, or their peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectionList {
    /// The master's process.
    pub pid: u32,
    /// Which come first.
    pub order: ConnectionOrder,
    /// The connections in this order, up to the limit of the request; empty if the request asked for peers.
    pub connections: Vec<ConnectionStatus>,
    /// The peers with the most connections first, up to the limit of the request.
    pub peers: Vec<PeerStatus>,
    /// The number of all connections of the workers that have answered.
    pub total: u64,
    /// How many workers have answered.
    pub workers: usize,
    /// Workers that have not answered.
    pub silent: Vec<SilentWorker>,
}

impl fmt::Display for ConnectionList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, connections, peers, total, workers, silent, .. } = self;
        let (total, workers) = (Count(*total, "connection"), super::count::workers(*workers));
        if *order == ConnectionOrder::ByPeer {
            let peers = Count(peers.len() as u64, "peer");
            write!(formatter, "{peers} shown, {order}; {total} of {workers}")?;
        } else {
            write!(formatter, "{} of {total} of {workers}, {order}", connections.len())?;
        }
        silent.iter().try_for_each(|one| write!(formatter, "; {one}"))
    }
}

/// Why a connection was not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CannotClose {
    /// No worker of this master has this process number: the worker has ended, or belongs to another master.
    NoWorker,
    /// Its worker has no such connection any more.
    Gone,
    /// It is moving to another worker.
    Moving,
    /// It has moved to another worker before it ended.
    Moved,
    /// Its worker is already closing as many connections as it may at the same time.
    TooMany,
    /// Its worker has not answered in time.
    Late,
    /// Its worker has ended meanwhile.
    WorkerEnded,
    /// For a reason of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for CannotClose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const AGAIN: &str = "`batonctl connections` lists current connections with their IDs";
        match self {
            Self::NoWorker => {
                write!(
                    formatter,
                    "its worker has ended, and the connection with it unless it has moved to another worker; {AGAIN}"
                )
            }
            Self::Gone => write!(formatter, "it has ended, or has moved to another worker; {AGAIN}"),
            Self::Moving => write!(formatter, "it is moving to another worker; {AGAIN}"),
            Self::Moved => write!(formatter, "it moved to another worker before it ended; {AGAIN}"),
            Self::TooMany => formatter.write_str("its worker is closing too many others; try again"),
            Self::Late => formatter.write_str("its worker has not answered in time; see `batonctl status`"),
            Self::WorkerEnded => {
                write!(
                    formatter,
                    "its worker has just ended, and the connection with it unless it has moved to another worker; {AGAIN}"
                )
            }
            Self::Unknown => formatter.write_str("for a reason that this version does not know"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::check;
    use super::*;

    pub(crate) const NAME: ConnectionName = ConnectionName { pid: 7, slot: 12, generation: 0 };

    pub(crate) const LIST: &str = "0 of 4312 connections of 2 workers, the busiest first; worker 2.1 (pid 8) has not \
                                   answered in time";

    pub(crate) fn list() -> ConnectionList {
        let silent = vec![SilentWorker { pid: 8, generation: 2, worker: 1, why: WorkerSilence::Late }];
        let (order, connections, peers) = (ConnectionOrder::Busiest, Vec::new(), Vec::new());
        ConnectionList { pid: 1, order, connections, peers, total: 4_312, workers: 2, silent }
    }

    #[test]
    fn what_people_read() {
        let source = include_str!("connections.rs");
        let again = "`batonctl connections` lists current connections with their IDs";
        let table = [
            (
                CannotClose::NoWorker,
                &*format!(
                    "its worker has ended, and the connection with it unless it has moved to another worker; {again}"
                ),
            ),
            (CannotClose::Gone, &format!("it has ended, or has moved to another worker; {again}")),
            (CannotClose::Moving, &format!("it is moving to another worker; {again}")),
            (CannotClose::Moved, &format!("it moved to another worker before it ended; {again}")),
            (CannotClose::TooMany, "its worker is closing too many others; try again"),
            (CannotClose::Late, "its worker has not answered in time; see `batonctl status`"),
            (
                CannotClose::WorkerEnded,
                &format!(
                    "its worker has just ended, and the connection with it unless it has moved to another worker; {again}"
                ),
            ),
        ];
        check(source, "CannotClose", None, &CannotClose::Unknown, &table);
        let table = [
            (WorkerSilence::Late, "has not answered in time"),
            (WorkerSilence::Ended, "has ended meanwhile"),
            (WorkerSilence::Orphaned, "is of a master that is gone, and is not asked"),
        ];
        check(source, "WorkerSilence", None, &WorkerSilence::Unknown, &table);
        let table = [
            (ConnectionState::Connecting, "connecting"),
            (ConnectionState::Header, "header"),
            (ConnectionState::Handshake, "handshake"),
            (ConnectionState::Open, "open"),
            (ConnectionState::Moving, "moving"),
            (ConnectionState::Closing, "closing"),
        ];
        check(source, "ConnectionState", None, &ConnectionState::Unknown, &table);
        let table = [
            (ConnectionPeer::Tcp { address: ([127, 0, 0, 1], 9).into() }, "127.0.0.1:9"),
            (ConnectionPeer::Unix { pid: 9, user: 5 }, "unix:pid 9, user 5"),
        ];
        check(source, "ConnectionPeer", Some("kind"), &ConnectionPeer::Unknown, &table);
        let table = [
            (PeerHost::Tcp { address: [127, 0, 0, 1].into() }, "127.0.0.1"),
            (PeerHost::Unix { user: 5 }, "unix:user 5"),
        ];
        check(source, "PeerHost", Some("kind"), &PeerHost::Unknown, &table);
        let by_peer = ConnectionList { order: ConnectionOrder::ByPeer, silent: Vec::new(), ..list() };
        assert_eq!(
            by_peer.to_string(),
            "0 peers shown, those with the most connections first; 4312 connections of 2 workers"
        );
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = ConnectionName { pid: 4711, slot: 12, generation: 0 };
        assert_eq!(name.to_string(), "4711-12-0");
        assert_eq!("4711-12-0".parse(), Ok(name));
        let json = serde_json::to_string(&name).expect("JSON");
        assert_eq!((json.as_str(), serde_json::from_str(&json).expect("read again")), ("\"4711-12-0\"", name));
        for text in
            ["", "-", "--", "1-2", "1-2-", "-1-2", "1-2-3-4", "1-2-3-", "+1-2-3", "1-2-4294967296", "1 -2-3", "a-b-c"]
        {
            assert_eq!(text.parse::<ConnectionName>(), Err(NotAConnectionName), "{text:?}");
        }
    }

    #[test]
    fn an_address_is_one_peer_however_it_is_written() {
        let host =
            |address: &str| PeerHost::from(ConnectionPeer::Tcp { address: address.parse().expect("an address") });
        assert_eq!(host("192.0.2.1:1"), host("[::ffff:192.0.2.1]:2"));
        assert_ne!(host("192.0.2.1:1"), host("192.0.2.2:1"));
        let unix = |pid, user| PeerHost::from(ConnectionPeer::Unix { pid, user });
        assert_eq!((unix(1, 5), unix(2, 5).to_string().as_str()), (unix(3, 5), "unix:user 5"));
    }
}
