//! The requests of each workload, and the required answers.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::workload::{CONNECTIONS_DEFAULT, Profile, Service, Variety, Workload};
use crate::load::{ExchangePlan, Expected, HttpPlan, Plan, RequestPlan, RespCommand, Template};
use crate::random::Random;

/// Requests of browsers, with random values.
const DIFFER: [&str; 3] = [
    include_str!("../../requests/differ-chrome.raw"),
    include_str!("../../requests/differ-firefox.raw"),
    include_str!("../../requests/differ-safari.raw"),
];

/// Requests of HttpArena's baseline, with random values.
const BASELINE: [&str; 3] = [
    include_str!("../../requests/baseline-get.raw"),
    include_str!("../../requests/baseline-length.raw"),
    include_str!("../../requests/baseline-chunked.raw"),
];

const PIPELINE: &str = include_str!("../../arena/requests/pipeline.raw");

const ITEMS: [&str; 7] = [
    include_str!("../../arena/requests/json-1.raw"),
    include_str!("../../arena/requests/json-5.raw"),
    include_str!("../../arena/requests/json-10.raw"),
    include_str!("../../arena/requests/json-15.raw"),
    include_str!("../../arena/requests/json-25.raw"),
    include_str!("../../arena/requests/json-40.raw"),
    include_str!("../../arena/requests/json-50.raw"),
];

/// Requests on a connection of `limited-conn`, and in flight in `pipelined`.
const ARENA_REQUESTS_PER_CONNECTION: u32 = 10;
const ARENA_DEPTH: u32 = 16;

/// Messages of `echo-ws`.
const ARENA_MESSAGE_BYTES: usize = 64;

/// Bodies of `upload`, in rotation.
const ARENA_UPLOAD_BYTES: [u32; 4] = [500_000, 2_000_000, 10_000_000, 20_000_000];

/// Files of `static`, without those of other sizes.
const STATIC_BYTES: std::ops::RangeInclusive<u64> = 8 * 1024..=300 * 1024;

/// Compressed forms of files, besides the files themselves.
pub(super) const SIBLINGS: [(&str, &str); 2] = [("br", "br"), ("gz", "gzip")];

/// An answer that takes longer counts as failed. It allows for a large answer beside a thousand others on a busy
/// machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The same if thousands of clients make their handshakes at once: the last one waits for all others.
const PATIENCE_WITH_HANDSHAKES: Duration = Duration::from_secs(180);

/// The folder of files that servers serve: `dataset.json`, and `static` with files.
#[derive(Clone, Debug)]
pub(super) struct Data(pub(super) PathBuf);

impl Data {
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join("static").join(name)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.file(name);
        fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Names and sizes of the files that are not a compressed form of another, in order.
    fn files(&self) -> Result<Vec<(String, u64)>, String> {
        let folder = self.0.join("static");
        let wrong = |error: std::io::Error| format!("{}: {error}; see --data", folder.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            let name = entry.file_name().into_string().map_err(|name| format!("{}: not a name", name.display()))?;
            let is_sibling = SIBLINGS.iter().any(|(extension, _)| name.ends_with(&format!(".{extension}")));
            let metadata = entry.metadata().map_err(wrong)?;
            if metadata.is_file() && !is_sibling {
                files.push((name, metadata.len()));
            }
        }
        files.sort();
        if files.is_empty() { Err(format!("{}: no files; see --data", folder.display())) } else { Ok(files) }
    }
}

