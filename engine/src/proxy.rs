//! The header in which a proxy sends the client's address: the PROXY protocol, versions 1 and 2 (HAProxy's
//! `doc/proxy-protocol.txt`). Pure, and independent of the rest of the engine.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ppp::{HeaderResult, v1, v2};

/// The longest header that is accepted, as in nginx. Addresses take at most 52 bytes, or 232 for those of Unix sockets.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// The longest line of version 1, including its end.
const LINE_BYTES_MAX: usize = 107;

/// The beginning of a line of version 1.
const LINE_PREFIX: &[u8] = b"PROXY ";

/// A header of version 2 up to the length of what follows.
const FIXED_BYTES: usize = 16;

/// The header that a proxy sends first on a connection; see [`Peer::proxy`](crate::Peer::proxy).
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    bytes: Box<[u8]>,
    addresses: Option<(SocketAddr, SocketAddr)>,
    tlvs_at: usize,
}

/// Bytes that do not begin a header, or a header that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl ProxyHeader {
    /// 1 or 2.
    pub fn version(&self) -> u8 {
        if self.bytes.starts_with(LINE_PREFIX) { 1 } else { 2 }
    }

    /// The client's address. `None` if the connection is the proxy's own (a health check: `LOCAL`), the proxy does not know it
    /// (`UNKNOWN`), or the client does not use TCP.
    pub fn source(&self) -> Option<SocketAddr> {
        self.addresses.map(|(source, _)| source)
    }

    /// The address that the client has connected to; `None` as for [`ProxyHeader::source`].
    pub fn destination(&self) -> Option<SocketAddr> {
        self.addresses.map(|(_, destination)| destination)
    }

    /// Further fields of version 2, as type and value, such as 0x01 ALPN, 0x02 the host that the client asked for (SNI), 0x05 a
    /// unique name, 0x20 TLS (section 2.2 of the specification). A checksum (0x03) is not verified, because TCP has one.
    pub fn tlvs(&self) -> impl Iterator<Item = (u8, &[u8])> {
        v2::TypeLengthValues::from(&self.bytes[self.tlvs_at..]).filter_map(|tlv| match tlv {
            Ok(v2::TypeLengthValue { kind, value: Cow::Borrowed(value) }) => Some((kind, value)),
            _ => None,
        })
    }

    /// The header as it was sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parses a header that consists of exactly these bytes.
    pub(crate) fn whole(bytes: &[u8]) -> Result<Self, Malformed> {
        match Self::parse(bytes)? {
            Some(header) if header.bytes.len() == bytes.len() => Ok(header),
            _ => Err(Malformed),
        }
    }

    /// The header at the beginning of `input`; `None` if its end has not arrived.
    pub(crate) fn parse(input: &[u8]) -> Result<Option<Self>, Malformed> {
        // Check the length first, so as not to wait for an endless line, or for too many announced bytes.
        let length = if may_begin(input, v2::PROTOCOL_PREFIX) {
            let Some(fixed) = input.first_chunk::<FIXED_BYTES>() else { return Ok(None) };
            FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))
        } else if may_begin(input, LINE_PREFIX) {
            match input.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None if input.len() < LINE_BYTES_MAX => return Ok(None),
                None => return Err(Malformed),
            }
        } else {
            return Err(Malformed);
        };
        if length > PROXY_HEADER_BYTES_MAX {
            return Err(Malformed);
        }
        let Some(bytes) = input.get(..length) else { return Ok(None) };
        match HeaderResult::parse(bytes) {
            HeaderResult::V1(Ok(header)) if header.header.len() == length => {
                Ok(Some(Self { bytes: bytes.into(), addresses: of_line(&header.addresses), tlvs_at: length }))
            }
            HeaderResult::V2(Ok(header)) if header.len() == length && header.tlvs().all(|tlv| tlv.is_ok()) => {
                let is_clients = header.command == v2::Command::Proxy && header.protocol == v2::Protocol::Stream;
                let addresses = if is_clients { of_binary(&header.addresses) } else { None };
                let tlvs_at = length - header.tlv_bytes().len();
                Ok(Some(Self { bytes: bytes.into(), addresses, tlvs_at }))
            }
            _ => Err(Malformed),
        }
    }
}

/// Whether the bytes so far may become something that begins with `prefix`.
fn may_begin(input: &[u8], prefix: &[u8]) -> bool {
    let length = input.len().min(prefix.len());
    input[..length] == prefix[..length]
}

fn pair<T: Into<IpAddr>>(source: (T, u16), destination: (T, u16)) -> Option<(SocketAddr, SocketAddr)> {
    Some((source.into(), destination.into()))
}

fn of_line(addresses: &v1::Addresses) -> Option<(SocketAddr, SocketAddr)> {
    match addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ends) => {
            pair((ends.source_address, ends.source_port), (ends.destination_address, ends.destination_port))
        }
        v1::Addresses::Tcp6(ends) => {
            pair((ends.source_address, ends.source_port), (ends.destination_address, ends.destination_port))
        }
    }
}

