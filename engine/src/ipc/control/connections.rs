//! The connections of a server, one by one or by their peers, and the end of one of them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::count::Count;
use crate::endpoint::Endpoint;

/// Connections or peers that one answer may list.
pub const CONNECTIONS_LISTED_MAX: usize = 1_000;

/// As many are listed where nobody says how many.
pub const CONNECTIONS_LISTED: usize = 20;

/// Names a connection of a server: `PID-SLOT-GENERATION`, with its worker's process, and what it is called there. No other
/// connection of a worker ever has the same name. A connection that moves to another worker has another name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionName {
    /// The process of its worker.
    pub pid: u32,
    /// Its place in the worker.
    pub slot: u32,
    /// How many connections had this place before it.
    pub generation: u32,
}

/// Text that names no connection.
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
    /// Those that receive and send most often. This is counted for a second before the answer comes.
    Busiest,
    /// Not one by one, but how many each peer has; those with the most first.
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

/// Who is at the other end of a connection: as a trusted proxy has said, else whoever is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConnectionPeer {
    /// Whoever has this address.
    Tcp {
        /// The address.
        address: SocketAddr,
    },
    /// A process of this machine, by a Unix socket.
    Unix {
        /// Its number when it connected; 0 where it is in another namespace.
        pid: i32,
        /// Its user.
        user: u32,
    },
    /// It has gone, or is not reached yet; or it is of a kind of a later version.
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

/// Whose connections are counted together: those of one address, whatever their ports, or of one user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PeerHost {
    /// Whoever has this address.
    Tcp {
        /// The address.
        address: IpAddr,
    },
    /// Processes of this user, by Unix sockets.
    Unix {
        /// The user.
        user: u32,
    },
    /// They have gone, or are not reached yet; or they are of a kind of a later version.
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

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// An outbound one is being established.
    Connecting,
    /// A proxy is to say whose it is.
    Header,
    /// Its layer, such as TLS, is being set up.
    Handshake,
    /// The protocol serves it.
    Open,
    /// It is on its way to another worker.
    Moving,
    /// It ends: the last bytes are sent, or the peer's end is awaited.
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
    /// Who is at the other end.
    pub peer: ConnectionPeer,
    /// The address of this machine that it came to, or goes out from; none where that is a Unix socket without a path, or the
    /// connection has gone.
    pub local: Option<Endpoint>,
    /// How far it is.
    pub state: ConnectionState,
    /// It has a layer, such as TLS.
    pub is_layered: bool,
    /// Since it was accepted or established, milliseconds. It goes on when the connection moves to another worker.
    pub age_ms: u64,
    /// Since input last arrived or output last ended, milliseconds.
    pub idle_ms: u64,
    /// What its worker holds for it: input, output, and what the protocol has said, bytes.
    pub held_bytes: u64,
    /// How often it received or sent in a second; where the busiest were asked for.
    pub events_per_second: Option<u32>,
}

/// A connection, and where it is.
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

/// How many connections a peer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Whose they are.
    pub peer: PeerHost,
    /// How many it has at least.
    pub connections: u64,
    /// How many it has at most: each worker tells of those peers only that have the most there.
    pub connections_max: u64,
}

/// Why a worker's connections are not in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerSilence {
    /// It could not be asked, or has not answered in time.
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
    /// Which are first.
    pub order: ConnectionOrder,
    /// In this order, as many as were asked for; none where peers were asked for.
    pub connections: Vec<ConnectionStatus>,
    /// Those with the most connections first, as many as were asked for.
    pub peers: Vec<PeerStatus>,
    /// How many connections the workers have that have answered.
    pub total: u64,
    /// How many workers have answered.
    pub workers: usize,
    /// Those that have not.
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
    /// No worker of this master has this process number: the worker has ended, or is another master's.
    NoWorker,
    /// Its worker has no such connection any more.
    Gone,
    /// It is on its way to another worker.
    Moving,
    /// It has moved to another worker before it ended.
    Moved,
    /// Its worker closes as many already as it may at a time.
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