/// The load of a workload, for any target and cores.
///
/// # Errors
/// If its files do not exist.
pub(super) fn load(workload: &Workload, target: SocketAddr, data: &Data) -> Result<Plan, String> {
    let plan = |connections: u32, exchange| {
        let mut plan = Plan::new(target, exchange);
        plan.connections = connections;
        plan.timeout = PATIENCE;
        plan
    };
    let rotation = |requests| ExchangePlan::Http(HttpPlan::rotation(workload.name(), requests));
    let get = |path: &str| HttpPlan::get(path, target).map(ExchangePlan::Http);
    let socket = |payload_bytes| ExchangePlan::WebSocket { path: "/ws".to_owned(), payload_bytes };
    let mut plan = match *workload {
        Workload::Differ { connections, depth } => {
            let mut plan = plan(connections, rotation(all(&DIFFER, |raw| first(raw.as_bytes()))?));
            plan.depth = depth;
            plan
        }
        Workload::Http { connections, depth } => {
            let mut plan = plan(connections, get("/plaintext")?);
            plan.depth = depth;
            plan
        }
        Workload::Json { connections } => plan(connections, get("/json")?),
        Workload::Handshake { connections, .. } => {
            let mut plan = plan(connections, rotation(all(&DIFFER, |raw| first(raw.as_bytes()))?));
            plan.requests_per_connection = 1;
            plan
        }
        Workload::Download { connections, bytes } => plan(connections, rotation(vec![download(bytes)?])),
        Workload::Tls { ref inner, .. } => {
            let mut plan = load(inner, target, data)?;
            if plan.is_idle {
                plan.timeout = PATIENCE_WITH_HANDSHAKES;
            }
            plan
        }
        Workload::Close { connections } => {
            let mut plan = plan(connections, get("/plaintext")?);
            plan.requests_per_connection = 1;
            plan
        }
        Workload::Idle { connections } => {
            let mut plan = plan(connections, get("/plaintext")?);
            plan.is_idle = true;
            plan
        }
        Workload::Rate { .. } => plan(CONNECTIONS_DEFAULT, get("/plaintext")?),
        Workload::Upload { connections, bytes } => plan(connections, rotation(vec![upload(bytes)?])),
        Workload::Static { connections } => {
            let files = data.files()?.into_iter().filter(|(_, bytes)| STATIC_BYTES.contains(bytes));
            plan(connections, rotation(files.map(|(name, _)| file(data, &name)).collect::<Result<_, _>>()?))
        }
        Workload::WebSocket { connections, payload_bytes } => plan(connections, socket(payload_bytes as usize)),
        Workload::Echo { connections, payload_bytes } => {
            plan(connections, ExchangePlan::Echo { payload_bytes: payload_bytes as usize })
        }
        Workload::Resp { is_set, depth } => {
            let command = if is_set { RespCommand::Set } else { RespCommand::Get };
            let mut plan =
                plan(CONNECTIONS_DEFAULT, ExchangePlan::Resp { command, payload_bytes: RESP_BYTES, keys: 1 });
            plan.depth = depth;
            plan
        }
        Workload::Arena { profile, connections } => {
            let exchange = match profile {
                Profile::Baseline | Profile::LimitedConn => {
                    rotation(all(&BASELINE, |raw| RequestPlan::with_sum(raw.as_bytes()))?)
                }
                Profile::Pipelined => {
                    let template = Template::new(PIPELINE.as_bytes())?;
                    rotation(vec![RequestPlan { template, expected: Expected::Body(b"ok".to_vec()) }])
                }
                Profile::Json => rotation(all(&ITEMS, |raw| first(raw.as_bytes()))?),
                Profile::JsonComp => rotation(all(&ITEMS, |raw| first(accepting(raw).as_bytes()))?),
                Profile::Upload => rotation(ARENA_UPLOAD_BYTES.into_iter().map(upload).collect::<Result<_, _>>()?),
                Profile::Static => {
                    let request = |(name, _): (String, u64)| first(accepting(&get_file(&name)).as_bytes());
                    rotation(data.files()?.into_iter().map(request).collect::<Result<_, _>>()?)
                }
                Profile::EchoWs => socket(ARENA_MESSAGE_BYTES),
            };
            let mut plan = plan(connections, exchange);
            match profile {
                Profile::LimitedConn => plan.requests_per_connection = ARENA_REQUESTS_PER_CONNECTION,
                Profile::Pipelined => plan.depth = ARENA_DEPTH,
                _ => {}
            }
            plan
        }
    };
    plan.sources = plan.default_sources();
    Ok(plan)
}

/// Bytes of a value of RESP.
const RESP_BYTES: usize = 64;

/// How much the requests of a load differ.
pub(super) fn variety(plan: &Plan) -> Variety {
    match &plan.exchange {
        ExchangePlan::Http(http) if http.requests.iter().any(|request| !request.template.is_constant()) => {
            Variety::Differ
        }
        ExchangePlan::Http(http) if http.requests.len() > 1 => Variety::Rotation(http.requests.len()),
        ExchangePlan::Http(_) | ExchangePlan::Resp { .. } => Variety::Equal,
        // Payloads differ.
        ExchangePlan::Echo { .. } | ExchangePlan::WebSocket { .. } => Variety::Differ,
    }
}

/// Whether answers to it may be compressed.
pub(super) fn may_be_compressed(workload: &Workload) -> bool {
    let is_arena_static = matches!(workload, Workload::Arena { profile: Profile::Static, .. });
    is_arena_static || workload.service() == Service::ItemsCompressed
}

