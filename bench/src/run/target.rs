//! The forms of a target: ADDRESS:PORT, or a URL.

use std::str::FromStr;

use super::arguments::ProtocolName;

/// The meaning of a URL's scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scheme {
    name: &'static str,
    is_secure: bool,
    /// The protocol; `None` if the scheme leaves it open, and `--protocol` must name it.
    protocol: Option<ProtocolName>,
    port: Option<u16>,
}

const SCHEMES: [Scheme; 6] = [
    Scheme { name: "https", is_secure: true, protocol: Some(ProtocolName::Http), port: Some(443) },
    Scheme { name: "http", is_secure: false, protocol: Some(ProtocolName::Http), port: Some(80) },
    Scheme { name: "wss", is_secure: true, protocol: Some(ProtocolName::Ws), port: Some(443) },
    Scheme { name: "ws", is_secure: false, protocol: Some(ProtocolName::Ws), port: Some(80) },
    Scheme { name: "tls", is_secure: true, protocol: None, port: None },
    Scheme { name: "tcp", is_secure: false, protocol: None, port: None },
];

/// A target as it is given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Host and port, to be looked up.
    pub(super) address: String,
    /// The host alone, without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) is_secure: bool,
    /// The further parts of a URL.
    pub(super) url: Option<Url>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: &'static str,
    pub(super) protocol: Option<ProtocolName>,
    /// Host and port as written, for a Host header.
    pub(super) authority: String,
    /// Path and query, if there are any.
    pub(super) path: Option<String>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            return Ok(Self { address: text.to_owned(), host, is_secure: false, url: None });
        };
        let known = SCHEMES.into_iter().find(|known| known.name.eq_ignore_ascii_case(scheme)).ok_or_else(|| {
            let names: Vec<String> = SCHEMES.iter().map(|known| format!("{}://", known.name)).collect();
            format!("{scheme}:// is none of {}", names.join(", "))
        })?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("a user name is not sent; -H 'Authorization: …' sends one".to_owned());
        }
        // A fragment is not sent (RFC 9110, section 4.2.5).
        let path = path.split('#').next().unwrap_or_default();
        let path = match path {
            "" => None,
            path if path.starts_with('?') => Some(format!("/{path}")),
            path => Some(path.to_owned()),
        };
        let (host, port) = split(authority)?;
        let port =
            port.or(known.port).ok_or_else(|| format!("{}:// needs a port, as in {0}://127.0.0.1:7000", known.name))?;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let url = Url { scheme: known.name, protocol: known.protocol, authority: authority.to_owned(), path };
        Ok(Self { address, host: host.to_owned(), is_secure: known.is_secure, url: Some(url) })
    }
}

/// Host and port of an authority.
fn split(authority: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("an IPv6 address ends with ]")?;
            (host, port.strip_prefix(':').or(if port.is_empty() { None } else { Some(port) }))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("a host is missing, as in https://127.0.0.1:8443/".to_owned());
    }
    let port = port.map(|port| port.parse().map_err(|_| format!("{port:?} is not a port")));
    Ok((host, port.transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, bool, Option<String>) {
        let target: Target = text.parse().expect(text);
        (target.address, target.host, target.is_secure, target.url.and_then(|url| url.path))
    }

    #[test]
    fn urls_are_taken_apart() {
        let part = |address: &str, host: &str, is_secure, path: Option<&str>| {
            (address.to_owned(), host.to_owned(), is_secure, path.map(str::to_owned))
        };
        assert_eq!(parts("127.0.0.1:80"), part("127.0.0.1:80", "127.0.0.1", false, None));
        assert_eq!(parts("[::1]:80"), part("[::1]:80", "::1", false, None));
        assert_eq!(parts("https://127.0.0.1:8443"), part("127.0.0.1:8443", "127.0.0.1", true, None));
        assert_eq!(parts("HTTPS://localhost/a?b=c#d"), part("localhost:443", "localhost", true, Some("/a?b=c")));
        assert_eq!(parts("https://[::1]:1/"), part("[::1]:1", "::1", true, Some("/")));
        assert_eq!(parts("https://[::1]"), part("[::1]:443", "::1", true, None));
        assert_eq!(parts("http://localhost?x"), part("localhost:80", "localhost", false, Some("/?x")));
        assert_eq!(parts("wss://localhost/ws"), part("localhost:443", "localhost", true, Some("/ws")));
        assert_eq!(parts("tls://localhost:7"), part("localhost:7", "localhost", true, None));
        assert_eq!(parts("https://a:1#x"), part("a:1", "a", true, None));
    }

    #[test]
    fn what_is_no_target_is_told() {
        for (text, told) in [
            ("ftp://localhost", "none of https://, http://"),
            ("https://", "a host is missing"),
            ("https://:1/", "a host is missing"),
            ("https://localhost:x/", "\"x\" is not a port"),
            ("https://localhost:65536/", "is not a port"),
            ("https://[::1", "ends with ]"),
            ("https://[::1]x", "is not a port"),
            ("https://me@localhost/", "user name"),
            ("tls://localhost", "needs a port"),
        ] {
            let problem = text.parse::<Target>().expect_err(text);
            assert!(problem.contains(told), "{text}: {problem}");
        }
    }
}
