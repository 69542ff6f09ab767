//! Addresses to listen on, as flags and files give them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use baton::Endpoint;
use baton::config::{ConnectionTimeouts, Listener, Network};
use serde::{Deserialize, Deserializer, de};

use crate::tls::SCHEME;
use crate::units::Number;

/// The port of an address that names none.
pub const PORT_DEFAULT: u16 = 8080;

/// The port of `https` in a redirect that names none.
const HTTPS_PORT: u16 = 443;

/// An address to listen on: `127.0.0.1:8080`, `[::1]:8080`, `0.0.0.0`, `::1`, `8080`, `:8080`, `localhost:8080`. The
/// default port is 8080, the default host 127.0.0.1. `unix:/run/app.sock` is a Unix socket. A `tls://` before it means
/// TLS. In a file it may be a table with an address and the settings that differ there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The engine's part, still without its layer.
    pub listener: Listener,
    /// Whether it uses TLS.
    pub is_secured: bool,
    /// The TLS port to which requests are redirected, if they are.
    pub redirect: Option<u16>,
}

impl From<Listener> for Listen {
    /// Without TLS and without a redirect.
    fn from(listener: Listener) -> Self {
        Self { listener, is_secured: false, redirect: None }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix(SCHEME) {
            if rest.starts_with(SCHEME) {
                return Err(format!("{text:?} has {SCHEME} twice"));
            }
            return Ok(Self { is_secured: true, ..rest.parse()? });
        }
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listen = |ip: IpAddr, port: u16| Ok(Listener::new((ip, port)).into());
        if text.starts_with("unix:") {
            let endpoint: Endpoint = text.parse().map_err(|invalid| format!("{invalid}"))?;
            return Ok(Listener::new(endpoint).into());
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Listener::new(address).into());
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return listen(ip, PORT_DEFAULT);
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        match port.parse() {
            Ok(port) if host.is_empty() || host == "localhost" => listen(loopback, port),
            Ok(port) if host == "*" => listen(Ipv4Addr::UNSPECIFIED.into(), port),
            _ => Err(format!(
                "{text:?} is not an address such as 127.0.0.1:8080, [::1]:8080, 8080 or unix:/path, with or without {SCHEME} before it"
            )),
        }
    }
}

/// The mode of Unix sockets' files, in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixMode(pub u32);

impl FromStr for UnixMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
        mode.map(Self).ok_or_else(|| format!("{text:?} is not an octal mode such as \"0666\" or \"0660\""))
    }
}

impl<'de> Deserialize<'de> for UnixMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A number in a file would be read as decimal.
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// An entry of the list that has more than the address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: Entry,
    #[serde(default)]
    idle_ms: Option<Number<u64>>,
    #[serde(default)]
    message_ms: Option<Number<u64>>,
    #[serde(default)]
    write_ms: Option<Number<u64>>,
    #[serde(default)]
    proxy_protocol: bool,
    #[serde(default)]
    trusted: Vec<String>,
    #[serde(default)]
    redirect: Option<String>,
}

impl Table {
    fn listen(self) -> Result<Listen, String> {
        let Self {
            address: Entry(Listen { listener, is_secured, redirect: before }),
            idle_ms,
            message_ms,
            write_ms,
            proxy_protocol,
            trusted,
            redirect,
        } = self;
        let ms = |number: Option<Number<u64>>| number.map(|number| number.0);
        let is_unix = listener.address.is_unix();
        match (proxy_protocol, trusted.is_empty()) {
            (_, false) if is_unix => {
                return Err(
                    "a Unix socket needs no trusted: every process that may open its path is trusted".to_owned()
                );
            }
            (true, true) if is_unix => {}
            (true, true) => {
                return Err("proxy_protocol needs trusted, the networks of your proxies, such as [\"10.0.0.0/8\"]: without it, \
                            any client could claim any address"
                    .to_owned());
            }
            (false, false) => return Err("trusted needs proxy_protocol = true".to_owned()),
            _ => {}
        }
        let timeouts = ConnectionTimeouts { idle_ms: ms(idle_ms), message_ms: ms(message_ms), write_ms: ms(write_ms) };
        let trusted_proxies = trusted.iter().map(|text| text.parse()).collect::<Result<Vec<Network>, String>>()?;
        let listener =
            Listener { timeouts, trusted_proxies, trusts_all_proxies: proxy_protocol && is_unix, ..listener };
        let redirect = redirect.map(|text| port_of(&text)).transpose()?.or(before);
        if is_secured && redirect.is_some() {
            return Err(format!("an address with {SCHEME} cannot have a redirect"));
        }
        Ok(Listen { listener, is_secured, redirect })
    }
}

/// The port of `https`, or of `https:8443`.
fn port_of(redirect: &str) -> Result<u16, String> {
    let port = redirect.strip_prefix("https").and_then(|rest| match rest.strip_prefix(':') {
        None => rest.is_empty().then_some(HTTPS_PORT),
        Some(digits) => digits.parse().ok().filter(|port| *port > 0 && !digits.starts_with('+')),
    });
    port.ok_or_else(|| {
        format!("the redirect {redirect:?} is neither \"https\" nor \"https\" with a port, such as \"https:8443\"")
    })
}

/// An entry of the list.
struct Entry(Listen);

struct EntryForm;

impl<'de> de::Visitor<'de> for EntryForm {
    type Value = Entry;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an address such as \"127.0.0.1:8080\", or a table with an address")
    }

    fn visit_i64<E: de::Error>(self, port: i64) -> Result<Entry, E> {
        self.visit_str(&port.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Entry, E> {
        text.parse().map(Entry).map_err(E::custom)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
        table.listen().map(Entry).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryForm)
    }
}

struct List;

impl<'de> de::Visitor<'de> for List {
    type Value = Option<Vec<Listen>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of addresses such as [\"127.0.0.1:8080\"]")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut addresses = Vec::new();
        while let Some(Entry(listen)) = entries.next_element()? {
            addresses.push(listen);
        }
        Ok(Some(addresses))
    }
}

/// Reads a list of addresses from a file.
pub(crate) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Listen>>, D::Error> {
    deserializer.deserialize_any(List)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let address = Listener::new(address.parse::<SocketAddr>().expect("an address"));
            assert_eq!(text.parse(), Ok(Listen::from(address.clone())), "{text}");
            assert_eq!(format!("tls://{text}").parse(), Ok(Listen { is_secured: true, ..address.into() }), "{text}");
        }
        let unix: Endpoint = "unix:/run/app.sock".parse().expect("a path");
        assert_eq!("unix:/run/app.sock".parse(), Ok(Listen::from(Listener::new(unix))));
        assert_eq!("0660".parse(), Ok(UnixMode(0o660)));
        for wrong in ["", "0999", "1777", "rw"] {
            assert!(wrong.parse::<UnixMode>().is_err(), "{wrong}");
        }
        for wrong in [
            "",
            "host",
            "host:80",
            "127.0.0.1:99999",
            "1.2.3",
            "unix:run/app.sock",
            "unix:@app",
            "unix:",
            "tls://",
            "tls:80",
            "tls://tls://80",
        ] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
