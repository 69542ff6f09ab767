//! An address to listen on, with its own settings.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::layer::{Layers, SharedLayers};

use super::{InvalidSetting, TIMEOUT_MS_LARGEST};

/// An address to listen on, with its own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Port 0 lets the kernel choose one, the same for all workers. All workers share one Unix socket. The server that starts creates
    /// its path with the mode [`Settings::unix_mode`](super::Settings::unix_mode), in place of one that a dead server left. The path goes
    /// along with the socket at a handover, and is removed when no process has the socket any more.
    pub address: Endpoint,
    /// Time-outs of the connections at this address.
    pub timeouts: ConnectionTimeouts,
    /// If this is not empty, only proxies in these networks may connect, and each first sends the client's address by the PROXY protocol
    /// (version 1 or 2): [`Peer::address`](crate::Peer::address) is then the client's, and
    /// [`Peer::proxy`](crate::Peer::proxy) has the rest. All other peers are reset, and so is a proxy whose header is malformed,
    /// longer than [`PROXY_HEADER_BYTES_MAX`](crate::PROXY_HEADER_BYTES_MAX), or not complete within
    /// [`message_ms`](super::Timeouts::message_ms); each is counted as
    /// [`CloseReason::ProxyHeader`](crate::CloseReason::ProxyHeader).
    ///
    /// The header moves with the connection. A connection whose header has not come yet moves, too, with the time that is left for it.
    pub trusted_proxies: Vec<Network>,
    /// The same for a Unix socket, where peers have no address: every process that may open its path is trusted.
    pub trusts_all_proxies: bool,
    /// The layer between the bytes of a connection and its protocol, such as TLS. A PROXY header comes before it.
    pub layer: Option<SharedLayers>,
    /// A number that tells a protocol the listener of a connection, with [`Io::label`](crate::Io::label). The default is 0.
    /// A connection that moves gets the label of the new worker's listener at the same address.
    pub label: u8,
}

impl Listener {
    /// Without settings of its own.
    pub fn new(address: impl Into<Endpoint>) -> Self {
        let (timeouts, trusted_proxies) = (ConnectionTimeouts::default(), Vec::new());
        Self { address: address.into(), timeouts, trusted_proxies, trusts_all_proxies: false, layer: None, label: 0 }
    }

    /// The same with a [layer](Listener::layer).
    #[must_use]
    pub fn with_layer(self, layers: impl Layers + 'static) -> Self {
        Self { layer: Some(SharedLayers::new(layers)), ..self }
    }

    /// Whether connections that arrive here must be handled specially before they are like all others.
    pub(crate) fn is_special(&self) -> bool {
        *self != Self::new(self.address)
    }

    /// Whether peers here are proxies, which name the clients whose connections they pass on.
    pub(crate) fn is_for_proxies(&self) -> bool {
        !self.trusted_proxies.is_empty() || self.trusts_all_proxies
    }

    /// Whether this peer may do so. The kernel gives no address for a peer of a Unix socket.
    pub(crate) fn trusts(&self, proxy: Option<SocketAddr>) -> bool {
        self.trusts_all_proxies
            || proxy.is_some_and(|proxy| self.trusted_proxies.iter().any(|network| network.contains(proxy.ip())))
    }

    fn validate(&self) -> Result<(), InvalidSetting> {
        let ConnectionTimeouts { idle_ms, message_ms, write_ms } = self.timeouts;
        for (name, value) in [("idle_ms", idle_ms), ("message_ms", message_ms), ("write_ms", write_ms)] {
            if let Some(value) = value.filter(|value| *value > TIMEOUT_MS_LARGEST) {
                let problem = format!(
                    "{name} of {} must be at most {TIMEOUT_MS_LARGEST} (seven days), not {value}",
                    self.address
                );
                return Err(InvalidSetting { setting: "listen", problem });
            }
        }
        if self.address.is_unix() && !self.trusted_proxies.is_empty() {
            let problem = format!("{} has trusted proxies, but peers of a Unix socket have no address", self.address);
            return Err(InvalidSetting { setting: "listen", problem });
        }
        if !self.address.is_unix() && self.trusts_all_proxies {
            let problem = format!("{} trusts all proxies, so any client could claim any address", self.address);
            return Err(InvalidSetting { setting: "listen", problem });
        }
        Ok(())
    }
}

