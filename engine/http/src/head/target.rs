//! The request target: path and query. Pure.

use super::scan::Target;
use crate::method::Method;
use crate::refusal::Refusal;

/// A target, its path and its query. RFC 9112 3.2: a server accepts the absolute form too, although only proxies send
/// it.
#[inline(always)]
pub(super) fn split(method: Method, target: Target<'_>) -> Result<(&str, &str, Option<&str>), Refusal> {
    match target {
        Target::Allowed(target, path_bytes) if target.starts_with('/') => {
            let query = (path_bytes < target.len()).then(|| &target[path_bytes + 1..]);
            Ok((target, &target[..path_bytes], query))
        }
        target => split_other(method, target),
    }
}

#[inline(never)]
fn split_other(method: Method, target: Target<'_>) -> Result<(&str, &str, Option<&str>), Refusal> {
    let target = match target {
        Target::Allowed(target, _) => target,
        Target::Other(target) if target.contains(&b'#') => return Err(Refusal::TARGET),
        Target::Other(_) => return Err(Refusal::TARGET_CHARACTER),
    };
    if target == "*" {
        return if method == Method::Options { Ok((target, target, None)) } else { Err(Refusal::TARGET) };
    }
    let after = |scheme: &str| {
        let has = target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        has.then(|| &target[scheme.len()..])
    };
    let rest = after("http://").or_else(|| after("https://")).ok_or(Refusal::TARGET)?;
    let authority_bytes = rest.find(['/', '?']).unwrap_or(rest.len());
    if authority_bytes == 0 {
        return Err(Refusal::TARGET);
    }
    let (path, query) = match rest[authority_bytes..].split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&rest[authority_bytes..], None),
    };
    Ok((target, if path.is_empty() { "/" } else { path }, query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_in_every_form() {
        let split = |method, target: &'static str| {
            let path_bytes = target.find('?').unwrap_or(target.len());
            let (whole, path, query) = split(method, Target::Allowed(target, path_bytes))?;
            assert_eq!(whole, target);
            Ok((path, query))
        };
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
