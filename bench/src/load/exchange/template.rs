//! Raw requests with random numbers in them. Pure.
//!
//! A template is the text of a whole request, head and body. In it, `{RAND:min:max}` becomes a number between the two,
//! both included, a new one in each request. Everything else is sent unchanged, byte by byte.

use std::str;

use crate::random::Random;

/// The beginning of a random number.
const MARK: &[u8] = b"{RAND:";

/// The most header lines of a request.
const HEADERS_MAX: usize = 64;

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Number { least: u64, most: u64 },
}

impl Template {
    /// Parses a template, and checks that all its requests are complete: that the body is as long as `Content-Length`
    /// or the chunks say, whatever numbers are in it.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn new(raw: &[u8]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = raw;
        while let Some(start) = rest.windows(MARK.len()).position(|window| window == MARK) {
            if start > 0 {
                pieces.push(Piece::Text(rest[..start].to_vec()));
            }
            let after = &rest[start + MARK.len()..];
            let end = after.iter().position(|byte| *byte == b'}').ok_or("a {RAND: has no }")?;
            pieces.push(number(&after[..end])?);
            rest = &after[end + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_vec()));
        }
        let this = Self { pieces };
        this.ends().map(|_| this)
    }

    /// Whether all requests are the same.
    pub(crate) fn is_constant(&self) -> bool {
        !self.pieces.iter().any(|piece| matches!(piece, Piece::Number { .. }))
    }

    /// Adds a request to `output`.
    #[inline]
    pub(crate) fn fill(&self, mut random: Random, output: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => output.extend_from_slice(text),
                Piece::Number { least, most } => {
                    output.extend_from_slice(digits.format(draw(&mut random, *least, *most)).as_bytes());
                }
            }
        }
    }

    /// The sum of the numbers that [`Template::fill`] puts into a request.
    #[inline]
    pub(crate) fn sum(&self, mut random: Random) -> u64 {
        let mut sum = 0_u64;
        for piece in &self.pieces {
            if let Piece::Number { least, most } = piece {
                sum = sum.wrapping_add(draw(&mut random, *least, *most));
            }
        }
        sum
    }

    /// The number to add to [`Template::sum`] so that the result is the sum of the query's values and of the body.
    ///
    /// # Errors
    /// If a value is not a number, or a random number is only part of one.
    pub(crate) fn sum_constant(&self) -> Result<u64, String> {
        let [least, most] = self.ends()?;
        let of = |whole: &Whole, end: fn(u64, u64) -> u64| {
            let numbers = self.pieces.iter().filter_map(|piece| match piece {
                Piece::Number { least, most } => Some(end(*least, *most)),
                Piece::Text(_) => None,
            });
            numbers.fold(whole.sum(), |sum, number| Some(sum?.wrapping_sub(number)))
        };
        match (of(&least, |least, _| least), of(&most, |_, most| most)) {
            (Some(one), Some(other)) if one == other => Ok(one),
            _ => Err("the values of the query and the body must be numbers, random or not, to have a sum".to_owned()),
        }
    }

    /// The requests with the least and with the largest numbers.
    fn ends(&self) -> Result<[Whole; 2], String> {
        let filled = |end: fn(u64, u64) -> u64| {
            let pieces = self.pieces.iter().map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Number { least, most } => end(*least, *most).to_string().into_bytes(),
            });
            Whole::read(&pieces.collect::<Vec<_>>().concat())
        };
        Ok([filled(|least, _| least)?, filled(|_, most| most)?])
    }
}

#[inline]
fn draw(random: &mut Random, least: u64, most: u64) -> u64 {
    least + random.below(most - least + 1)
}

/// Parses the text between `{RAND:` and `}`.
fn number(text: &[u8]) -> Result<Piece, String> {
    let wrong = || format!("{{RAND:{}}} is not {{RAND:min:max}}, two numbers", text.escape_ascii());
    let (least, most) = str::from_utf8(text).ok().and_then(|text| text.split_once(':')).ok_or_else(wrong)?;
    let (least, most): (u64, u64) = least.parse().ok().zip(most.parse().ok()).ok_or_else(wrong)?;
    // Limited so that the largest has a successor, and sums of several do not overflow.
    if least > most || most > u64::from(u32::MAX) {
        return Err(format!(
            "{{RAND:{least}:{most}}}: the first must not be above the second, nor that above {}",
            u32::MAX
        ));
    }
    Ok(Piece::Number { least, most })
}

/// A request without random numbers.
struct Whole {
    query: Vec<u8>,
    body: Vec<u8>,
}