fn of_binary(addresses: &v2::Addresses) -> Option<(SocketAddr, SocketAddr)> {
    match addresses {
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
        v2::Addresses::IPv4(ends) => {
            pair((ends.source_address, ends.source_port), (ends.destination_address, ends.destination_port))
        }
        v2::Addresses::IPv6(ends) => {
            pair((ends.source_address, ends.source_port), (ends.destination_address, ends.destination_port))
        }
    }
}

impl fmt::Debug for ProxyHeader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tlvs: Vec<(u8, &[u8])> = self.tlvs().collect();
        formatter
            .debug_struct("ProxyHeader")
            .field("version", &self.version())
            .field("source", &self.source())
            .field("destination", &self.destination())
            .field("tlvs", &tlvs)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 2 with this command, family and protocol, and `rest` after them.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, rest].concat()
    }

    const IPV4_ENDS: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x10, 0x00, 0x01, 0xbb];

    #[test]
    fn headers_say_who_the_client_is() {
        let ipv6_ends = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
        let ipv6_ends = [ipv6_ends.as_slice(), &[0x10, 0x00, 0x01, 0xbb]].concat();
        let cases = [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4096 443\r\n".to_vec(), 1, Some("192.0.2.7:4096")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::1 4096 443\r\n".to_vec(), 1, Some("[2001:db8::1]:4096")),
            (b"PROXY UNKNOWN\r\n".to_vec(), 1, None),
            (b"PROXY UNKNOWN what ever it says\r\n".to_vec(), 1, None),
            (binary(1, 0x11, &IPV4_ENDS), 2, Some("192.0.2.7:4096")),
            (binary(1, 0x21, &ipv6_ends), 2, Some("[2001:db8::1]:4096")),
            (binary(0, 0x11, &IPV4_ENDS), 2, None),
            (binary(0, 0, b""), 2, None),
            (binary(1, 0x12, &IPV4_ENDS), 2, None),
            (binary(1, 0x31, &[0; 216]), 2, None),
        ];
        for (bytes, version, source) in cases {
            let source = source.map(|text| text.parse().expect("an address"));
            for end in 0..bytes.len() {
                assert_eq!(ProxyHeader::parse(&bytes[..end]), Ok(None), "{end} bytes of {}", bytes.escape_ascii());
            }
            let followed = [bytes.as_slice(), b"\r\nGET"].concat();
            let header = ProxyHeader::parse(&followed).expect("well formed").expect("whole");
            assert_eq!((header.as_bytes(), header.version(), header.source()), (&*bytes, version, source));
            assert_eq!(header.destination().map(|address| address.port()), source.map(|_| 443));
            assert_eq!(ProxyHeader::whole(&bytes), Ok(header));
            assert_eq!(ProxyHeader::whole(&followed), Err(Malformed));
        }
    }

    #[test]
    fn what_else_there_is_can_be_read() {
        let tlvs = [b"\x02\x00\x04host".as_slice(), b"\x04\x00\x00", b"\xe0\x00\x01x"].concat();
        let header = ProxyHeader::whole(&binary(1, 0x11, &[&IPV4_ENDS, tlvs.as_slice()].concat())).expect("whole");
        let expected: [(u8, &[u8]); 3] = [(0x02, b"host"), (0x04, b""), (0xe0, b"x")];
        assert_eq!(header.tlvs().collect::<Vec<_>>(), expected);
        assert_eq!(ProxyHeader::whole(b"PROXY UNKNOWN\r\n").expect("whole").tlvs().count(), 0);
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_it_is_seen() {
        let endless = [LINE_PREFIX, &[b'x'; LINE_BYTES_MAX]].concat();
        let long = [&IPV4_ENDS, [4; PROXY_HEADER_BYTES_MAX].as_slice()].concat();
        let wrong: [&[u8]; 16] = [
            b"GET / HTTP/1.1\r\n",
            b"X",
            b"PROXYTCP4",
            b"PROXY TCP5 192.0.2.7 198.51.100.1 4096 443\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4096 443\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4096 65536\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 04096 443\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4096\r\n",
            b"PROXY TCP4 ::1 ::1 4096 443\r\n",
            b"PROXY UNKNOWN\rx\r\n",
            &endless,
            b"\r\n\r\n\0\r\nQUIT\r",
            &binary(2, 0x11, &IPV4_ENDS),
            &binary(1, 0x11, &IPV4_ENDS[1..]),
            &binary(1, 0x11, &[&IPV4_ENDS, b"\x02\x00\x05host".as_slice()].concat()),
            &binary(1, 0x11, &long)[..FIXED_BYTES],
        ];
        for bytes in wrong {
            assert_eq!(ProxyHeader::parse(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
    }
}
