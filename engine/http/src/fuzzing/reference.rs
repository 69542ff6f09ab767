//! The meaning of a head, computed slowly and in another way: httparse finds the lines, and headers are looked up in a
//! list.

use super::{Field, Framing, Head, HeadLimits, Outcome};
use crate::head::{HEADERS_MAX, Persistence};
use crate::method::Method;
use crate::refusal::Refusal;

/// What we accept, httparse must accept with the same parts and the meaning computed here. What httparse accepts and we
/// refuse must have a reason that is found here.
pub(super) fn compare(data: &[u8], limits: HeadLimits, outcome: &Outcome<'_>) {
    // httparse only knows versions 1.0 and 1.1.
    let mut known = data.to_vec();
    let line_end = data.iter().position(|byte| *byte < b' ').unwrap_or(data.len());
    if let [.., b'1', b'.', b'2'..=b'9'] = data[..line_end] {
        known[line_end - 1] = b'1';
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(&known);
    match (outcome, parsed) {
        (Ok(Some((head, fields))), Ok(httparse::Status::Complete(length))) => {
            assert_eq!(head.length, length);
            assert_eq!(same_parts(data, head, fields), parts_of(&request));
            assert_eq!(meaning(&request), Ok((head.framing, head.persistence, head.expects_continue, head.is_upgrade)));
            assert_eq!(split(head.method, head.target), Ok((head.path.to_owned(), head.query.map(str::to_owned))));
        }
        (Ok(Some(_)), other) => panic!("httparse does not take what is taken here: {other:?}"),
        (Ok(None), Ok(httparse::Status::Complete(_))) => panic!("httparse takes what seems not whole here"),
        (Err(refusal), Ok(httparse::Status::Complete(length))) => {
            let reasons = reasons(&known[..length], data.len(), limits, &request);
            assert!(reasons.contains(refusal), "{refusal:?} is none of {reasons:?}");
        }
        // A version is refused once it is complete.
        (Ok(None), Err(httparse::Error::Version)) => {}
        (Ok(None), Err(error)) => panic!("httparse refuses what may still become good here: {error}"),
        (Err(refusal), Err(error)) => assert!(of_error(error).contains(refusal), "{refusal:?} for {error}"),
        // In an incomplete head, a line feed, a version or a limit may be refused before httparse reports anything.
        (Err(_) | Ok(None), Ok(httparse::Status::Partial)) => {}
    }
}

/// The refusals that an error of httparse may become. Whatever the error, a line feed or a limit may come before it.
fn of_error(error: httparse::Error) -> Vec<Refusal> {
    use httparse::Error;
    let mut refusals = vec![Refusal::REQUEST_LINE, Refusal::TARGET_TOO_LONG, Refusal::METHOD_UNKNOWN];
    if matches!(error, Error::HeaderName | Error::HeaderValue | Error::NewLine | Error::TooManyHeaders) {
        refusals.extend([Refusal::LINE_FEED, Refusal::HEAD_TOO_LARGE, Refusal::HEADERS_TOO_MANY]);
    }
    match error {
        Error::HeaderName => refusals.push(Refusal::HEADER_NAME),
        Error::HeaderValue | Error::NewLine => refusals.push(Refusal::HEADER_VALUE),
        Error::Version => refusals.push(Refusal::VERSION),
        _ => {}
    }
    refusals
}

/// Method, target, version, and headers with their names and values.
type Parts<'a> = (&'a str, &'a str, u8, Vec<(&'a [u8], &'a [u8])>);

fn same_parts<'a>(data: &'a [u8], head: &Head<'a>, fields: &[Field]) -> Parts<'a> {
    let headers = fields.iter().map(|field| (field.name(data), field.value(data))).collect();
    (head.method.name(), head.target, head.minor, headers)
}

fn parts_of<'a>(request: &httparse::Request<'_, 'a>) -> Parts<'a> {
    let headers = request.headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect();
    (request.method.expect("parsed"), request.path.expect("parsed"), request.version.expect("parsed"), headers)
}

/// Why a head that httparse accepts is refused; several reasons if it depends on what is checked first.
fn reasons(head: &[u8], input_bytes: usize, limits: HeadLimits, request: &httparse::Request<'_, '_>) -> Vec<Refusal> {
    let (method, target, minor, _) = parts_of(request);
    let mut reasons = Vec::new();
    if head.len() > limits.head_bytes_max {
        reasons.extend([Refusal::HEAD_TOO_LARGE, Refusal::TARGET_TOO_LONG]);
    }
    if target.len() > limits.target_bytes_max {
        reasons.push(Refusal::TARGET_TOO_LONG);
    }
    let first_line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_line =
        first_line.ends_with(b"\r") && head[0].is_ascii_graphic() && target.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_line {
        reasons.push(Refusal::REQUEST_LINE);
    }
    if head.split(|byte| *byte == b'\n').any(|line| !line.is_empty() && !line.ends_with(b"\r"))
        || head.windows(2).any(|two| two == b"\n\n")
    {
        reasons.push(Refusal::LINE_FEED);
    }
    if method.len() > 32 {
        reasons.push(Refusal::METHOD_UNKNOWN);
    }
    // From here on the syntax is valid, and the order counts.
    if reasons.is_empty() {
        assert!(input_bytes >= head.len());
        reasons.push(match Method::of(method.as_bytes()) {
            None => Refusal::METHOD_UNKNOWN,
            Some(method) => match meaning(request) {
                Err(refusal) => refusal,
                Ok(_) => split(method, target).expect_err("there is a reason"),
            },
        });
    }
    assert!(minor <= 1);
    reasons
}

/// Framing, persistence, whether 100-continue is expected, and whether an upgrade is requested.
fn meaning(request: &httparse::Request<'_, '_>) -> Result<(Framing, Persistence, bool, bool), Refusal> {
    let minor = request.version.expect("parsed");
    let all = |name: &str| -> Vec<&[u8]> {
        let same = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        same.map(|header| header.value).collect()
    };
    let listed = |name: &str, option: &str| {
        let values = all(name).join(&b","[..]);
        values.split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    };
    let mut codings = Vec::new();
    let mut has_length = false;
    // The errors of each single header, in their order.
    let mut hosts = 0;
    for header in request.headers.iter() {
        match header.name.to_ascii_lowercase().as_str() {
            "host" => {
                hosts += 1;
                (hosts == 1).then_some(()).ok_or(Refusal::HOST_REPEATED)?;
            }
            "content-length" => {
                let is_number = !header.value.is_empty() && header.value.iter().all(u8::is_ascii_digit);
                let number = std::str::from_utf8(header.value).ok().and_then(|value| value.parse::<u64>().ok());
                number.filter(|_| is_number).ok_or(Refusal::LENGTH_INVALID)?;
                (!has_length).then_some(()).ok_or(Refusal::LENGTH_REPEATED)?;
                has_length = true;
            }
            "transfer-encoding" => {
                for coding in header.value.split(|byte| *byte == b',') {
                    let text = String::from_utf8_lossy(coding);
                    let name =
                        text.split(';').next().unwrap_or_default().trim_matches([' ', '\t']).to_ascii_lowercase();
                    let is_name = !name.is_empty()
                        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
                    let is_second = codings.contains(&"chunked".to_owned());
                    let has_parameter = name == "chunked" && text.contains(';');
                    (is_name && !is_second && !has_parameter).then_some(()).ok_or(Refusal::ENCODING_INVALID)?;
                    codings.push(name);
                }
            }
            _ => {}
        }
    }
    match all("host").first() {
        None if minor == 1 => return Err(Refusal::HOST_MISSING),
        Some(host) => {
            let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(byte);
            host.iter().all(is_allowed).then_some(()).ok_or(Refusal::HOST_INVALID)?;
        }
        None => {}
    }
    let has_coding = !all("transfer-encoding").is_empty();
    let framing = match all("content-length").first() {
        Some(_) if has_coding => return Err(Refusal::LENGTH_AND_ENCODING),
        Some(digits) => Framing::Length(std::str::from_utf8(digits).expect("digits").parse().expect("checked")),
        None if has_coding && minor == 0 => return Err(Refusal::ENCODING_BEFORE_1_1),
        None if codings.iter().any(|coding| coding != "chunked") => return Err(Refusal::ENCODING_UNKNOWN),
        None if has_coding => Framing::Chunked,
        None => Framing::Length(0),
    };
    let persistence = match minor {
        _ if listed("connection", "close") => Persistence::Close,
        1 => Persistence::Keep,
        _ if listed("connection", "keep-alive") => Persistence::KeepSaid,
        _ => Persistence::Close,
    };
    let expects_continue = match all("expect").last() {
        Some(value) if minor == 1 => {
            value.eq_ignore_ascii_case(b"100-continue").then_some(()).ok_or(Refusal::EXPECTATION)?;
            framing != Framing::Length(0)
        }
        _ => false,
    };
    let is_upgrade = minor == 1 && !all("upgrade").is_empty() && listed("connection", "upgrade");
    Ok((framing, persistence, expects_continue, is_upgrade))
}

/// Path and query of a target.
fn split(method: Method, target: &str) -> Result<(String, Option<String>), Refusal> {
    if target.contains('#') {
        return Err(Refusal::TARGET);
    }
    for (at, character) in target.char_indices() {
        let is_escape =
            || target.get(at + 1..at + 3).is_some_and(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let is_allowed = match character {
            '%' => is_escape(),
            _ => character.is_ascii_alphanumeric() || "-._~:/?[]@!$&'()*+,;=".contains(character),
        };
        is_allowed.then_some(()).ok_or(Refusal::TARGET_CHARACTER)?;
    }
    let lower = target.to_ascii_lowercase();
    let scheme_bytes = ["http://", "https://"].into_iter().find(|scheme| lower.starts_with(scheme)).map(str::len);
    let rest = match scheme_bytes {
        _ if target == "*" && method == Method::Options => return Ok(("*".to_owned(), None)),
        _ if target.starts_with('/') => target,
        None => return Err(Refusal::TARGET),
        Some(bytes) => {
            let authority = target[bytes..].split(['/', '?']).next().unwrap_or_default();
            (!authority.is_empty()).then_some(()).ok_or(Refusal::TARGET)?;
            &target[bytes + authority.len()..]
        }
    };
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query.to_owned())));
    Ok((if path.is_empty() { "/" } else { path }.to_owned(), query))
}
