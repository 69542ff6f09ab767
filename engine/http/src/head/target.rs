//! The request target: path and query. Pure.

use crate::method::Method;
use crate::refusal::Refusal;

/// Path and query of a target, which is one or more characters of RFC 3986 without a fragment. RFC 9112 3.2: a server takes the absolute
/// form too, although only proxies ask so.
pub(super) fn split(method: Method, target: &str) -> Result<(&str, Option<&str>), Refusal> {
    if target == "*" {
        return if method == Method::Options { Ok((target, None)) } else { Err(Refusal::TARGET) };
    }
    let rest = if target.starts_with('/') {
        target
    } else {
        let after = |scheme: &str| {
            let has = target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
            has.then(|| &target[scheme.len()..])
        };
        let rest = after("http://").or_else(|| after("https://")).ok_or(Refusal::TARGET)?;
        let authority_bytes = rest.find(['/', '?']).unwrap_or(rest.len());
        if authority_bytes == 0 {
            return Err(Refusal::TARGET);
        }
        &rest[authority_bytes..]
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    Ok((if path.is_empty() { "/" } else { path }, query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_in_every_form() {
        let get = |target| split(Method::Get, target);
        assert_eq!(get("/"), Ok(("/", None)));
        assert_eq!(get("/?a=/json"), Ok(("/", Some("a=/json"))));
        assert_eq!(get("/json?x?y"), Ok(("/json", Some("x?y"))));
        assert_eq!(get("http://a.example"), Ok(("/", None)));
        assert_eq!(get("HTTPS://a.example:80/json"), Ok(("/json", None)));
        assert_eq!(get("http://a.example?/json"), Ok(("/", Some("/json"))));
        for target in ["http://", "http:///json", "ftp://a/", "json", "*", "a:80", "?"] {
            assert_eq!(get(target), Err(Refusal::TARGET), "{target}");
        }
        assert_eq!(split(Method::Options, "*"), Ok(("*", None)));
    }
}
