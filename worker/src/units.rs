//! Values as people write them: sizes with suffixes, counts with words, addresses with parts left out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// Port where an address names none.
pub const PORT_DEFAULT: u16 = 8080;

/// A number of bytes: `16384`, `16k`, `16KiB`, `1M`, `1MiB`, `1G`; suffixes are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let shift = match suffix.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            _ => return Err(format!("{text:?} is not a number of bytes such as 16384, 64k or 1MiB")),
        };
        let number: u64 =
            number.parse().map_err(|_| format!("{text:?} is not a number of bytes such as 16384, 64k or 1MiB"))?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| format!("{text} is too large"))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 > 0 && self.0.trailing_zeros() >= shift {
                return write!(formatter, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(formatter, "{}", self.0)
    }
}

/// Number of workers: a count, or `auto` for one per core that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// As many as there are cores.
    Auto,
    /// So many.
    Count(usize),
}

impl Workers {
    /// The count.
    pub fn count(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            Self::Count(count) => count,
        }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Count).map_err(|_| format!("{text:?} is neither a count of workers nor auto"))
    }
}

/// An address to listen on: `127.0.0.1:8080`, `[::1]:8080`, `0.0.0.0`, `::1`, `8080`, `:8080`, `localhost:8080`. Without
/// a port it is 8080, without a host 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self(SocketAddr::new(ip, PORT_DEFAULT)));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        match port.parse() {
            Ok(port) if host.is_empty() || host == "localhost" => Ok(Self(SocketAddr::new(loopback, port))),
            Ok(port) if host == "*" => Ok(Self(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))),
            _ => Err(format!("{text:?} is not an address such as 127.0.0.1:8080, [::1]:8080 or 8080")),
        }
    }
}

/// Both kinds of values a file may have for these types.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
}

fn scalar<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(deserializer: D) -> Result<T, D::Error> {
    let text = match Scalar::deserialize(deserializer) {
        Ok(Scalar::Number(number)) => number.to_string(),
        Ok(Scalar::Text(text)) => text,
        Err(_) => return Err(de::Error::custom("expected a number from 0 on, or a string")),
    };
    text.parse().map_err(de::Error::custom)
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer)
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        for (text, bytes) in [("0", 0), ("16384", 16_384), ("64k", 65_536), ("1MiB", 1 << 20), ("2G", 2 << 30)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for wrong in ["", "k", "-1", "1.5k", "1 parsec", "99999999999G"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
        assert_eq!(Bytes(1 << 20).to_string(), "1MiB");
        assert_eq!(Bytes(1000).to_string(), "1000");
    }

    #[test]
    fn addresses_may_leave_parts_out() {
        for (text, address) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:81", "[::1]:81"),
            ("::1", "[::1]:8080"),
            ("[::]", "[::]:8080"),
            ("0.0.0.0", "0.0.0.0:8080"),
            ("9000", "127.0.0.1:9000"),
            (":9000", "127.0.0.1:9000"),
            ("localhost:9000", "127.0.0.1:9000"),
            ("*:9000", "0.0.0.0:9000"),
        ] {
            assert_eq!(text.parse::<Listen>().map(|listen| listen.0.to_string()), Ok(address.to_owned()), "{text}");
        }
        for wrong in ["", "host", "host:80", "127.0.0.1:99999", "1.2.3"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn workers_are_a_count_or_auto() {
        assert_eq!("auto".parse(), Ok(Workers::Auto));
        assert_eq!("3".parse(), Ok(Workers::Count(3)));
        assert!("many".parse::<Workers>().is_err());
        assert!(Workers::Auto.count() >= 1);
    }
}
