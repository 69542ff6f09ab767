//! The plan of a load: the target, the requests, their number and rate, and the duration.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::arrivals::ArrivalPlan;
pub(crate) use super::exchange::Template;
use super::tls::TlsPlan;

/// The most requests in flight on one connection.
pub(crate) const DEPTH_MAX: u32 = 4096;

/// The most connections of one load.
pub(crate) const CONNECTIONS_MAX: u32 = 1_000_000;

/// Largest payload.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Largest message on a WebSocket.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// How many source addresses a load on loopback uses by default if it makes connections continuously.
const LOOPBACK_SOURCES: u8 = 8;

/// The requests, and the required answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExchangePlan {
    Http(HttpPlan),
    /// A WebSocket (RFC 6455) for each connection, and binary messages of this many bytes; each must come back
    /// unchanged.
    WebSocket {
        path: String,
        payload_bytes: usize,
    },
    /// Messages of this many bytes; each must come back unchanged.
    Echo {
        payload_bytes: usize,
    },
    Resp {
        command: RespCommand,
        payload_bytes: usize,
        keys: u32,
    },
}

/// HTTP requests, sent in rotation on each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpPlan {
    name: String,
    pub(crate) requests: Vec<RequestPlan>,
    /// The only request with `Connection: close`, if the server must learn that it is the last one.
    pub(crate) last_request: Option<Template>,
}

/// One kind of request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestPlan {
    pub(crate) template: Template,
    pub(crate) expected: Expected,
}

/// The required bodies of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The same as the first one.
    First,
    /// They may differ from answer to answer.
    Any,
    Body(Vec<u8>),
    /// The sum of this and of the request's random numbers, in digits.
    Sum {
        constant: u64,
    },
}

/// The parts of one HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestParts {
    pub(crate) path: String,
    /// The Host header; `None`: the target's address.
    pub(crate) host: Option<String>,
    /// Whole header lines, without line ends.
    pub(crate) headers: Vec<String>,
    /// A body of this many bytes, if not 0, makes it a POST.
    pub(crate) payload_bytes: usize,
    pub(crate) expected: Expected,
}

impl RequestPlan {
    /// A request whose answer is the sum of the query's values and of the body.
    pub(crate) fn with_sum(raw: &[u8]) -> Result<Self, String> {
        let template = Template::new(raw)?;
        let expected = Expected::Sum { constant: template.sum_constant()? };
        Ok(Self { template, expected })
    }
}

impl HttpPlan {
    /// Requests that are sent unchanged. The client closes after the last one of a connection.
    pub(crate) fn rotation(name: impl Into<String>, requests: Vec<RequestPlan>) -> Self {
        Self { name: name.into(), requests, last_request: None }
    }

