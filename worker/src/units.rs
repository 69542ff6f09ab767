//! Values as people write them: sizes with suffixes, counts with words.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::str::FromStr;

use baton::config::{TIMEOUT_MS_LARGEST, WORKERS_MAX};
use serde::de::{self, IntoDeserializer};
use serde::{Deserialize, Deserializer};

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

/// Where metrics are served: an IP address with a port, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(pub Option<SocketAddr>);

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let problem = |_| format!("{text:?} is neither an IP address with a port, such as 127.0.0.1:9180, nor off");
        text.parse().map(|address| Self(Some(address))).map_err(problem)
    }
}

impl<'de> Deserialize<'de> for MetricsAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Number of workers: a count, or `auto` for one per core that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// As many as there are cores.
    Auto,
    /// This many.
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
        text.parse()
            .map(Self::Count)
            .map_err(|_| format!("{text:?} is neither a number of workers from 1 to {WORKERS_MAX} nor auto"))
    }
}

/// A whole number. Errors describe the range instead of naming a machine type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<T>(pub T);

/// The form of values of this type, for error messages.
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
        "a number of workers, or \"auto\"".to_owned()
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

const _: () = assert!(TIMEOUT_MS_LARGEST == 604_800_000, "the range of u64 names it");

impl Whole for u16 {
    const RANGE: &str = "from 0 to 65535";
}

impl Whole for u32 {
    const RANGE: &str = "from 0 to 4294967295";
}

/// Settings of this type are times in milliseconds, at most seven days.
impl Whole for u64 {
    const RANGE: &str = "from 0 to 604800000 (seven days)";
}

impl<T: Whole> FromStr for Number<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is not {}", Self::form()))
    }
}

/// Reads a value that a file may give as a number or, with `has_text`, as a string.
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

impl<'de, T: Whole> Deserialize<'de> for Number<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsWritten { has_text: false, value: PhantomData })
    }
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

/// Reads one of an enumeration's names from a file. If the parser were asked for the enumeration directly, its errors
/// would mention tables as well.
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