fn all(raws: &[&str], request: impl Fn(&str) -> Result<RequestPlan, String>) -> Result<Vec<RequestPlan>, String> {
    raws.iter().map(|raw| request(raw)).collect()
}

/// A request whose answers must all equal the first one.
fn first(raw: &[u8]) -> Result<RequestPlan, String> {
    Ok(RequestPlan { template: Template::new(raw)?, expected: Expected::First })
}

/// The same request from a client that accepts compressed answers.
fn accepting(raw: &str) -> String {
    let head = raw.trim_end();
    format!("{head}\r\nAccept-Encoding: gzip, br\r\n\r\n")
}

fn get_file(name: &str) -> String {
    format!("GET /static/{name} HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
}

fn file(data: &Data, name: &str) -> Result<RequestPlan, String> {
    let template = Template::new(get_file(name).as_bytes())?;
    Ok(RequestPlan { template, expected: Expected::Body(data.read(name)?) })
}

/// The file of a download.
pub(super) fn download_name(bytes: u32) -> String {
    format!("download-{bytes}.bin")
}

/// Its contents.
pub(super) fn random_bytes(count: u32) -> Vec<u8> {
    let mut random = Random::new(u64::from(count));
    let mut bytes = Vec::with_capacity(count as usize + 8);
    while bytes.len() < count as usize {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(count as usize);
    bytes
}

fn download(bytes: u32) -> Result<RequestPlan, String> {
    let name = download_name(bytes);
    let template = Template::new(get_file(&format!("{name}?version={{RAND:1:1000000}}")).as_bytes())?;
    Ok(RequestPlan { template, expected: Expected::Body(random_bytes(bytes)) })
}

/// Bytes without a pattern, to be counted.
fn upload(bytes: u32) -> Result<RequestPlan, String> {
    let mut raw = format!(
        "POST /upload HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {bytes}\r\n\r\n"
    )
    .into_bytes();
    raw.extend_from_slice(&random_bytes(bytes));
    Ok(RequestPlan { template: Template::new(&raw)?, expected: Expected::Body(bytes.to_string().into_bytes()) })
}

/// The folder of the files that come with this program.
pub(super) const DATA_DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/arena");

/// Checks that a folder has the files that servers serve.
pub(super) fn check_data(folder: &Path) -> Result<Data, String> {
    let data = Data(folder.to_path_buf());
    let dataset = folder.join("dataset.json");
    if !dataset.is_file() {
        return Err(format!("--data {}: no such file", dataset.display()));
    }
    data.files()?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::super::workload::{ARENA, FULL, QUICK, TLS};
    use super::*;

    fn plan_of(name: &str) -> Plan {
        let workload: Workload = name.parse().expect(name);
        load(&workload, ([127, 0, 0, 1], 1).into(), &Data(DATA_DEFAULT.into())).expect(name)
    }

    #[test]
    fn every_workload_has_a_load_that_can_be_run() {
        for name in QUICK.into_iter().chain(ARENA).chain(FULL).chain(TLS) {
            assert_eq!(plan_of(name).check(), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_is_equal_is_known() {
        for (name, expected) in [
            ("differ:64", Variety::Differ),
            ("differ:64:16", Variety::Differ),
            ("arena:baseline", Variety::Differ),
            ("arena:limited-conn", Variety::Differ),
            ("arena:pipelined", Variety::Equal),
            ("arena:json", Variety::Rotation(7)),
            ("arena:upload", Variety::Rotation(4)),
            ("arena:static", Variety::Rotation(20)),
            ("static:1", Variety::Rotation(18)),
            ("upload:1:1000", Variety::Equal),
            ("http:64", Variety::Equal),
            ("close:64", Variety::Equal),
            ("ws:1:10", Variety::Differ),
            ("resp:get:1", Variety::Equal),
            ("download:1:1000", Variety::Differ),
            ("tls:resume:1", Variety::Differ),
            ("tls:close:1", Variety::Equal),
        ] {
            assert_eq!(variety(&plan_of(name)), expected, "{name}");
        }
        assert!(QUICK.iter().any(|name| variety(&plan_of(name)) == Variety::Differ));
    }

    #[test]
    fn profiles_are_those_of_the_arena() {
        let limited = plan_of("arena:limited-conn");
        assert_eq!((limited.connections, limited.requests_per_connection, limited.depth), (512, 10, 1));
        assert_eq!(plan_of("arena:pipelined").depth, 16);
        let ExchangePlan::Http(http) = plan_of("arena:baseline").exchange else { panic!("HTTP") };
        assert!(http.requests.iter().all(|request| request.expected == Expected::Sum { constant: 0 }));
    }
}
