//! Listeners that redirect to TLS, and what answers a request at such a listener.

use std::net::Ipv6Addr;

use crate::head::Head;
use crate::request::Request;
use crate::router::{Found, Router};

/// The port of `https` in a URL that names none.
const HTTPS_PORT: u16 = 443;

/// Longest name of a host (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// Requests are answered with 308 and the same URL with `https`, so that clients repeat them there with the same method and body: see
/// [`Http::with_redirect`](crate::Http::with_redirect). `OPTIONS *`, which has no URL, is answered as elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The port of the listener with TLS; the URL leaves out 443.
    pub port: u16,
    /// The router answers requests whose paths begin like this, such as those by which a certificate authority checks the
    /// host: `/.well-known/acme-challenge/`.
    pub except: Vec<String>,
}

impl Redirect {
    /// The URL to which the request is redirected. `None` if the request does not name its host, or if the name has
    /// characters that names of hosts and addresses do not have: they could turn the URL into another one.
    pub(crate) fn location(&self, request: &Request<'_>) -> Option<String> {
        let Head { target, path, query, .. } = request.head;
        // RFC 9112 3.2.2: a target that names the host itself takes precedence over the header.
        let authority = match target.split_once("://").filter(|_| !target.starts_with('/')) {
            Some((_, rest)) => rest.split(['/', '?']).next()?.as_bytes(),
            None => request.header("host")?,
        };
        let host = host(authority)?;
        let port = if self.port == HTTPS_PORT { String::new() } else { format!(":{}", self.port) };
        let (mark, query) = query.map_or(("", ""), |query| ("?", query));
        Some(format!("https://{host}{port}{path}{mark}{query}"))
    }
}

/// The host of `host` or `host:port`: a name of letters, digits, `-`, `_` and `.`, an IPv4 address, or one of IPv6 in brackets.
fn host(authority: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(authority).ok()?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (&text[..address.len() + 2], port)
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            ((1..=HOST_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)).then_some((name, port))?
        }
    };
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(host)
}

/// What answers requests: the router, and at some listeners a redirect before it.
pub(crate) struct Routes<S> {
    pub(crate) router: Router<S>,
    /// Redirects with the labels of their listeners.
    pub(crate) redirects: Vec<(u8, Redirect)>,
}

impl<S: 'static> Routes<S> {
    /// Finds what answers a request at a listener with this label.
    #[inline]
    pub(crate) fn find<'p>(&self, label: u8, head: &Head<'p>) -> Found<'_, 'p, S> {
        if self.redirects.is_empty() {
            return self.router.find(head.method, head.path);
        }
        match self.redirect(label, head.path) {
            Some(redirect) => Found::Redirect(redirect),
            None => self.router.find(head.method, head.path),
        }
    }

    #[cold]
    fn redirect(&self, label: u8, path: &str) -> Option<&Redirect> {
        let (_, redirect) = self.redirects.iter().find(|(one, _)| *one == label)?;
        let is_excepted = path == "*" || redirect.except.iter().any(|prefix| path.starts_with(&**prefix));
        (!is_excepted).then_some(redirect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses_and_nothing_else() {
        let long = "a".repeat(253);
        for (given, found) in [
            ("a.example", "a.example"),
            ("A_b-1.example.", "A_b-1.example."),
            ("a.example:80", "a.example"),
            ("a.example:", "a.example"),
            ("192.0.2.1:8080", "192.0.2.1"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("[::1]:8080", "[::1]"),
            (&*long, &*long),
        ] {
            assert_eq!(host(given.as_bytes()), Some(found), "{given}");
        }
        for given in [
            "",
            ":80",
            "a.example:80:80",
            "a.example:x",
            "a.example:123456",
            "a.example:+80",
            "user@a.example",
            "a.example/b",
            "a.example?b",
            "a.example#b",
            "a.example\\b",
            "a.example b",
            "a.example,b.example",
            "a.example\r\nX: y",
            "a%2eexample",
            "a!example",
            "\u{e9}.example",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[::1%25eth0]",
            "[]",
            "[a.example]",
            "[v1.a]",
            &"a".repeat(254),
        ] {
            assert_eq!(host(given.as_bytes()), None, "{given}");
        }
        assert_eq!(host(b"a\xff"), None);
    }
}
