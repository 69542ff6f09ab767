//! The load on each server: names, and what servers must be able to do.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;

use crate::number;

/// Connections of workloads that do not say how many.
pub(super) const CONNECTIONS_DEFAULT: u32 = 64;

/// Connections of HttpArena's profiles if none are given: as there, and fewer for those that move megabytes.
const ARENA_CONNECTIONS: u32 = 512;
const ARENA_CONNECTIONS_LARGE: u32 = 32;

/// The forms of a workload, for people.
pub(super) const FORMS: &str = "\
differ:CONNECTIONS[:DEPTH], http:CONNECTIONS[:DEPTH], json:CONNECTIONS, close:CONNECTIONS, upload:CONNECTIONS:BYTES, \
download:CONNECTIONS:BYTES, static:CONNECTIONS, ws:CONNECTIONS:BYTES, arena:PROFILE[:CONNECTIONS], \
echo:CONNECTIONS:BYTES, resp:get|set:DEPTH, idle:CONNECTIONS, rate:PERCENT, and within TLS tls:FORM or tls-rsa:FORM, FORM one \
of handshake:CONNECTIONS, resume:CONNECTIONS, differ, http, json, close, download, static, idle";

/// What a server must serve for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// `/plaintext`, with any query: `Hello, World!`.
    Plaintext,
    /// `/json`: a message.
    Json,
    /// `/baseline11`: the sum of the query's values and of the body.
    Baseline,
    /// `/pipeline`: `ok`.
    Pipeline,
    /// `/json/{count}?m=`: items of HttpArena's dataset.
    Items,
    /// The same, compressed.
    ItemsCompressed,
    /// `/upload`: how many bytes the body has.
    Upload,
    /// `/static/{file}`.
    Static,
    /// `/ws`: echo.
    WebSocket,
    Echo,
    Resp,
}

impl Service {
    pub(super) fn is_http(self) -> bool {
        !matches!(self, Self::Echo | Self::Resp)
    }
}

/// Whether the same requests repeat, which a server could exploit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variety {
    Equal,
    /// This many in rotation.
    Rotation(usize),
    Differ,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// GETs with random values in their queries and the headers of browsers, `depth` of them in flight on each
    /// connection.
    Differ {
        connections: u32,
        depth: u32,
    },
    /// One GET again and again, `depth` of them in flight on each connection.
    Http {
        connections: u32,
        depth: u32,
    },
    /// The same for an answer that is made for each request.
    Json {
        connections: u32,
    },
    /// One request per connection, on `connections` connections at a time.
    Close {
        connections: u32,
    },
    /// POSTs with a body of this many bytes.
    Upload {
        connections: u32,
        bytes: u32,
    },
    /// One file of this many bytes.
    Download {
        connections: u32,
        bytes: u32,
    },
    /// Files in rotation.
    Static {
        connections: u32,
    },
    /// Messages on WebSockets.
    WebSocket {
        connections: u32,
        payload_bytes: u32,
    },
    Arena {
        profile: Profile,
        connections: u32,
    },
    Echo {
        connections: u32,
        payload_bytes: u32,
    },
    Resp {
        is_set: bool,
        depth: u32,
    },
    /// Connections that have had one answer: their cost in memory.
    Idle {
        connections: u32,
    },
    /// HTTP at this percentage of the rate that the slowest server can reach: latency.
    Rate {
        percent: u32,
    },
    /// A handshake for each request, with requests of [`Workload::Differ`]; only within TLS.
    Handshake {
        connections: u32,
        resumes: bool,
    },
    /// Another workload, within TLS.
    Tls {
        key: Key,
        inner: Box<Workload>,
    },
}

/// The kind of a server's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// On P-256.
    Ecdsa,
    /// Of 2,048 bits.
    Rsa,
}

impl Key {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Ecdsa => "tls:",
            Self::Rsa => "tls-rsa:",
        }
    }
}

/// HttpArena's profiles of HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Profile {
    Baseline,
    LimitedConn,
    Pipelined,
    Json,
    JsonComp,
    Upload,
    Static,
    EchoWs,
}

impl Profile {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn connections_default(self) -> u32 {
        match self {
            Self::Upload | Self::Static => ARENA_CONNECTIONS_LARGE,
            _ => ARENA_CONNECTIONS,
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Baseline => "sums of GET, POST with length and POST in chunks",
            Self::LimitedConn => "the same, 10 requests per connection",
            Self::Pipelined => "pipelined 16",
            Self::Json => "JSON of 1 to 50 items",
            Self::JsonComp => "JSON of 1 to 50 items, compressed",
            Self::Upload => "uploads of 500 KB to 20 MB",
            Self::Static => "static files, compressed where a server does",
            Self::EchoWs => "WebSocket echo",
        }
    }
}

