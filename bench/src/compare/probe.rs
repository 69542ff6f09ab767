//! Sends each request once before measuring, to check that a server does the work that is compared. The load compares
//! answers with the first one; this checks that the first one is right.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::requests::{Data, SIBLINGS, may_be_compressed};
use super::workload::{Service, Workload};
use crate::load::{ExchangePlan, Expected, Plan, RequestPlan, Stream, TlsPlan, chunked};
use crate::random::Random;

const PATIENCE: Duration = Duration::from_secs(5);

const HEADERS_MAX: usize = 64;

/// Answers of servers in production have these headers, and they take work to make and send.
const HEADERS: [&str; 3] = ["server", "date", "content-type"];

/// A parsed answer.
struct Answer {
    /// Names in lower case, and values.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Sends a server every request that a load will send. Returns a remark for the table, if there is one.
///
/// # Errors
/// How an answer was wrong.
pub(super) fn probe(
    target: SocketAddr,
    plan: &Plan,
    workload: &Workload,
    data: &Data,
) -> Result<Option<String>, String> {
    let ExchangePlan::Http(http) = &plan.exchange else { return Ok(None) };
    let mut missing: Vec<&str> = Vec::new();
    for (index, request) in http.requests.iter().enumerate() {
        let random = Random::new(index as u64);
        let mut raw = Vec::new();
        request.template.fill(random.clone(), &mut raw);
        let what = first_line(&raw);
        let answer = ask(target, plan.tls.as_ref(), &raw).map_err(|problem| format!("{what}: {problem}"))?;
        check(&answer, request, random).map_err(|problem| format!("{what}: {problem}"))?;
        check_content(&answer, workload, &what, data).map_err(|problem| format!("{what}: {problem}"))?;
        let lacks = |name: &&str| answer.header(name).is_none();
        missing.extend(HEADERS.iter().filter(|name| lacks(name)));
    }
    missing.sort_unstable();
    missing.dedup();
    Ok((!missing.is_empty()).then(|| format!("answers lack {}", missing.join(", "))))
}

fn first_line(raw: &[u8]) -> String {
    let line = raw.split(|byte| *byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).trim_end_matches(" HTTP/1.1").to_owned()
}

fn check(answer: &Answer, request: &RequestPlan, random: Random) -> Result<(), String> {
    let expected = match &request.expected {
        Expected::First | Expected::Any => return Ok(()),
        Expected::Body(body) => body.clone(),
        Expected::Sum { constant } => constant.wrapping_add(request.template.sum(random)).to_string().into_bytes(),
    };
    if answer.body == expected {
        return Ok(());
    }
    let shown =
        |bytes: &[u8]| format!("{} bytes {:?}", bytes.len(), &String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    Err(format!("answered by {} instead of {}", shown(&answer.body), shown(&expected)))
}

/// Checks what depends on more than the request.
fn check_content(answer: &Answer, workload: &Workload, what: &str, data: &Data) -> Result<(), String> {
    let encoding = answer.header("content-encoding");
    if encoding.is_some() && !may_be_compressed(workload) {
        return Err("compressed, and nobody has asked for that".to_owned());
    }
    let path = what.split(' ').nth(1).unwrap_or_default();
    let (file_path, _) = path.split_once('?').unwrap_or((path, ""));
    match workload.service() {
        Service::Items => check_items(path, &answer.body, &data.0.join("dataset.json")),
        Service::ItemsCompressed if encoding.is_none() => Err("not compressed".to_owned()),
        Service::Static => {
            let name = file_path.trim_start_matches("/static/");
            let sibling = SIBLINGS.iter().find(|(_, coding)| encoding == Some(coding));
            let file = match (encoding, sibling) {
                (None, _) => name.to_owned(),
                (Some(_), Some((extension, _))) => format!("{name}.{extension}"),
                (Some(encoding), None) => return Err(format!("compressed as {encoding}, which nobody has asked for")),
            };
            let path = data.file(&file);
            let wanted = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            if answer.body == wanted { Ok(()) } else { Err(format!("other bytes than those of {file}")) }
        }
        _ => Ok(()),
    }
}

/// The first items of the dataset, each with its total.
fn check_items(path: &str, body: &[u8], dataset: &Path) -> Result<(), String> {
    let wrong = || format!("{path} is no request for items");
    let (count, factor) = path.trim_start_matches("/json/").split_once("?m=").ok_or_else(wrong)?;
    let count: usize = count.parse().map_err(|_| wrong())?;
    let factor: u64 = factor.parse().map_err(|_| wrong())?;
    let text = std::fs::read(dataset).map_err(|error| format!("{}: {error}", dataset.display()))?;
    let all: Vec<Value> = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", dataset.display()))?;
    let items = all.into_iter().take(count).map(|mut item| {
        let number = |name: &str| item[name].as_u64().unwrap_or_default();
        let total = number("price") * number("quantity") * factor;
        item["total"] = total.into();
        item
    });
    let wanted = serde_json::json!({ "items": items.collect::<Vec<_>>(), "count": count });
    let body: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
    if body == wanted { Ok(()) } else { Err("other items than those of the dataset with their totals".to_owned()) }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// `None` if it is incomplete.
    fn read(input: &[u8]) -> Result<Option<Self>, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let head_bytes = match response.parse(input) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(format!("not an HTTP answer ({error})")),
        };
        if response.code != Some(200) {
            return Err(format!("status {}", response.code.unwrap_or_default()));
        }
        let headers = response.headers.iter().map(|header| {
            let value = String::from_utf8_lossy(header.value).trim().to_owned();
            (header.name.to_ascii_lowercase(), value)
        });
        let mut this = Self { headers: headers.collect(), body: Vec::new() };
        let rest = &input[head_bytes..];
        if this.header("transfer-encoding").is_some() {
            // It is complete if it ends like a chunked body and is well formed.
            if !rest.ends_with(b"0\r\n\r\n") {
                return Ok(None);
            }
            return Ok(chunked(rest).ok().map(|body| Self { body, ..this }));
        }
        let length: usize =
            this.header("content-length").and_then(|value| value.parse().ok()).ok_or("no Content-Length")?;
        if rest.len() > length {
            return Err("more bytes than Content-Length says".to_owned());
        }
        this.body = rest.to_vec();
        Ok((rest.len() == length).then_some(this))
    }
}

