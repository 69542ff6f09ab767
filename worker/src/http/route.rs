//! From method and target to what is to be done. Pure.

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// A method this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Options,
    /// Known, and allowed nowhere.
    Other,
}

impl Method {
    pub(super) fn of(token: &[u8]) -> Option<Self> {
        Some(match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"OPTIONS" => Self::Options,
            b"PUT" | b"DELETE" | b"PATCH" | b"TRACE" => Self::Other,
            // CONNECT asks for a tunnel, which is as unknown here as any extension.
            _ => return None,
        })
    }
}

/// What is to be done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Action {
    Plaintext,
    Json,
    Health,
    Echo,
    /// Say what is allowed.
    Options(Allow),
    NotFound,
    NotAllowed(Allow),
}

impl Action {
    /// Whether the answer is an error whatever the body says.
    pub(super) fn is_error(self) -> bool {
        matches!(self, Self::NotFound | Self::NotAllowed(_))
    }
}

/// Value of the `Allow` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Allow {
    Read,
    Post,
    Any,
}

impl Allow {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Read => "GET, HEAD, OPTIONS",
            Self::Post => "POST, OPTIONS",
            Self::Any => "GET, HEAD, POST, OPTIONS",
        }
    }
}

/// Finds the action for a request target, which is one or more visible ASCII characters.
pub(super) fn action(method: Method, target: &[u8]) -> Result<Action, Refusal> {
    if target == b"*" {
        return if method == Method::Options { Ok(Action::Options(Allow::Any)) } else { Err(Refusal::TARGET) };
    }
    let path = path(target)?;
    let (read, allow) = match path {
        b"/" | b"/plaintext" => (Action::Plaintext, Allow::Read),
        b"/json" => (Action::Json, Allow::Read),
        b"/health" => (Action::Health, Allow::Read),
        b"/echo" => (Action::Echo, Allow::Post),
        _ => return Ok(Action::NotFound),
    };
    Ok(match (method, allow) {
        (Method::Get | Method::Head, Allow::Read) | (Method::Post, Allow::Post) => read,
        (Method::Options, _) => Action::Options(allow),
        _ => Action::NotAllowed(allow),
    })
}

/// The path without its query. RFC 9112 3.2: a server takes the absolute form too, although only proxies ask so.
fn path(target: &[u8]) -> Result<&[u8], Refusal> {
    let is_fragment = |byte: &u8| *byte == b'#';
    if target.iter().any(is_fragment) {
        return Err(Refusal::TARGET);
    }
    let rest = if target[0] == b'/' {
        target
    } else {
        let after = |scheme: &[u8]| {
            let has = target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
            has.then(|| &target[scheme.len()..])
        };
        let rest = after(b"http://").or_else(|| after(b"https://")).ok_or(Refusal::TARGET)?;
        let authority_bytes = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        if authority_bytes == 0 {
            return Err(Refusal::TARGET);
        }
        &rest[authority_bytes..]
    };
    let path = &rest[..rest.iter().position(|byte| *byte == b'?').unwrap_or(rest.len())];
    Ok(if path.is_empty() { b"/" } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_in_every_form() {
        let get = |target: &str| action(Method::Get, target.as_bytes());
        assert_eq!(get("/"), Ok(Action::Plaintext));
        assert_eq!(get("/?a=/json"), Ok(Action::Plaintext));
        assert_eq!(get("/json?x"), Ok(Action::Json));
        assert_eq!(get("/json/"), Ok(Action::NotFound));
        assert_eq!(get("http://a.example"), Ok(Action::Plaintext));
        assert_eq!(get("HTTPS://a.example:80/json"), Ok(Action::Json));
        assert_eq!(get("http://a.example?/json"), Ok(Action::Plaintext));
        for target in ["http://", "http:///json", "ftp://a/", "json", "*", "a:80", "/#", "?"] {
            assert_eq!(get(target), Err(Refusal::TARGET), "{target}");
        }
        assert_eq!(action(Method::Options, b"*"), Ok(Action::Options(Allow::Any)));
        assert_eq!(action(Method::Head, b"/echo"), Ok(Action::NotAllowed(Allow::Post)));
    }
}
