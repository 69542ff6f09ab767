//! HTTP/1.1 as a client: requests in rotation, and answers that must be right except for their Date.
//!
//! `httparse` parses answers. The head of an answer that arrived in one piece is kept, and later ones are compared with
//! it first, so that the client's parsing does not limit the server.

use crate::load::output::Output;

use super::fixed::excerpt;
use super::head::{Body, Chunk, HEAD_BYTES_MAX, parse_head};
use super::request::{REFERENCE_BYTES_MAX, Reference, Request};
use super::template::Template;
use super::{Progress, Read};
use crate::load::plan::{DEPTH_MAX, HttpPlan};
use crate::random::Random;

/// The most bytes of a batch of equal requests.
const BATCH_BYTES_MAX: usize = 16 * 1024;

/// See the module's head.
pub(crate) struct Http {
    requests: Vec<Request>,
    /// The only request with `Connection: close`, if the plan has one.
    last_request: Option<Template>,
    /// The only request, repeated, and how often, if it is always the same.
    batch: Vec<u8>,
    batch_count: usize,
    /// Gives each connection a seed of its own.
    seeds: Random,
    scratch: Vec<u8>,
}

impl Http {
    /// `index` distinguishes the load's threads.
    pub(super) fn new(plan: &HttpPlan, index: usize) -> Self {
        let requests: Vec<Request> = plan.requests.iter().map(Request::new).collect();
        let (mut batch, mut batch_count) = (Vec::new(), 0);
        if let [request] = requests.as_slice()
            && request.template.is_constant()
            && request.large.is_none()
        {
            request.template.fill(Random::new(0), &mut batch);
            batch_count = (BATCH_BYTES_MAX / batch.len()).clamp(1, DEPTH_MAX as usize);
            batch = batch.repeat(batch_count);
        }
        let last_request = plan.last_request.clone();
        Self { requests, last_request, batch, batch_count, seeds: Random::new(index as u64), scratch: Vec::new() }
    }

    /// Whether the server learns which request is the last one.
    pub(super) fn can_say_last(&self) -> bool {
        self.last_request.is_some()
    }

    pub(super) fn write(&mut self, progress: &mut Progress, count: u32, is_last: bool, output: &mut impl Output) {
        if progress.seed == 0 {
            progress.seed = self.seeds.next() | 1;
        }
        let is_last = is_last && self.last_request.is_some();
        let count = count - u32::from(is_last);
        if self.batch_count > 0 {
            self.write_same(count as usize, output);
        } else {
            self.write_filled(progress, count, output);
        }
        if let Some(last) = self.last_request.as_ref().filter(|_| is_last) {
            self.scratch.clear();
            last.fill(Random::nth(progress.seed, progress.written), &mut self.scratch);
            output.write(&self.scratch);
        }
    }

    fn write_same(&self, mut count: usize, output: &mut impl Output) {
        let each = self.batch.len() / self.batch_count;
        while count > 0 {
            let now = count.min(self.batch_count);
            output.write(&self.batch[..now * each]);
            count -= now;
        }
    }

    fn write_filled(&mut self, progress: &mut Progress, count: u32, output: &mut impl Output) {
        self.scratch.clear();
        for _ in 0..count {
            let request = &self.requests[choose(progress.seed, progress.written, self.requests.len())];
            if let Some(whole) = &request.large {
                // Earlier bytes must be written first, or else this is copied.
                if !self.scratch.is_empty() {
                    output.write(&self.scratch);
                    self.scratch.clear();
                }
                output.write_counted(whole, 0..whole.len());
            } else {
                request.template.fill(Random::nth(progress.seed, progress.written), &mut self.scratch);
            }
            progress.written = progress.written.wrapping_add(1);
        }
        if !self.scratch.is_empty() {
            output.write(&self.scratch);
        }
    }

