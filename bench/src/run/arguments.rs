//! The command line of `baton-bench run`.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::target::Target;
use super::tls::TlsArguments;
use crate::load::{
    CONNECTIONS_MAX, DEPTH_MAX, ExchangePlan, Expected, HttpPlan, PAYLOAD_BYTES_MAX, Plan, RequestParts, RequestPlan,
    RespCommand, Template, is_test_address,
};
use crate::number;
use crate::panel::svg_file;

/// Bytes of a payload if none is given: of an echo, of a RESP value.
const PAYLOAD_BYTES_DEFAULT: usize = 64;

/// The shortest time that measures anything, and the longest: a day.
const SECONDS_MIN: f64 = 0.001;
const SECONDS_MAX: f64 = 86_400.0;

/// Requests a second.
const RATE: RangeInclusive<f64> = 0.001..=1e9;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolName {
    /// Requests for one path, or from templates; answers must have status 2xx or 3xx and the same body each time.
    Http,
    /// Binary messages on WebSockets, which the server must send back.
    Ws,
    /// Bytes, which the server must send back.
    Echo,
    /// GET, SET or PING, as Redis speaks it.
    Resp,
}

impl ProtocolName {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --rate, a connection sends --depth requests together, and the next ones when all of these are answered (closed
loop). With --rate, it sends requests when they are due. \"Corrected\" latencies count from that time, so they include
the time that requests wait while the server stands still (no coordinated omission).

{RAND:min:max} in --path, or anywhere in a template, becomes a random number between the two, a new one in each
request. With several templates, each connection sends them in turn.

Exit codes: 0 every request was answered correctly, 1 a request failed or none was answered, 2 wrong usage.

Examples:
  baton-bench run 127.0.0.1:8080 --connections 256 --duration 10
  baton-bench run 127.0.0.1:8080 --rate 20000 --plot latency.svg --server-pid $(pidof -s batond)
  baton-bench run 127.0.0.1:8080 --requests-per-connection 1
  baton-bench run 127.0.0.1:8080 --path '/search?id={RAND:1:1000000}' -H 'Accept-Language: de'
  baton-bench run 127.0.0.1:8080 --template get.raw --template post.raw --expect-sum
  baton-bench run https://127.0.0.1:8443/ --cacert cert.pem
  baton-bench run https://127.0.0.1:8443/ --insecure --requests-per-connection 1 --resume
  baton-bench run tls://127.0.0.1:7443 --protocol echo --insecure
  baton-bench run 127.0.0.1:6379 --protocol resp --command set --depth 16")]
pub(crate) struct RunArguments {
    /// Address and port of the server, or a URL with https://, http://, wss://, ws://, tls:// or tcp://; a name is looked up.
    target: String,
    /// Protocol to speak; default is that of the URL, or http.
    #[arg(long, value_enum)]
    protocol: Option<ProtocolName>,
    /// Number of connections.
    #[arg(long, short = 'c', default_value_t = 64, value_name = "COUNT", value_parser = number::whole(1..=CONNECTIONS_MAX))]
    connections: u32,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = number::whole(1..=DEPTH_MAX))]
    depth: u32,
    /// Bytes of a message (echo, ws), of a value (resp), or of a body to POST (http); default 64, none for http.
    #[arg(long, value_name = "BYTES", value_parser = number::whole(0..=PAYLOAD_BYTES_MAX))]
    payload: Option<usize>,
    /// Seconds to measure.
    #[arg(long, short = 'd', default_value_t = 10.0, value_name = "SECONDS", value_parser = number::seconds(SECONDS_MIN..=SECONDS_MAX))]
    duration: f64,
    /// Seconds of load before that, which are not measured.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = number::seconds(0.0..=SECONDS_MAX))]
    warm_up: f64,
    /// Seconds over which connections are opened, before the warm-up.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS", value_parser = number::seconds(0.0..=SECONDS_MAX))]
    ramp: f64,
    /// Seconds to wait for a connection or an answer before it counts as failed.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = number::seconds(SECONDS_MIN..=SECONDS_MAX))]
    timeout: f64,
    /// Send this many requests a second, over all connections together.
    #[arg(long, value_name = "COUNT", value_parser = number::fraction("", RATE))]
    rate: Option<f64>,
    /// Close each connection after this many requests and open another; 0 keeps it.
    #[arg(long, default_value_t = 0, value_name = "COUNT", value_parser = number::whole(0..=u32::MAX))]
    requests_per_connection: u32,
    /// Send one request on each connection, then hold it.
    #[arg(long, conflicts_with_all = ["rate", "requests_per_connection"])]
    idle: bool,
    /// Number of threads; each is pinned to a core if there are enough.
    #[arg(long, value_name = "COUNT", value_parser = number::whole(1..=1024_usize), conflicts_with = "cores")]
    threads: Option<usize>,
    /// Cores to use, one thread for each.
    #[arg(long, value_name = "LIST", value_parser = number::core, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Connect from this address; repeatable, to use several in turn. Default on loopback, for many or short connections:
    /// 127.0.0.2 to 127.0.0.9.
    #[arg(long = "source", value_name = "ADDRESS")]
    sources: Vec<IpAddr>,
    /// Path to ask for (http, ws); default is that of the URL, or /.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Host header (http); default is the target.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Add a header line (http); repeatable.
    #[arg(long = "header", short = 'H', value_name = "LINE")]
    headers: Vec<String>,
    /// Send the raw request in this file as it is (http); repeatable.
    #[arg(long = "template", value_name = "FILE", conflicts_with_all = ["path", "host", "headers", "payload"])]
    templates: Vec<PathBuf>,
    /// With templates: each body must be the sum of the values in the request's query and body.
    #[arg(long, requires = "templates", conflicts_with_all = ["expect", "any_body"])]
    expect_sum: bool,
    /// Text that each body must be (http); default is the first body.
    #[arg(long, value_name = "TEXT", conflicts_with = "any_body")]
    expect: Option<String>,
    /// Accept any body, and look only for its end (http).
    #[arg(long)]
    any_body: bool,
    /// Command to send (resp). For get, the keys are set first.
    #[arg(long, value_enum, default_value_t = RespCommand::Get)]
    command: RespCommand,
    /// Number of different keys (resp).
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = number::whole(1..=1_000_000_u32))]
    keys: u32,
    /// Show the CPU time of this process of the server and all its children; repeatable.
    #[arg(long = "server-pid", value_name = "PID", value_parser = number::whole(1..=i32::MAX.unsigned_abs()))]
    pub(super) server_pids: Vec<u32>,
    /// Write the result as JSON; - prints it instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write the distribution of latencies for HdrHistogram's plotter (with a rate also FILE.corrected.hgrm, with TLS also
    /// FILE.handshake.hgrm).
    #[arg(long, value_name = "FILE")]
    pub(super) hgrm: Option<PathBuf>,
    /// Draw latency by percentile, and throughput over time, as SVG.
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file())]
    pub(super) plot: Option<PathBuf>,
    /// Show no progress.
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Put load on an address that is neither of this machine nor private: I declare that it is mine.
    #[arg(long)]
    i_own_this_target: bool,
    #[command(flatten)]
    tls: TlsArguments,
}