/// The workloads of `--group quick`.
pub(super) const QUICK: [&str; 6] = ["differ:64", "differ:64:16", "http:64", "close:64", "echo:64:64", "resp:get:1"];

/// The workloads of `--group arena`.
pub(super) const ARENA: [&str; 8] = [
    "arena:baseline",
    "arena:limited-conn",
    "arena:pipelined",
    "arena:json",
    "arena:json-comp",
    "arena:upload",
    "arena:static",
    "arena:echo-ws",
];

/// The workloads of `--group full`.
pub(super) const FULL: [&str; 27] = [
    "differ:64",
    "differ:256",
    "differ:1024",
    "differ:64:16",
    "http:1",
    "http:64",
    "http:256",
    "http:1024",
    "http:64:16",
    "json:64",
    "close:64",
    "upload:16:2000000",
    "upload:16:20000000",
    "static:64",
    "ws:64:64",
    "echo:64:64",
    "echo:64:1024",
    "echo:64:16384",
    "echo:16:1048576",
    "resp:get:1",
    "resp:set:1",
    "resp:get:16",
    "resp:set:16",
    "idle:10000",
    "rate:10",
    "rate:50",
    "rate:80",
];

/// The workloads of `--group tls`.
pub(super) const TLS: [&str; 8] = [
    "tls:differ:64",
    "tls:differ:64:16",
    "tls:handshake:64",
    "tls:resume:64",
    "tls-rsa:handshake:64",
    "tls-rsa:resume:64",
    "tls:download:16:1048576",
    "tls:idle:10000",
];

impl Workload {
    /// The workload itself, without TLS around it.
    pub(super) fn inner(&self) -> &Self {
        if let Self::Tls { inner, .. } = self { inner } else { self }
    }

    /// The kind of the server's key, if the workload is within TLS.
    pub(super) fn key(&self) -> Option<Key> {
        if let Self::Tls { key, .. } = self { Some(*key) } else { None }
    }

    /// Whether connections resume sessions.
    pub(super) fn resumes(&self) -> bool {
        matches!(self.inner(), Self::Handshake { resumes: true, .. })
    }

    /// The size of the file that it needs.
    pub(super) fn download_bytes(&self) -> Option<u32> {
        if let Self::Download { bytes, .. } = self.inner() { Some(*bytes) } else { None }
    }

    /// Whether servers can run it within TLS.
    fn can_be_within_tls(&self) -> bool {
        matches!(
            self,
            Self::Differ { .. }
                | Self::Http { .. }
                | Self::Json { .. }
                | Self::Close { .. }
                | Self::Handshake { .. }
                | Self::Download { .. }
                | Self::Static { .. }
                | Self::Idle { .. }
        )
    }

    pub(super) fn service(&self) -> Service {
        match self {
            Self::Differ { .. }
            | Self::Http { .. }
            | Self::Close { .. }
            | Self::Handshake { .. }
            | Self::Idle { .. }
            | Self::Rate { .. } => Service::Plaintext,
            Self::Tls { inner, .. } => inner.service(),
            Self::Json { .. } => Service::Json,
            Self::Upload { .. } => Service::Upload,
            Self::Static { .. } | Self::Download { .. } => Service::Static,
            Self::WebSocket { .. } => Service::WebSocket,
            Self::Echo { .. } => Service::Echo,
            Self::Resp { .. } => Service::Resp,
            Self::Arena { profile, .. } => match profile {
                Profile::Baseline | Profile::LimitedConn => Service::Baseline,
                Profile::Pipelined => Service::Pipeline,
                Profile::Json => Service::Items,
                Profile::JsonComp => Service::ItemsCompressed,
                Profile::Upload => Service::Upload,
                Profile::Static => Service::Static,
                Profile::EchoWs => Service::WebSocket,
            },
        }
    }