    pub(super) fn read(&mut self, progress: &mut Progress, awaited: u32, input: &[u8]) -> Result<Read, String> {
        let mut read = Read { at_least: 1, ..Read::default() };
        loop {
            let rest = &input[read.consumed..];
            if rest.is_empty() {
                return Ok(read);
            }
            if progress.body == Body::None {
                if read.answers == awaited {
                    return Err(format!("{} bytes more than were asked for: {}", rest.len(), excerpt(rest)));
                }
                let (request, random) = self.asked(progress);
                if let Some(bytes) = request.match_known(random.clone(), rest) {
                    read.consumed += bytes;
                    read.answers += 1;
                    progress.read = progress.read.wrapping_add(1);
                    continue;
                }
                let Some(head) = parse_head(rest)? else {
                    return Ok(read);
                };
                request.keep_head(random, rest, &head);
                read.consumed += head.bytes;
                progress.body = head.body;
                progress.offset = 0;
            } else if !self.read_body(progress, rest, &mut read)? {
                return Ok(read);
            }
            if let Some(closes) = self.end_body(progress)? {
                read.answers += 1;
                read.closes |= closes;
            }
        }
    }

    pub(super) fn read_end(&mut self, progress: &mut Progress) -> bool {
        if std::mem::take(&mut progress.body) != Body::UntilEnd {
            return false;
        }
        self.learn(progress);
        let mut digits = itoa::Buffer::new();
        let (request, random) = self.asked(progress);
        request.expected(random, &mut digits).is_none_or(|body| progress.offset == body.len() as u64)
    }

    /// The request to which the next answer on a connection belongs, and its random numbers.
    #[inline]
    fn asked(&mut self, progress: &Progress) -> (&mut Request, Random) {
        let index = choose(progress.seed, progress.read, self.requests.len());
        (&mut self.requests[index], Random::nth(progress.seed, progress.read))
    }

    /// Continues to read a body; returns false if a step needs more input.
    fn read_body(&mut self, progress: &mut Progress, rest: &[u8], read: &mut Read) -> Result<bool, String> {
        match &mut progress.body {
            Body::None => {}
            Body::UntilEnd => {
                read.consumed += rest.len();
                return self.compare(progress, rest).map(|()| true);
            }
            Body::Length { remaining, .. } | Body::Chunked { at: Chunk::Data { remaining }, .. } => {
                let count = rest.len().min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining -= count as u64;
                read.consumed += count;
                self.compare(progress, &rest[..count])?;
                if let Body::Chunked { at: at @ Chunk::Data { remaining: 0 }, .. } = &mut progress.body {
                    *at = Chunk::DataEnd;
                }
            }
            Body::Chunked { at: at @ Chunk::Size, .. } => match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((count, size))) => {
                    read.consumed += count;
                    *at = if size == 0 { Chunk::Trailer } else { Chunk::Data { remaining: size } };
                }
                Ok(httparse::Status::Partial) if rest.len() < HEAD_BYTES_MAX => return Ok(false),
                _ => return Err(format!("not the size of a chunk: {}", excerpt(rest))),
            },
            Body::Chunked { at: at @ Chunk::DataEnd, .. } => {
                if rest.len() < 2 && b"\r\n".starts_with(rest) {
                    return Ok(false);
                }
                if !rest.starts_with(b"\r\n") {
                    return Err(format!("not the end of a chunk: {}", excerpt(rest)));
                }
                read.consumed += 2;
                *at = Chunk::Size;
            }
            Body::Chunked { at: Chunk::Trailer, closes } => {
                let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
                    return if rest.len() < HEAD_BYTES_MAX { Ok(false) } else { Err("an endless trailer".to_owned()) };
                };
                read.consumed += end + 2;
                if end == 0 {
                    progress.body = Body::Length { remaining: 0, closes: *closes };
                }
            }
        }
        Ok(true)
    }

    /// Whether the server closes after the answer, if one is complete.
    fn end_body(&mut self, progress: &mut Progress) -> Result<Option<bool>, String> {
        let Body::Length { remaining: 0, closes } = progress.body else { return Ok(None) };
        self.learn(progress);
        let mut digits = itoa::Buffer::new();
        let (request, random) = self.asked(progress);
        if let Some(body) = request.expected(random, &mut digits)
            && progress.offset != body.len() as u64
        {
            return Err(format!("a body of {} bytes where {} are expected", progress.offset, body.len()));
        }
        progress.body = Body::None;
        progress.offset = 0;
        progress.read = progress.read.wrapping_add(1);
        Ok(Some(closes))
    }

    /// Compares part of a body with the required one.
    fn compare(&mut self, progress: &mut Progress, part: &[u8]) -> Result<(), String> {
        let start = progress.offset as usize;
        progress.offset += part.len() as u64;
        let mut digits = itoa::Buffer::new();
        let (request, random) = self.asked(progress);
        if let Some(body) = request.expected(random, &mut digits) {
            if body.get(start..start + part.len()) != Some(part) {
                return Err(format!("other bytes than expected, {start} bytes into a body: {}", excerpt(part)));
            }
        } else if matches!(request.reference, Reference::Unknown) {
            if start + part.len() > REFERENCE_BYTES_MAX {
                return Err(format!(
                    "a body of more than {REFERENCE_BYTES_MAX} bytes cannot be checked; add --any-body"
                ));
            }
            progress.gathered.extend_from_slice(part);
        }
        Ok(())
    }

    /// A body is complete. Others may have begun before the required body was known, and are compared as a whole.
    fn learn(&mut self, progress: &mut Progress) {
        let gathered = std::mem::take(&mut progress.gathered);
        let (request, _) = self.asked(progress);
        match &request.reference {
            Reference::Unknown => request.reference = Reference::Known(gathered.into()),
            // The length of what was gathered is only known to be right if the bytes are.
            Reference::Known(body) if !body.starts_with(&gathered) => progress.offset = u64::MAX,
            Reference::Known(_) | Reference::Sum(_) | Reference::Any => {}
        }
    }
}