fn ask(target: SocketAddr, tls: Option<&TlsPlan>, raw: &[u8]) -> Result<Answer, String> {
    let wrong = |error: std::io::Error| error.to_string();
    let mut stream = Stream::connect(target, tls, PATIENCE).map_err(wrong)?;
    stream.write_all(raw).and_then(|()| stream.flush()).map_err(wrong)?;
    let (mut input, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut buffer).map_err(wrong)? {
            0 => return Err(format!("closed after {} bytes", input.len())),
            count => input.extend_from_slice(&buffer[..count]),
        }
        if let Some(answer) = Answer::read(&input)? {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::requests::DATA_DEFAULT;
    use super::*;

    #[test]
    fn answers_are_taken_apart_when_they_are_complete() {
        let plain = "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\nok";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n";
        for text in [plain, chunked] {
            for end in 0..text.len() {
                assert!(matches!(Answer::read(&text.as_bytes()[..end]), Ok(None)), "{end} bytes of {text:?}");
            }
            let answer = Answer::read(text.as_bytes()).expect("right").expect("complete");
            assert_eq!(answer.body, b"ok");
        }
        for wrong in ["HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "SSH-2.0\r\n\r\n"] {
            assert!(Answer::read(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn items_are_the_first_of_the_dataset_with_their_totals() {
        let dataset = Path::new(DATA_DEFAULT).join("dataset.json");
        let all: Vec<Value> = serde_json::from_slice(&std::fs::read(&dataset).expect("a file")).expect("JSON");
        let mut first = all[0].clone();
        // 328 · 15 · 3, from the dataset's first item.
        first["total"] = 14_760.into();
        let body = |first: &Value| serde_json::json!({ "count": 1, "items": [first] }).to_string();
        assert_eq!(check_items("/json/1?m=3", body(&first).as_bytes(), &dataset), Ok(()));
        first["total"] = 14_761.into();
        assert!(check_items("/json/1?m=3", body(&first).as_bytes(), &dataset).is_err());
        assert!(check_items("/json/2?m=3", body(&first).as_bytes(), &dataset).is_err());
        assert!(check_items("/json/1?m=3", b"[", &dataset).is_err());
    }

    #[test]
    fn files_are_compared_with_the_folder_in_whatever_form_they_come() {
        let data = Data(DATA_DEFAULT.into());
        let workload: Workload = "arena:static".parse().expect("a workload");
        let answer = |encoding: Option<&str>, file: &str| Answer {
            headers: encoding.map(|value| ("content-encoding".to_owned(), value.to_owned())).into_iter().collect(),
            body: std::fs::read(data.file(file)).expect("a file"),
        };
        let check = |answer: &Answer| check_content(answer, &workload, "GET /static/app.js", &data);
        assert_eq!(check(&answer(None, "app.js")), Ok(()));
        assert_eq!(check(&answer(Some("br"), "app.js.br")), Ok(()));
        assert_eq!(check(&answer(Some("gzip"), "app.js.gz")), Ok(()));
        assert!(check(&answer(Some("gzip"), "app.js.br")).is_err());
        assert!(check(&answer(None, "router.js")).is_err());
        let plain: Workload = "static:1".parse().expect("a workload");
        assert!(check_content(&answer(Some("br"), "app.js.br"), &plain, "GET /static/app.js", &data).is_err());
    }
}
