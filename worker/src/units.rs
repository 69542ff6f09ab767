//! Values as people write them: sizes with suffixes, counts with words, addresses with parts left out.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::de::{self, IntoDeserializer};
use serde::{Deserialize, Deserializer};

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

/// A whole number, refused in words and not by the name of a machine type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<T>(pub T);

/// What a value of this type looks like, for those who wrote something else.
trait Form: FromStr<Err = String> {
    fn form() -> String;
}

impl Form for Bytes {
    fn form() -> String {
        "a number of bytes such as 16384, \"64k\" or \"1MiB\"".to_owned()
    }
}

impl Form for Workers {
    fn form() -> String {
        "a count of workers, or \"auto\"".to_owned()
    }
}

/// What a file gives where an address belongs.
struct AddressText(String);

impl FromStr for AddressText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

impl Form for AddressText {
    fn form() -> String {
        "an address such as \"127.0.0.1:8080\"".to_owned()
    }
}

impl<T: Whole> Form for Number<T> {
    fn form() -> String {
        format!("a whole number {}", T::RANGE)
    }
}

/// The unsigned types that settings have.
pub trait Whole: FromStr + Copy {
    /// Its values, in words.
    const RANGE: &str;
}

impl Whole for u16 {
    const RANGE: &str = "from 0 to 65535";
}

impl Whole for u32 {
    const RANGE: &str = "from 0 to 4294967295";
}

impl Whole for u64 {
    const RANGE: &str = "from 0 on";
}

impl<T: Whole> FromStr for Number<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is not {}", Self::form()))
    }
}

/// Reads a value that a file may give as a number or, where `has_text`, as a string.
struct AsWritten<T> {
    has_text: bool,
    value: PhantomData<T>,
}

impl<T: Form> de::Visitor<'_> for AsWritten<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&T::form())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        if self.has_text {
            text.parse().map_err(E::custom)
        } else {
            Err(E::invalid_type(de::Unexpected::Str(text), &self))
        }
    }
}

fn number_or_text<'de, D: Deserializer<'de>, T: Form>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(AsWritten { has_text: true, value: PhantomData })
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for AddressText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

impl<'de, T: Whole> Deserialize<'de> for Number<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsWritten { has_text: false, value: PhantomData })
    }
}

struct AddressList;

impl<'de> de::Visitor<'de> for AddressList {
    type Value = Option<Vec<Listen>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of addresses such as [\"127.0.0.1:8080\"]")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut addresses = Vec::new();
        while let Some(AddressText(text)) = entries.next_element()? {
            addresses.push(text.parse().map_err(de::Error::custom)?);
        }
        Ok(Some(addresses))
    }
}

/// Reads a list of addresses from a file.
pub(crate) fn address_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Listen>>, D::Error> {
    deserializer.deserialize_any(AddressList)
}

struct Name<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Name<T> {
    type Value = Option<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name in quotes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        T::deserialize(text.into_deserializer()).map(Some)
    }
}

/// Reads one of an enumeration's names from a file; asked for directly, the parser would speak of tables as well.
pub(crate) fn name<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(Name(PhantomData))
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

    #[test]
    fn numbers_are_refused_in_words() {
        assert_eq!("65535".parse(), Ok(Number(u16::MAX)));
        for wrong in ["65536", "-1", "1.5", "", "many"] {
            let refused = wrong.parse::<Number<u16>>().expect_err("refused");
            assert_eq!(refused, format!("{wrong:?} is not a whole number from 0 to 65535"));
        }
    }
}