/// Resolves the name of a target.
pub(crate) fn resolve(target: &str) -> Result<SocketAddr, String> {
    let hint = "expected ADDRESS:PORT, such as 127.0.0.1:8080";
    let mut addresses = target.to_socket_addrs().map_err(|error| format!("target {target:?}: {error}; {hint}"))?;
    addresses.next().ok_or_else(|| format!("target {target:?} has no address"))
}

/// Refuses targets that may belong to someone else.
pub(crate) fn check_target(target: SocketAddr, is_owned: bool) -> Result<(), String> {
    if is_owned || is_test_address(target.ip()) {
        return Ok(());
    }
    Err(format!("{target} is neither of this machine nor a private address; if it is yours, add --i-own-this-target"))
}

impl RunArguments {
    pub(super) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }

    pub(super) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    pub(super) fn ramp(&self) -> Duration {
        Duration::from_secs_f64(self.ramp)
    }

    /// The protocol, from the target and the arguments.
    fn protocol(&self, target: &Target) -> Result<ProtocolName, String> {
        let Some(url) = &target.url else { return Ok(self.protocol.unwrap_or(ProtocolName::Http)) };
        match (url.protocol, self.protocol) {
            (Some(said), Some(wanted)) if said != wanted => Err(format!(
                "{}:// contradicts --protocol {}; tls:// and tcp:// go with any protocol",
                url.scheme,
                wanted.name()
            )),
            (None, None) => {
                Err(format!("{}:// does not say which protocol to speak; give it with --protocol", url.scheme))
            }
            (said, wanted) => Ok(said.or(wanted).unwrap_or(ProtocolName::Http)),
        }
    }

    /// The path, from the target and the arguments.
    fn path(&self, target: &Target, protocol: ProtocolName) -> Result<String, String> {
        let said = target.url.as_ref().and_then(|url| url.path.as_ref());
        let is_used = matches!(protocol, ProtocolName::Http | ProtocolName::Ws) && self.templates.is_empty();
        let path = match (said, &self.path) {
            // A lone slash may also mean that there is no path.
            (Some(said), Some(_)) if said != "/" => {
                return Err(format!("the target has a path ({said}), and --path has another one; give one of them"));
            }
            (Some(said), None) if said != "/" && !is_used => {
                return Err(format!("the target has a path ({said}), but this protocol has no paths; remove it"));
            }
            (said, path) => path.as_ref().or(said).map_or("/", String::as_str),
        };
        if path.starts_with('/') && !path.contains([' ', '\r', '\n']) {
            return Ok(path.to_owned());
        }
        Err(format!("--path {path:?} must begin with / and have no spaces"))
    }

    fn exchange(&self, named: &Target, protocol: ProtocolName, target: SocketAddr) -> Result<ExchangePlan, String> {
        let payload_bytes = self.payload.unwrap_or(PAYLOAD_BYTES_DEFAULT);
        let path = self.path(named, protocol)?;
        match protocol {
            ProtocolName::Echo => Ok(ExchangePlan::Echo { payload_bytes }),
            ProtocolName::Resp => Ok(ExchangePlan::Resp { command: self.command, payload_bytes, keys: self.keys }),
            ProtocolName::Ws => Ok(ExchangePlan::WebSocket { path, payload_bytes }),
            ProtocolName::Http if !self.templates.is_empty() => {
                let requests = self.templates.iter().map(|path| self.request(path)).collect::<Result<_, _>>()?;
                let name = match self.templates.as_slice() {
                    [one] => format!("requests of {}", one.display()),
                    several => format!("requests of {} templates in turn", several.len()),
                };
                Ok(ExchangePlan::Http(HttpPlan::rotation(name, requests)))
            }
            ProtocolName::Http => {
                let is_line = |line: &String| line.contains(':') && !line.contains(['\r', '\n']);
                if let Some(line) = self.headers.iter().find(|line| !is_line(line)) {
                    return Err(format!("--header {line:?} is not of the form 'Name: value'"));
                }
                let parts = RequestParts {
                    path,
                    host: self.host.clone().or_else(|| named.url.as_ref().map(|url| url.authority.clone())),
                    headers: self.headers.clone(),
                    payload_bytes: self.payload.unwrap_or(0),
                    expected: self.expected(),
                };
                HttpPlan::one(&parts, target).map(ExchangePlan::Http)
            }
        }
    }

    fn expected(&self) -> Expected {
        match &self.expect {
            _ if self.any_body => Expected::Any,
            Some(body) => Expected::Body(body.clone().into_bytes()),
            None => Expected::First,
        }
    }

    /// The request in a template's file.
    fn request(&self, path: &Path) -> Result<RequestPlan, String> {
        let wrong = |problem: String| format!("--template {}: {problem}", path.display());
        let raw = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        if self.expect_sum {
            return RequestPlan::with_sum(&raw).map_err(wrong);
        }
        let template = Template::new(&raw).map_err(wrong)?;
        Ok(RequestPlan { template, expected: self.expected() })
    }

    pub(super) fn plan(&self) -> Result<Plan, String> {
        let named: Target = self.target.parse().map_err(|problem| format!("target {:?}: {problem}", self.target))?;
        let protocol = self.protocol(&named)?;
        let target = resolve(&named.address)?;
        check_target(target, self.i_own_this_target)?;
        let mut plan = Plan::new(target, self.exchange(&named, protocol, target)?);
        plan.tls = self.tls.plan(&named, protocol)?;
        plan.connections = self.connections;
        plan.depth = self.depth;
        plan.rate = self.rate;
        plan.requests_per_connection = self.requests_per_connection;
        plan.is_idle = self.idle;
        plan.ramp = self.ramp();
        plan.timeout = Duration::from_secs_f64(self.timeout);
        plan.sources = if self.sources.is_empty() { plan.default_sources() } else { self.sources.clone() };
        plan.cores = self.cores.clone();
        let available = core_affinity::get_core_ids().unwrap_or_default();
        if let Some(core) = self.cores.iter().find(|core| !available.iter().any(|one| one.id == **core)) {
            return Err(format!(
                "--cores: {core} is not one of the {} cores that this process may use",
                available.len()
            ));
        }
        plan.threads = self.threads.unwrap_or(available.len().max(1));
        if self.cores.is_empty() && plan.threads <= available.len() {
            plan.cores = available.iter().take(plan.threads).map(|core| core.id).collect();
        }
        plan.check()?;
        if let Some(pid) = self.server_pids.iter().find(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            return Err(format!("--server-pid {pid}: there is no such process"));
        }
        Ok(plan)
    }

    /// Files are written at the end; this checks in advance that they can be written.
    pub(super) fn check_files(&self) -> Result<(), String> {
        let files = [&self.json, &self.hgrm, &self.plot].into_iter().flatten();
        for path in files.filter(|path| path.as_os_str() != "-") {
            let made = std::fs::OpenOptions::new().create(true).append(true).open(path);
            made.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}
