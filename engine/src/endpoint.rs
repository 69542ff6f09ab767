//! The address on which a server listens, or to which a connection goes: an internet address, or the path of a Unix
//! socket (unix(7)). As text, and in messages, the latter is `unix:/path`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The prefix of a Unix socket's text.
const UNIX: &str = "unix:";

/// Longest path of a Unix socket, bytes: `sun_path` of unix(7) without the zero byte at its end.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// An address to listen on, or to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A TCP port.
    Internet(SocketAddr),
    /// A Unix stream socket.
    Unix(UnixPath),
}

impl Endpoint {
    /// The address, if it is one of TCP.
    pub fn internet(&self) -> Option<SocketAddr> {
        match self {
            Self::Internet(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path, if it is a Unix socket.
    pub fn unix(&self) -> Option<&Path> {
        match self {
            Self::Internet(_) => None,
            Self::Unix(path) => Some(path.as_path()),
        }
    }

    pub(crate) fn unix_path(&self) -> Option<UnixPath> {
        match self {
            Self::Internet(_) => None,
            Self::Unix(path) => Some(*path),
        }
    }

    /// Whether both are the same place. Scopes and flows of internet addresses (RFC 4007, RFC 6437) are not compared.
    pub(crate) fn is_at(&self, other: Self) -> bool {
        let place = |address: SocketAddr| (address.ip(), address.port());
        match (self.internet(), other.internet()) {
            (Some(one), Some(other)) => place(one) == place(other),
            _ => *self == other,
        }
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Whether the kernel chooses the port.
    pub(crate) fn is_chosen_by_kernel(&self) -> bool {
        matches!(self, Self::Internet(address) if address.port() == 0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internet(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "{UNIX}{path}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        match text.strip_prefix(UNIX) {
            Some(path) => path.parse().map(Self::Unix),
            None => text.parse().map(Self::Internet).map_err(|_| InvalidEndpoint::Address(text.to_owned())),
        }
    }
}

/// The mode of a Unix socket's file, and its owner if that is not this process's user and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SocketFile {
    pub(crate) mode: u32,
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

/// Why a text is not an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEndpoint {
    /// Neither an address nor a path.
    #[error("{0:?} is not an address such as 127.0.0.1:8080, or unix:/path")]
    Address(String),
    /// A reload or an upgrade could happen in another folder.
    #[error("{0:?} is not an absolute path; write unix:/path")]
    Relative(String),
    /// Any user of the machine can take such a name, and connect to it.
    #[error("{0:?} is an abstract name, which has no permissions and is not supported; write unix:/path")]
    Abstract(String),
    /// unix(7) has no room for the path.
    #[error("the path has {0} bytes, and a Unix socket's has at most {UNIX_PATH_BYTES_MAX}")]
    Long(usize),
    /// A reader could see another path.
    #[error("{0:?} has control characters")]
    Control(String),
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Internet(address)
    }
}

impl From<UnixPath> for Endpoint {
    fn from(path: UnixPath) -> Self {
        Self::Unix(path)
    }
}

macro_rules! from_internet {
    ($($address:ty),*) => {
        $(impl From<$address> for Endpoint {
            fn from(address: $address) -> Self {
                Self::Internet(address.into())
            }
        })*
    };
}

from_internet!(
    SocketAddrV4,
    SocketAddrV6,
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16),
    ([u8; 4], u16),
    ([u8; 16], u16),
    ([u16; 8], u16)
);

/// For `TcpStream::connect` and the like, which fail with `Unsupported` for a Unix socket.
impl ToSocketAddrs for Endpoint {
    type Iter = std::option::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        match self {
            Self::Internet(address) => Ok(Some(*address).into_iter()),
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Endpoint;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an address, or unix:/path")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Endpoint, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The absolute path of a Unix socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixPath {
    /// Zero after the path, so that equal paths are equal.
    bytes: [u8; UNIX_PATH_BYTES_MAX],
    length: u8,
}

impl UnixPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(self.as_str())
    }
}

impl FromStr for UnixPath {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        if text.starts_with(['@', '\0']) {
            return Err(InvalidEndpoint::Abstract(text.to_owned()));
        }
        if !text.starts_with('/') {
            return Err(InvalidEndpoint::Relative(text.to_owned()));
        }
        if text.contains(char::is_control) {
            return Err(InvalidEndpoint::Control(text.to_owned()));
        }
        let mut bytes = [0; UNIX_PATH_BYTES_MAX];
        let room = bytes.get_mut(..text.len()).ok_or(InvalidEndpoint::Long(text.len()))?;
        room.copy_from_slice(text.as_bytes());
        Ok(Self { bytes, length: text.len() as u8 })
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(formatter)
    }
}

impl fmt::Debug for UnixPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["127.0.0.1:80", "[::1]:0", "unix:/run/app.sock", "unix:/ä", "unix:/with space"] {
            let endpoint: Endpoint = text.parse().expect("an endpoint");
            assert_eq!(endpoint.to_string(), text);
            let message = serde_json::to_string(&endpoint).expect("written");
            assert_eq!(message, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Endpoint>(&message).expect("read"), endpoint);
        }
        // As a release that only knows TCP has written it, and reads it.
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let message = serde_json::to_string(&address).expect("written");
        assert_eq!(message, serde_json::to_string(&Endpoint::from(address)).expect("written"));
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        let long = format!("unix:/{}", "a".repeat(UNIX_PATH_BYTES_MAX));
        assert_eq!(long.parse::<Endpoint>(), Err(InvalidEndpoint::Long(UNIX_PATH_BYTES_MAX + 1)));
        assert!(long[..long.len() - 1].parse::<Endpoint>().is_ok());
        for (text, error) in [
            ("unix:run/app.sock", InvalidEndpoint::Relative("run/app.sock".to_owned())),
            ("unix:", InvalidEndpoint::Relative(String::new())),
            ("unix:@app", InvalidEndpoint::Abstract("@app".to_owned())),
            ("unix:/a\0b", InvalidEndpoint::Control("/a\0b".to_owned())),
            ("unix:/a\nb", InvalidEndpoint::Control("/a\nb".to_owned())),
            ("/run/app.sock", InvalidEndpoint::Address("/run/app.sock".to_owned())),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text:?}");
        }
    }
}