impl Whole {
    /// Parses a complete request that nothing follows.
    fn read(raw: &[u8]) -> Result<Self, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let head_bytes = match request.parse(raw) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) => return Err("the head has no end: an empty line is missing".to_owned()),
            Err(error) => return Err(format!("not an HTTP request ({error})")),
        };
        let (_, query) = request.path.unwrap_or_default().split_once('?').unwrap_or_default();
        let value = |name: &str| {
            let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            header.map(|header| str::from_utf8(header.value).unwrap_or_default().trim())
        };
        let rest = &raw[head_bytes..];
        let body = if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            chunked(rest)?
        } else {
            let length = value("content-length").unwrap_or("0");
            if length.parse() != Ok(rest.len()) {
                return Err(format!("Content-Length is {length}, and the body has {} bytes", rest.len()));
            }
            rest.to_vec()
        };
        Ok(Self { query: query.as_bytes().to_vec(), body })
    }

    /// The sum of the query's values, and of the body if there is one.
    fn sum(&self) -> Option<u64> {
        let query = str::from_utf8(&self.query).ok()?;
        let values =
            query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').map(|pair| pair.1));
        let body = str::from_utf8(&self.body).ok()?;
        let values = values.chain((!body.is_empty()).then_some(Some(body)));
        values.map(|value| value?.parse::<u64>().ok()).sum()
    }
}

/// The body in these chunks, to the last byte of `rest`.
///
/// # Errors
/// Where they are wrong or incomplete.
pub(crate) fn chunked(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((head_bytes, size))) = httparse::parse_chunk_size(rest) else {
            return Err("the body has a chunk without a size".to_owned());
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let data = &rest[head_bytes..];
        let (part, after) = data.split_at_checked(size).ok_or("the body ends within a chunk")?;
        rest = after.strip_prefix(b"\r\n").ok_or("a chunk is not as long as its size says")?;
        body.extend_from_slice(part);
        if size == 0 {
            return if rest.is_empty() { Ok(body) } else { Err("something follows the last chunk".to_owned()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(raw: &str, seed: u64) -> (String, u64) {
        let template = Template::new(raw.as_bytes()).expect("a template");
        let mut output = Vec::new();
        template.fill(Random::new(seed), &mut output);
        (String::from_utf8(output).expect("text"), template.sum(Random::new(seed)))
    }

    #[test]
    fn a_template_without_numbers_is_sent_as_it_stands() {
        let raw = "POST /x{y} HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n{RAND}";
        assert_eq!(filled(raw, 1), (raw.to_owned(), 0));
        assert!(Template::new(raw.as_bytes()).expect("a template").is_constant());
    }

    #[test]
    fn numbers_are_within_their_range_and_differ() {
        let raw = "GET /{RAND:5:6}?a={RAND:1:1000} HTTP/1.1\r\n\r\n";
        let mut seen = std::collections::HashSet::new();
        for seed in 0..100 {
            let (text, sum) = filled(raw, seed);
            let (path, query) = text["GET /".len()..].split_once("?a=").expect("a query");
            let query = query.split(' ').next().expect("a value");
            let (path, query): (u64, u64) = (path.parse().expect("a number"), query.parse().expect("a number"));
            assert!((5..=6).contains(&path) && (1..=1000).contains(&query) && sum == path + query, "{text}");
            seen.insert(text);
        }
        assert!(seen.len() > 90, "{}", seen.len());
    }

    #[test]
    fn the_sum_of_query_and_body_is_known() {
        let constant = |raw: &str| Template::new(raw.as_bytes()).expect("a template").sum_constant();
        assert_eq!(constant("GET /?a=13&b=42 HTTP/1.1\r\n\r\n"), Ok(55));
        assert_eq!(constant("GET /?a=13&b={RAND:1:9} HTTP/1.1\r\n\r\n"), Ok(13));
        assert_eq!(constant("POST /?a=1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n{RAND:10:99}"), Ok(1));
        assert_eq!(
            constant("POST /?a=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n2\r\n1\r\n0\r\n0\r\n\r\n"),
            Ok(21)
        );
        // The digit before it multiplies it.
        assert!(constant("GET /?a=1{RAND:1:9} HTTP/1.1\r\n\r\n").is_ok_and(|sum| sum == 10));
        assert!(constant("GET /?a={RAND:1:9}0 HTTP/1.1\r\n\r\n").is_err());
        assert!(constant("GET /?a=x HTTP/1.1\r\n\r\n").is_err());
    }

    #[test]
    fn what_is_no_whole_request_is_refused() {
        for (raw, part) in [
            ("", "no end"),
            ("GET / HTTP/1.1\r\nHost: x\r\n", "no end"),
            ("GET / HTTP/1.1\r\n\r\nx", "Content-Length is 0"),
            ("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{RAND:1:100}", "the body has 1 bytes"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab\r\n0\r\n\r\n", "as long as"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "without a size"),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", "follows"),
            ("GET /{RAND:1} HTTP/1.1\r\n\r\n", "not {RAND:min:max}"),
            ("GET /{RAND:2:1} HTTP/1.1\r\n\r\n", "must not be above"),
            ("GET /{RAND:1:4294967296} HTTP/1.1\r\n\r\n", "4294967295"),
            ("GET /{RAND:1:2 HTTP/1.1\r\n\r\n", "has no }"),
        ] {
            let problem = Template::new(raw.as_bytes()).expect_err(raw);
            assert!(problem.contains(part), "{raw:?}: {problem}");
        }
    }
}
