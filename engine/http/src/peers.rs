//! The addresses of peers, if answers are recorded: three bytes in each connection, instead of a pointer in all of
//! them.

use std::fmt;
use std::net::SocketAddr;

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// The connected peer, or the client that a trusted proxy has named.
    Internet(SocketAddr),
    /// A client on a Unix socket, where peers have no address.
    Unix,
}

impl fmt::Display for Client {
    /// The IP address, as IPv4 if it is mapped into IPv6; `unix:` for Unix sockets, as in nginx.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internet(address) => address.ip().to_canonical().fmt(formatter),
            Self::Unix => formatter.write_str("unix:"),
        }
    }
}

/// Addresses of connections.
#[derive(Default)]
pub(crate) struct Peers {
    addresses: Vec<SocketAddr>,
    free: Vec<usize>,
}

/// The index of a connection's address, counted from 1; 0 if none is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerPlace([u8; 3]);

impl PeerPlace {
    /// Stands for all clients on Unix sockets.
    pub(crate) const UNIX: Self = Self([u8::MAX; 3]);

    fn index(self) -> Option<usize> {
        let [low, middle, high] = self.0;
        let count = usize::try_from(u32::from_le_bytes([low, middle, high, 0])).ok()?;
        if self == Self::UNIX { None } else { count.checked_sub(1) }
    }

    /// `None` beyond 16,777,213, which is more than a worker has connections.
    fn of_index(index: usize) -> Option<Self> {
        let [low, middle, high, rest] = u32::try_from(index).ok()?.checked_add(1)?.to_le_bytes();
        Some(Self([low, middle, high])).filter(|place| rest == 0 && *place != Self::UNIX)
    }
}

impl Peers {
    pub(crate) fn add(&mut self, address: SocketAddr) -> PeerPlace {
        let index = self.free.pop().unwrap_or(self.addresses.len());
        let Some(place) = PeerPlace::of_index(index) else { return PeerPlace::default() };
        match self.addresses.get_mut(index) {
            Some(slot) => *slot = address,
            None => self.addresses.push(address),
        }
        place
    }

    pub(crate) fn get(&self, place: PeerPlace) -> Option<Client> {
        if place == PeerPlace::UNIX {
            return Some(Client::Unix);
        }
        self.addresses.get(place.index()?).copied().map(Client::Internet)
    }

    pub(crate) fn remove(&mut self, place: PeerPlace) {
        self.free.extend(place.index());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut peers = Peers::default();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let places = [1, 2, 3].map(|port| peers.add(address(port)));
        peers.remove(places[1]);
        assert_eq!(peers.add(address(4)), places[1]);
        assert_eq!(places.map(|place| peers.get(place)), [1, 4, 3].map(|port| Some(Client::Internet(address(port)))));
        assert_eq!(peers.get(PeerPlace::default()), None);
        assert_eq!(peers.get(PeerPlace::UNIX), Some(Client::Unix));
        peers.remove(PeerPlace::default());
        peers.remove(PeerPlace::UNIX);
        assert_eq!(peers.addresses.len(), 3);
    }

    #[test]
    fn places_have_three_bytes() {
        let last = (1 << 24) - 3;
        assert_eq!(PeerPlace::of_index(last).and_then(PeerPlace::index), Some(last));
        assert_eq!(PeerPlace::of_index(last + 1), None);
    }
}
