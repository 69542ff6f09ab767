//! What is done to each server.

use std::fmt;
use std::str::FromStr;

/// Connections of workloads that do not say how many.
const CONNECTIONS_DEFAULT: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Echo,
    Resp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// Kept connections, so many requests in flight on each.
    Http {
        connections: u32,
        depth: u32,
    },
    /// The same, for an answer that is made for each request.
    Json {
        connections: u32,
    },
    /// One request per connection, so many at a time.
    Close {
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
    /// Connections that have been answered once: what they cost in memory.
    Idle {
        connections: u32,
    },
    /// HTTP at a rate of so many percent of what the slowest server can do: latency.
    Rate {
        percent: u32,
    },
}

/// Those of `--group quick`.
pub(super) const QUICK: [&str; 5] = ["http:64", "http:64:16", "close:64", "echo:64:64", "resp:get:1"];

/// Those of `--group full`.
pub(super) const FULL: [&str; 19] = [
    "http:1",
    "http:64",
    "http:256",
    "http:1024",
    "http:64:16",
    "json:64",
    "close:64",
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

impl Workload {
    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::Echo { .. } => Protocol::Echo,
            Self::Resp { .. } => Protocol::Resp,
            _ => Protocol::Http,
        }
    }

    /// What `baton-bench run` is told, besides the target and the times.
    pub(super) fn arguments(&self) -> Vec<String> {
        let words = match self {
            Self::Http { connections, depth } => {
                format!("--path /plaintext --connections {connections} --depth {depth}")
            }
            Self::Json { connections } => format!("--path /json --connections {connections}"),
            Self::Close { connections } => {
                format!("--path /plaintext --connections {connections} --requests-per-connection 1")
            }
            Self::Echo { connections, payload_bytes } => {
                format!("--protocol echo --connections {connections} --payload {payload_bytes}")
            }
            Self::Resp { is_set, depth } => {
                let command = if *is_set { "set" } else { "get" };
                format!("--protocol resp --command {command} --depth {depth} --connections {CONNECTIONS_DEFAULT}")
            }
            Self::Idle { connections } => format!("--path /plaintext --connections {connections} --idle"),
            Self::Rate { .. } => format!("--path /plaintext --connections {CONNECTIONS_DEFAULT}"),
        };
        words.split(' ').map(str::to_owned).collect()
    }

    /// The form it is written in on the command line.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Http { connections, depth: 1 } => format!("http:{connections}"),
            Self::Http { connections, depth } => format!("http:{connections}:{depth}"),
            Self::Json { connections } => format!("json:{connections}"),
            Self::Close { connections } => format!("close:{connections}"),
            Self::Echo { connections, payload_bytes } => format!("echo:{connections}:{payload_bytes}"),
            Self::Resp { is_set, depth } => format!("resp:{}:{depth}", if *is_set { "set" } else { "get" }),
            Self::Idle { connections } => format!("idle:{connections}"),
            Self::Rate { percent } => format!("rate:{percent}"),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: &u32| if *count == 1 { "1 connection".to_owned() } else { format!("{count} connections") };
        match self {
            Self::Http { connections, depth: 1 } => write!(formatter, "HTTP, {}", plural(connections)),
            Self::Http { connections, depth } => {
                write!(formatter, "HTTP, {}, pipelined {depth}", plural(connections))
            }
            Self::Json { connections } => write!(formatter, "HTTP, JSON, {}", plural(connections)),
            Self::Close { connections } => {
                write!(formatter, "HTTP, one request per connection, {connections} at a time")
            }
            Self::Echo { connections, payload_bytes } => {
                let size = match payload_bytes {
                    bytes if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
                    bytes if bytes % 1024 == 0 => format!("{} KiB", bytes >> 10),
                    bytes => format!("{bytes} B"),
                };
                write!(formatter, "echo of {size}, {}", plural(connections))
            }
            Self::Resp { is_set, depth } => {
                let command = if *is_set { "SET" } else { "GET" };
                let pipelined = if *depth > 1 { format!(", pipelined {depth}") } else { String::new() };
                write!(formatter, "RESP {command}, {}{pipelined}", plural(&CONNECTIONS_DEFAULT))
            }
            Self::Idle { connections } => write!(formatter, "{connections} idle HTTP connections"),
            Self::Rate { percent } => {
                write!(formatter, "HTTP, {CONNECTIONS_DEFAULT} connections, {percent} % of the slowest one's best")
            }
        }
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |index: usize, most: u32| {
            let text = parts.get(index).ok_or("a number is missing")?;
            let number = text.parse().ok().filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| format!("{text:?} is not a number in 1..={most}"))
        };
        let connections = |index| number(index, 100_000);
        let (workload, count) = match parts[0] {
            "http" if parts.len() == 3 => (Self::Http { connections: connections(1)?, depth: number(2, 4096)? }, 3),
            "http" => (Self::Http { connections: connections(1)?, depth: 1 }, 2),
            "json" => (Self::Json { connections: connections(1)? }, 2),
            "close" => (Self::Close { connections: connections(1)? }, 2),
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
            other => {
                return Err(format!("{other:?} is none of http, json, close, echo, resp, idle, rate; see --list"));
            }
        };
        if parts.len() == count { Ok(workload) } else { Err(format!("{:?} is too much", parts[count])) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_read_as_they_are_written() {
        for name in FULL.into_iter().chain(QUICK) {
            let workload: Workload = name.parse().expect(name);
            assert_eq!(workload.name(), name);
        }
    }

    #[test]
    fn wrong_ones_are_refused() {
        for wrong in
            ["", "http", "http:0", "http:x", "http:1:2:3", "echo:5", "resp:del:1", "resp:get", "rate:101", "ftp:1"]
        {
            assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
        }
    }
}