    /// One request again and again; the last one on a connection says so.
    ///
    /// # Errors
    /// If the parts are not a valid request.
    pub(crate) fn one(parts: &RequestParts, target: SocketAddr) -> Result<Self, String> {
        let RequestParts { path, payload_bytes, .. } = parts;
        if *payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(format!("--payload must be between 0 and {PAYLOAD_BYTES_MAX}, not {payload_bytes}"));
        }
        let (method, of) = match payload_bytes {
            0 => ("GET", String::new()),
            bytes => ("POST", format!(" of {bytes} bytes")),
        };
        let template = |connection: &str| {
            let host = parts.host.clone().unwrap_or_else(|| target.to_string());
            let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
            parts.headers.iter().for_each(|line| text.extend([line, "\r\n"]));
            if *payload_bytes > 0 {
                text.push_str(&format!("Content-Length: {payload_bytes}\r\n"));
            }
            text.extend([connection, "\r\n"]);
            let mut bytes = text.into_bytes();
            bytes.resize(bytes.len() + payload_bytes, b'b');
            Template::new(&bytes)
        };
        Ok(Self {
            name: format!("{method} {path}{of}"),
            requests: vec![RequestPlan { template: template("")?, expected: parts.expected.clone() }],
            last_request: Some(template("Connection: close\r\n")?),
        })
    }

    /// A GET whose answers must all equal the first one.
    ///
    /// # Errors
    /// If this is not a path.
    pub(crate) fn get(path: &str, target: SocketAddr) -> Result<Self, String> {
        let path = path.to_owned();
        let parts = RequestParts { path, host: None, headers: Vec::new(), payload_bytes: 0, expected: Expected::First };
        Self::one(&parts, target)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RespCommand {
    Ping,
    Get,
    Set,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    pub(crate) exchange: ExchangePlan,
    /// `Some`: everything is within TLS.
    pub(crate) tls: Option<TlsPlan>,
    pub(crate) connections: u32,
    /// Requests in flight on each connection: they are sent together, and the next ones when all are answered. With a
    /// rate, the most requests in flight.
    pub(crate) depth: u32,
    /// Requests per second of all connections together, sent when they are due whatever has been answered; `None` sends
    /// as fast as answers arrive.
    pub(crate) rate: Option<f64>,
    /// Each connection is a client that asks in its own time, instead of a common rate; one request at a time.
    pub(crate) arrivals: Option<ArrivalPlan>,
    /// After this many, the connection is closed and another one made; 0 keeps it.
    pub(crate) requests_per_connection: u32,
    /// Each connection sends one request and is then held.
    pub(crate) is_idle: bool,
    /// The time over which connections are opened.
    pub(crate) ramp: Duration,
    /// Connect from these, in turn; if empty, the kernel chooses.
    pub(crate) sources: Vec<IpAddr>,
    /// The longest time for a connect, and for an answer.
    pub(crate) timeout: Duration,
    /// One pinned thread for each; if empty, [`Plan::threads`] unpinned ones.
    pub(crate) cores: Vec<usize>,
    pub(crate) threads: usize,
    /// Number of phases for which answers are counted separately; see [`super::Load::enter_phase`].
    pub(crate) phases: usize,
    /// Resolution of the timeline.
    pub(crate) interval: Duration,
}

impl Plan {
    pub(crate) fn new(target: SocketAddr, exchange: ExchangePlan) -> Self {
        Self {
            target,
            exchange,
            tls: None,
            connections: 64,
            depth: 1,
            rate: None,
            arrivals: None,
            requests_per_connection: 0,
            is_idle: false,
            ramp: Duration::ZERO,
            sources: Vec::new(),
            timeout: Duration::from_secs(5),
            cores: Vec::new(),
            threads: 1,
            phases: 1,
            interval: Duration::from_millis(100),
        }
    }

    /// Source addresses for a load that makes many connections: the ports of one address run out.
    pub(crate) fn sources_for(target: IpAddr, count: u8) -> Vec<IpAddr> {
        match target {
            IpAddr::V4(address) if address.is_loopback() => {
                (0..count).map(|index| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + index))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The source addresses of a load if the caller has chosen none.
    pub(crate) fn default_sources(&self) -> Vec<IpAddr> {
        let needs_many = self.requests_per_connection > 0 || self.connections > 20_000;
        if needs_many { Self::sources_for(self.target.ip(), LOOPBACK_SOURCES) } else { Vec::new() }
    }

    pub(crate) fn thread_count(&self) -> usize {
        let wanted = if self.cores.is_empty() { self.threads } else { self.cores.len() };
        // A thread without a connection would have nothing to do.
        wanted.clamp(1, self.connections.max(1) as usize)
    }

    /// Checks the plan.
    pub(crate) fn check(&self) -> Result<(), String> {
        let payload_bytes = match &self.exchange {
            ExchangePlan::Http(http) if http.requests.is_empty() => {
                return Err("there is no request to send".to_owned());
            }
            ExchangePlan::Http(_) => 0,
            ExchangePlan::Echo { payload_bytes: 0 } => {
                return Err("--payload 0: an echo of nothing has no answer; give at least 1".to_owned());
            }
            ExchangePlan::WebSocket { payload_bytes, .. } if *payload_bytes > MESSAGE_BYTES_MAX => {
                return Err(format!(
                    "--payload {payload_bytes}: a WebSocket message has at most {MESSAGE_BYTES_MAX} bytes"
                ));
            }
            ExchangePlan::WebSocket { payload_bytes, .. }
            | ExchangePlan::Echo { payload_bytes }
            | ExchangePlan::Resp { payload_bytes, .. } => *payload_bytes,
        };
        let ranges = [
            ("--connections", u64::from(self.connections), 1, u64::from(CONNECTIONS_MAX)),
            ("--depth", u64::from(self.depth), 1, u64::from(DEPTH_MAX)),
            ("--payload", payload_bytes as u64, 0, PAYLOAD_BYTES_MAX as u64),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} must be between {least} and {most}, not {value}"));
            }
        }
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0 || rate > 1e9) {
            return Err("--rate must be above 0 and at most 1,000,000,000 a second".to_owned());
        }
        if let Some(source) = self.sources.iter().find(|source| source.is_ipv4() != self.target.is_ipv4()) {
            return Err(format!("--source {source} and the target {} must both be IPv4 or both be IPv6", self.target));
        }
        if self.timeout.is_zero() {
            return Err("--timeout must be above 0".to_owned());
        }
        Ok(())
    }
}