    /// Its form on the command line.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Differ { connections, depth: 1 } => format!("differ:{connections}"),
            Self::Differ { connections, depth } => format!("differ:{connections}:{depth}"),
            Self::Http { connections, depth: 1 } => format!("http:{connections}"),
            Self::Http { connections, depth } => format!("http:{connections}:{depth}"),
            Self::Json { connections } => format!("json:{connections}"),
            Self::Close { connections } => format!("close:{connections}"),
            Self::Upload { connections, bytes } => format!("upload:{connections}:{bytes}"),
            Self::Download { connections, bytes } => format!("download:{connections}:{bytes}"),
            Self::Static { connections } => format!("static:{connections}"),
            Self::WebSocket { connections, payload_bytes } => format!("ws:{connections}:{payload_bytes}"),
            Self::Arena { profile, connections } if *connections == profile.connections_default() => {
                format!("arena:{}", profile.name())
            }
            Self::Arena { profile, connections } => format!("arena:{}:{connections}", profile.name()),
            Self::Echo { connections, payload_bytes } => format!("echo:{connections}:{payload_bytes}"),
            Self::Resp { is_set, depth } => format!("resp:{}:{depth}", if *is_set { "set" } else { "get" }),
            Self::Idle { connections } => format!("idle:{connections}"),
            Self::Rate { percent } => format!("rate:{percent}"),
            Self::Handshake { connections, resumes: false } => format!("handshake:{connections}"),
            Self::Handshake { connections, resumes: true } => format!("resume:{connections}"),
            Self::Tls { key, inner } => format!("{}{}", key.prefix(), inner.name()),
        }
    }
}

/// A size in a suitable unit, of powers of two or of ten.
fn size(bytes: u32) -> String {
    match bytes {
        bytes if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        bytes if bytes % 1024 == 0 => format!("{} KiB", bytes >> 10),
        bytes if bytes % 1_000_000 == 0 => format!("{} MB", bytes / 1_000_000),
        bytes if bytes % 1_000 == 0 => format!("{} KB", bytes / 1_000),
        bytes => format!("{bytes} B"),
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: &u32| if *count == 1 { "1 connection".to_owned() } else { format!("{count} connections") };
        let pipelined = |depth: &u32| if *depth > 1 { format!(", pipelined {depth}") } else { String::new() };
        match self {
            Self::Differ { connections, depth } => {
                write!(formatter, "HTTP, requests of browsers, {}{}", plural(connections), pipelined(depth))
            }
            Self::Http { connections, depth } => {
                write!(formatter, "HTTP, {}{}", plural(connections), pipelined(depth))
            }
            Self::Json { connections } => write!(formatter, "HTTP, JSON, {}", plural(connections)),
            Self::Close { connections } => {
                write!(formatter, "HTTP, one request per connection, {connections} at a time")
            }
            Self::Upload { connections, bytes } => {
                write!(formatter, "HTTP, uploads of {}, {}", size(*bytes), plural(connections))
            }
            Self::Download { connections, bytes } => {
                write!(formatter, "HTTP, a file of {}, {}", size(*bytes), plural(connections))
            }
            Self::Static { connections } => {
                write!(formatter, "HTTP, static files of 8 to 300 KiB, {}", plural(connections))
            }
            Self::WebSocket { connections, payload_bytes } => {
                write!(formatter, "WebSocket echo of {}, {}", size(*payload_bytes), plural(connections))
            }
            Self::Arena { profile, connections } => {
                write!(formatter, "HttpArena {}: {}, {}", profile.name(), profile.about(), plural(connections))
            }
            Self::Echo { connections, payload_bytes } => {
                write!(formatter, "echo of {}, {}", size(*payload_bytes), plural(connections))
            }
            Self::Resp { is_set, depth } => {
                let command = if *is_set { "SET" } else { "GET" };
                write!(formatter, "RESP {command}, {}{}", plural(&CONNECTIONS_DEFAULT), pipelined(depth))
            }
            Self::Idle { connections } => write!(formatter, "{connections} idle HTTP connections"),
            Self::Rate { percent } => {
                write!(formatter, "HTTP, {CONNECTIONS_DEFAULT} connections, {percent} % of the slowest one's best")
            }
            Self::Handshake { connections, resumes } => {
                let kind = if *resumes { "resumed" } else { "full" };
                write!(formatter, "{kind} handshakes with a request each, {connections} at a time")
            }
            Self::Tls { key: Key::Ecdsa, inner } => write!(formatter, "TLS (ECDSA P-256), {inner}"),
            Self::Tls { key: Key::Rsa, inner } => write!(formatter, "TLS (RSA 2048), {inner}"),
        }
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        for key in [Key::Ecdsa, Key::Rsa] {
            let Some(inner) = text.strip_prefix(key.prefix()) else { continue };
            let inner = Self::parse(inner)?;
            if !inner.can_be_within_tls() {
                return Err(format!("{:?} is not measured within TLS; the forms are {FORMS}", inner.name()));
            }
            return Ok(Self::Tls { key, inner: Box::new(inner) });
        }
        match Self::parse(text)? {
            plain @ Self::Handshake { .. } => Err(format!("{0:?} is within TLS: tls:{0} or tls-rsa:{0}", plain.name())),
            plain => Ok(plain),
        }
    }
}