/// Which of the requests a connection sends at this position.
#[inline]
fn choose(seed: u64, number: u32, requests: usize) -> usize {
    if requests == 1 { 0 } else { (seed as u32).wrapping_add(number) as usize % requests }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::{Expected, RequestPlan};

    fn http() -> Http {
        Http::new(&HttpPlan::get("/", ([127, 0, 0, 1], 80).into()).expect("a request"), 0)
    }

    fn read_all(http: &mut Http, pieces: &[&[u8]]) -> Result<(u32, bool), String> {
        let (mut progress, mut waiting, mut sum) = (Progress::default(), Vec::new(), (0, false));
        for piece in pieces {
            waiting.extend_from_slice(piece);
            let read = http.read(&mut progress, 100, &waiting)?;
            waiting.drain(..read.consumed);
            sum = (sum.0 + read.answers, sum.1 | read.closes);
        }
        Ok(sum)
    }

    fn answer(date: u32, body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nDate: day {date:02}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn answers_are_read_however_they_are_cut_and_whatever_their_date() {
        let text = answer(1, "hello") + &answer(2, "hello") + &answer(3, "hello");
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n";
        for text in [text, chunked.repeat(3)] {
            for cut in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                assert_eq!(read_all(&mut http(), &[first, second]), Ok((3, false)), "cut at {cut}");
            }
        }
    }

    #[test]
    fn another_body_than_the_first_is_wrong() {
        let mut http = http();
        assert_eq!(read_all(&mut http, &[answer(1, "hello").as_bytes()]), Ok((1, false)));
        assert!(read_all(&mut http, &[answer(1, "jello").as_bytes()]).expect_err("a letter").contains("other bytes"));
        assert!(read_all(&mut http, &[answer(1, "hell").as_bytes()]).expect_err("short").contains("4 bytes where 5"));
        assert!(read_all(&mut http, &[answer(1, "hello!").as_bytes()]).is_err(), "longer");
        assert_eq!(read_all(&mut http, &[answer(7, "hello").as_bytes()]), Ok((1, false)));
    }

    #[test]
    fn what_is_no_good_answer_is_wrong() {
        let wrong = [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        ];
        for text in wrong {
            assert!(read_all(&mut http(), &[text.as_bytes()]).is_err(), "{text:?}");
        }
        let mut http = http();
        let twice = answer(1, "x").repeat(2);
        assert!(http.read(&mut Progress::default(), 1, twice.as_bytes()).expect_err("one asked").contains("more than"));
    }

    #[test]
    fn a_server_that_closes_says_so() {
        let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(read_all(&mut http(), &[close.as_bytes()]), Ok((1, true)));
        let mut http = http();
        let mut progress = Progress::default();
        let read = http.read(&mut progress, 1, b"HTTP/1.0 200 OK\r\n\r\nuntil the end").expect("right");
        assert_eq!((read.answers, progress.is_within()), (0, true));
        assert!(http.read_end(&mut progress));
        assert!(!http.read_end(&mut Progress::default()));
    }

    #[test]
    fn a_request_that_is_always_the_same_is_written_in_batches() {
        let http = http();
        let text = "GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n";
        assert_eq!(http.batch_count, BATCH_BYTES_MAX / text.len());
        assert_eq!(String::from_utf8(http.batch), Ok(text.repeat(http.batch_count)));
    }

    #[test]
    fn requests_take_turns_and_the_sums_of_their_numbers_are_checked() {
        let raws = [
            "GET /?a={RAND:1:1000}&b=1 HTTP/1.1\r\n\r\n",
            "POST /?a=1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n{RAND:10:99}",
        ];
        let plans = raws.map(|raw| RequestPlan::with_sum(raw.as_bytes()).expect("a template"));
        let mut http = Http::new(&HttpPlan::rotation("sums", plans.to_vec()), 0);
        let progress = Progress { seed: 5, ..Progress::default() };
        // As `write` fills them, and as a server adds them up.
        let sums: Vec<u64> = (0..40)
            .map(|number| {
                let (mut text, index) = (Vec::new(), choose(progress.seed, number, raws.len()));
                http.requests[index].template.fill(Random::nth(progress.seed, number), &mut text);
                let text = String::from_utf8(text).expect("text");
                let value = |from: &str, to: &str| {
                    let rest = text.split_once(from).expect("its start").1;
                    rest.split(to).next().and_then(|digits| digits.parse::<u64>().ok()).expect("a number")
                };
                if text.starts_with("GET") { value("?a=", "&") + 1 } else { value("\r\n\r\n", " ") + 1 }
            })
            .collect();
        assert!(sums.iter().any(|sum| *sum > 100), "{sums:?}");
        let answers = |sums: &[u64]| sums.iter().map(|sum| answer(1, &sum.to_string())).collect::<String>();
        for cut in [0, 1, 30, 90, 400, 1_000] {
            let text = answers(&sums);
            let (first, second) = text.as_bytes().split_at(cut);
            let mut progress = progress.clone();
            let read = http.read(&mut progress, 40, first).expect("right");
            let rest = [&first[read.consumed..], second].concat();
            assert_eq!(http.read(&mut progress, 40, &rest).expect("right").answers + read.answers, 40, "cut at {cut}");
        }
        for wrong in 0..40 {
            let mut sums = sums.clone();
            sums[wrong] += 1;
            let problem = http.read(&mut progress.clone(), 40, answers(&sums).as_bytes());
            assert!(problem.is_err_and(|problem| problem.contains("expected")), "{wrong}");
        }
    }

    #[test]
    fn each_request_has_a_first_answer_of_its_own() {
        let plan = |path: &str| {
            let raw = format!("GET {path} HTTP/1.1\r\n\r\n");
            RequestPlan { template: Template::new(raw.as_bytes()).expect("a template"), expected: Expected::First }
        };
        let mut http = Http::new(&HttpPlan::rotation("two", vec![plan("/a"), plan("/b")]), 0);
        let text = ["even", "odd", "even", "odd"].map(|body| answer(1, body)).concat();
        assert_eq!(read_all(&mut http, &[text.as_bytes()]), Ok((4, false)));
        let text = ["even", "even"].map(|body| answer(1, body)).concat();
        assert!(read_all(&mut http, &[text.as_bytes()]).is_err());
    }
}