/// Whether load may be put on this address without its owner's permission: this machine, or networks that are private
/// or reserved for tests (RFC 1918, RFC 4193, RFC 2544, RFC 5737, RFC 3849).
pub(crate) fn is_test_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let is_benchmark = a == 198 && matches!(b, 18 | 19);
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_documentation()
                || is_benchmark
        }
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => is_test_address(IpAddr::V4(mapped)),
            None => {
                let [first, second, ..] = address.segments();
                let is_documentation = first == 0x2001 && second == 0x0db8;
                address.is_loopback()
                    || address.is_unique_local()
                    || address.is_unicast_link_local()
                    || is_documentation
            }
        },
    }
}

impl fmt::Display for ExchangePlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(http) => write!(formatter, "HTTP {}", http.name),
            Self::WebSocket { payload_bytes, .. } => write!(formatter, "WebSocket echo of {payload_bytes} bytes"),
            Self::Echo { payload_bytes } => write!(formatter, "echo of {payload_bytes} bytes"),
            Self::Resp { command: RespCommand::Ping, .. } => formatter.write_str("RESP PING"),
            Self::Resp { command, payload_bytes, .. } => {
                write!(formatter, "RESP {} of {payload_bytes} bytes", format!("{command:?}").to_uppercase())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_tests_are_let_through() {
        for good in
            ["127.0.0.1", "127.9.9.9", "10.1.2.3", "192.168.1.1", "198.18.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"]
        {
            assert!(is_test_address(good.parse().expect("an address")), "{good}");
        }
        for foreign in ["8.8.8.8", "0.0.0.0", "172.32.0.1", "2606:4700::1", "::ffff:1.1.1.1"] {
            assert!(!is_test_address(foreign.parse().expect("an address")), "{foreign}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let plan = || Plan::new(([127, 0, 0, 1], 1).into(), ExchangePlan::Echo { payload_bytes: 1 });
        assert_eq!(plan().check(), Ok(()));
        let refused = |change: fn(&mut Plan)| {
            let mut plan = plan();
            change(&mut plan);
            plan.check().expect_err("refused")
        };
        assert!(refused(|plan| plan.connections = 0).starts_with("--connections must be"));
        assert!(refused(|plan| plan.depth = 5000).starts_with("--depth must be"));
        assert!(refused(|plan| plan.rate = Some(f64::NAN)).contains("--rate"));
        assert!(refused(|plan| plan.exchange = ExchangePlan::Echo { payload_bytes: 0 }).contains("--payload 0"));
        assert!(refused(|plan| plan.sources = vec!["::1".parse().expect("an address")]).contains("--source ::1"));
    }

    #[test]
    fn a_load_that_reconnects_takes_several_sources_on_loopback() {
        let mut plan = Plan::new(([127, 0, 0, 1], 1).into(), ExchangePlan::Echo { payload_bytes: 1 });
        assert!(plan.default_sources().is_empty());
        plan.requests_per_connection = 1;
        assert_eq!(plan.default_sources().len(), usize::from(LOOPBACK_SOURCES));
    }
}