impl Workload {
    /// A workload without TLS.
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |index: usize, most: u32| {
            let text = parts.get(index).ok_or("a number is missing")?;
            number::whole(1..=most)(text).map_err(|refused| format!("{text:?} {refused}"))
        };
        let connections = |index| number(index, 100_000);
        let depth = |index| if parts.len() > index { number(index, 4096) } else { Ok(1) };
        let (workload, most) = match parts[0] {
            "differ" => (Self::Differ { connections: connections(1)?, depth: depth(2)? }, 3),
            "http" => (Self::Http { connections: connections(1)?, depth: depth(2)? }, 3),
            "json" => (Self::Json { connections: connections(1)? }, 2),
            "close" => (Self::Close { connections: connections(1)? }, 2),
            "upload" => (Self::Upload { connections: connections(1)?, bytes: number(2, 64 << 20)? }, 3),
            "download" => (Self::Download { connections: connections(1)?, bytes: number(2, 64 << 20)? }, 3),
            "handshake" => (Self::Handshake { connections: connections(1)?, resumes: false }, 2),
            "resume" => (Self::Handshake { connections: connections(1)?, resumes: true }, 2),
            "static" => (Self::Static { connections: connections(1)? }, 2),
            "ws" => (Self::WebSocket { connections: connections(1)?, payload_bytes: number(2, 1 << 20)? }, 3),
            "arena" => {
                let profile = parts.get(1).and_then(|name| Profile::from_str(name, false).ok());
                let profile = profile.ok_or_else(|| {
                    let names: Vec<String> = Profile::value_variants().iter().map(|profile| profile.name()).collect();
                    format!("expected arena:PROFILE[:CONNECTIONS], PROFILE one of {}", names.join(", "))
                })?;
                let connections = if parts.len() > 2 { connections(2)? } else { profile.connections_default() };
                (Self::Arena { profile, connections }, 3)
            }
            "echo" => (Self::Echo { connections: connections(1)?, payload_bytes: number(2, 64 << 20)? }, 3),
            "resp" => {
                let is_set = match parts.get(1) {
                    Some(&"set") => true,
                    Some(&"get") => false,
                    _ => return Err("expected resp:get:DEPTH or resp:set:DEPTH".to_owned()),
                };
                (Self::Resp { is_set, depth: number(2, 4096)? }, 3)
            }
            "idle" => (Self::Idle { connections: connections(1)? }, 2),
            "rate" => (Self::Rate { percent: number(1, 100)? }, 2),
            other => return Err(format!("{other:?} is none of {FORMS}")),
        };
        if parts.len() > most {
            return Err(format!("{:?} is too much; the forms are {FORMS}", parts[most]));
        }
        Ok(workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_read_as_they_are_written() {
        for name in FULL.into_iter().chain(QUICK).chain(ARENA).chain(TLS).chain(["arena:json:7", "ws:1:1048576"]) {
            let workload: Workload = name.parse().expect(name);
            assert_eq!(workload.name(), name);
        }
    }

    #[test]
    fn wrong_ones_are_refused() {
        for wrong in [
            "",
            "http",
            "http:0",
            "http:x",
            "http:1:2:3",
            "echo:5",
            "resp:del:1",
            "resp:get",
            "rate:101",
            "ftp:1",
            "differ",
            "differ:0",
            "differ:1:2:3",
            "upload:1",
            "upload:1:0",
            "static",
            "static:1:2",
            "ws:1",
            "ws:1:1048577",
            "arena",
            "arena:x",
            "arena:json:0",
            "arena:json:1:2",
            "handshake:1",
            "resume:1",
            "tls:",
            "tls:echo:1:1",
            "tls:rate:10",
            "tls:tls:http:1",
            "tls:handshake:0",
            "download:1",
        ] {
            assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
        }
        assert!("ftp:1".parse::<Workload>().expect_err("unknown").contains("differ:CONNECTIONS[:DEPTH]"));
        assert!("resume:1".parse::<Workload>().expect_err("plain").contains("tls-rsa:resume:1"));
        assert!("tls:ws:1:1".parse::<Workload>().expect_err("not there").contains("not measured within TLS"));
        assert!("arena:x".parse::<Workload>().expect_err("unknown").contains("limited-conn"));
    }
}