/// Checks that a server can listen there, with files of this mode.
pub(super) fn validate(listen: &[Listener], unix_mode: u32) -> Result<(), InvalidSetting> {
    for (index, listener) in listen.iter().enumerate() {
        let address = listener.address;
        if !address.is_chosen_by_kernel() && listen[..index].iter().any(|before| before.address == address) {
            let problem = format!("{address} is given twice (entry {})", index + 1);
            return Err(InvalidSetting { setting: "listen", problem });
        }
        listener.validate()?;
    }
    if unix_mode & !0o777 != 0 || unix_mode & 0o200 == 0 {
        let problem =
            format!("must be an octal mode such as 666 or 660 that lets the owner connect, not {unix_mode:o}");
        return Err(InvalidSetting { setting: "unix_mode", problem });
    }
    Ok(())
}

impl<T: Into<Endpoint>> From<T> for Listener {
    fn from(address: T) -> Self {
        Self::new(address)
    }
}

/// A network, such as `10.0.0.0/8` or `fd00::/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

impl Network {
    /// Whether the address is in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| format!("{text:?} is not a network such as 10.0.0.0/8, or an address"))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Time-outs of one connection, or of one listener's connections, in milliseconds. 0 turns one off; `None` keeps the value of
/// [`Timeouts`](super::Timeouts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionTimeouts {
    /// Instead of [`Timeouts::idle_ms`](super::Timeouts::idle_ms).
    pub idle_ms: Option<u64>,
    /// Instead of [`Timeouts::message_ms`](super::Timeouts::message_ms).
    pub message_ms: Option<u64>,
    /// Instead of [`Timeouts::write_ms`](super::Timeouts::write_ms).
    pub write_ms: Option<u64>,
}

impl ConnectionTimeouts {
    /// Fills values that are missing here from `below`.
    pub(crate) fn over(self, below: Self) -> Self {
        Self {
            idle_ms: self.idle_ms.or(below.idle_ms),
            message_ms: self.message_ms.or(below.message_ms),
            write_ms: self.write_ms.or(below.write_ms),
        }
    }

    /// Whether no value is set.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Limits each value to the largest allowed one.
    pub(crate) fn bounded(self) -> Self {
        let bounded = |ms: Option<u64>| ms.map(|ms| ms.min(TIMEOUT_MS_LARGEST));
        Self { idle_ms: bounded(self.idle_ms), message_ms: bounded(self.message_ms), write_ms: bounded(self.write_ms) }
    }
}

/// The one of `listeners` at which a connection has arrived, by its local address.
pub(crate) fn listener_of(listeners: &[Listener], local: Endpoint) -> Option<&Listener> {
    let find = |is_it: &dyn Fn(Endpoint) -> bool| listeners.iter().find(|one| is_it(one.address));
    let is_wildcard = |address: Endpoint| {
        let both = address.internet().zip(local.internet());
        both.is_some_and(|(one, local)| {
            one.port() == local.port() && one.ip().is_unspecified() && one.is_ipv4() == local.is_ipv4()
        })
    };
    find(&|address| address == local).or_else(|| find(&|address| address.is_at(local))).or_else(|| find(&is_wildcard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_as_people_write_them() {
        let contains = |network: &str, address: &str| {
            let network: Network = network.parse().expect("a network");
            network.contains(address.parse().expect("an address"))
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.1.2.3/8", "10.255.0.1") && contains("10.1.2.3", "10.1.2.3"));
        assert!(contains("10.0.0.0/8", "::ffff:10.0.0.1") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("fd00::/8", "fd12::1") && contains("::1", "::1") && !contains("::1", "::2"));
        for wrong in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "localhost", "10.0.0"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_connection_belongs_to_the_listener_that_names_its_address_most_closely() {
        let listeners = ["0.0.0.0:80", "127.0.0.1:80", "[::]:80", "[::1]:81"]
            .map(|address| Listener::new(address.parse::<Endpoint>().expect("an address")));
        let find = |local: &str| {
            let local = local.parse().expect("an address");
            listener_of(&listeners, local).map(|listener| listener.address.to_string())
        };
        assert_eq!(find("127.0.0.1:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(find("127.0.0.2:80").as_deref(), Some("0.0.0.0:80"));
        assert_eq!(find("[::1]:80").as_deref(), Some("[::]:80"));
        assert_eq!(find("[::1]:81").as_deref(), Some("[::1]:81"));
        assert_eq!(find("127.0.0.1:81"), None);
    }
}
