//! The command line of `baton-bench compare`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::catalogue::{self, Places, Server};
use super::report::Comparison;
use super::workload::{ARENA, FULL, QUICK, TLS, Workload};
use super::{Plan, chart, requests};

/// The longest that a window may last.
const SECONDS_MAX: f64 = 600.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Some of each protocol, requests that differ first.
    Quick,
    /// All but HttpArena's; with every server, two hours or more.
    Full,
    /// HttpArena's profiles of HTTP/1.1.
    Arena,
    /// Within TLS: requests, handshakes, a file, memory.
    Tls,
}

impl Group {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Quick => &QUICK,
            Self::Full => &FULL,
            Self::Arena => &ARENA,
            Self::Tls => &TLS,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Workloads: differ:CONNECTIONS[:DEPTH] (a random query and the headers of browsers in each request),
http:CONNECTIONS[:DEPTH] (one request again and again), json:CONNECTIONS, close:CONNECTIONS (one request each),
upload:CONNECTIONS:BYTES, download:CONNECTIONS:BYTES (a file), static:CONNECTIONS (files in rotation),
ws:CONNECTIONS:BYTES (WebSocket echo),
arena:PROFILE[:CONNECTIONS] (HttpArena: baseline, limited-conn, pipelined, json, json-comp, upload, static, echo-ws),
echo:CONNECTIONS:BYTES, resp:get|set:DEPTH, idle:CONNECTIONS (memory), rate:PERCENT (latency, at that share of the
slowest server's best). Within TLS 1.3: tls:FORM (ECDSA P-256) and tls-rsa:FORM (RSA 2048), where FORM is differ, http,
json, close, download, static or idle as above, handshake:CONNECTIONS (full ones, with a request each) or
resume:CONNECTIONS (resumed ones). A table says where all requests are equal, or how many are in rotation.

In each block all servers are started anew and stay alive; each window measures every server once, in random order.
Ratios are medians of those within windows, to the first server, with a bootstrap interval of 95 %.

Rust peers are built when they are first wanted. What cannot be had is named and skipped.

Examples:
  baton-bench compare
  baton-bench compare --server baton --server nginx --workload differ:256 --blocks 8
  baton-bench compare --group arena
  baton-bench compare --group tls --server nginx --server hyper
  baton-bench compare --group full --markdown table.md --chart chart.svg
  baton-bench compare --server baton --server 'mine=./mine --port {port}' --workload differ:64:16")]
pub(crate) struct CompareArguments {
    /// A server from --list, or NAME=COMMAND with {port} where the port goes, {data} where the folder of files does, and, for
    /// TLS, {cert} and {key} where files of the certificate and of its key do; repeatable. Ratios are to the first one. Default: all.
    #[arg(long = "server", value_name = "NAME")]
    servers: Vec<String>,
    /// A workload; repeatable.
    #[arg(long = "workload", value_name = "WORKLOAD")]
    workloads: Vec<Workload>,
    /// Workloads, where none is named.
    #[arg(long, value_enum, default_value_t = Group::Quick, conflicts_with = "workloads")]
    group: Group,
    /// Blocks of windows; servers are started anew for each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    blocks: u32,
    /// Windows of each server in a block.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    windows: u32,
    /// Seconds measured in each window.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 0.2)]
    warm_up: f64,
    /// Core the servers are pinned to.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core the load is pinned to.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Folder of the peers.
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/peers"), hide_default_value = true)]
    peers: PathBuf,
    /// Folder of the files that servers serve: dataset.json, and static with files.
    #[arg(long, value_name = "FOLDER", default_value = requests::DATA_DEFAULT, hide_default_value = true)]
    data: PathBuf,
    /// Write all tables, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write every figure, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw bars, relative to the first server.
    #[arg(long, value_name = "FILE.svg")]
    chart: Option<PathBuf>,
    /// Show the servers and workloads that are known, and leave.
    #[arg(long)]
    pub(super) list: bool,
}

impl CompareArguments {
    fn places(&self) -> Result<Places, String> {
        let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
        let own = program.parent().map(Path::to_path_buf).unwrap_or_default();
        if !self.peers.is_dir() {
            return Err(format!("--peers {}: no such folder", self.peers.display()));
        }
        let data = requests::check_data(&self.data)?;
        Ok(Places { peers: self.peers.clone(), own, data, made: None })
    }

    pub(super) fn plan(&self) -> Result<Plan, String> {
        let known = catalogue::all();
        let mut servers: Vec<Server> = if self.servers.is_empty() { known.clone() } else { Vec::new() };
        for (index, name) in self.servers.iter().enumerate() {
            if self.servers[..index].contains(name) {
                return Err(format!("--server {name}: named twice"));
            }
            // One name can be that of an HTTP server and of an echo server.
            let named = known.iter().filter(|server| server.name == *name).cloned();
            let before = servers.len();
            servers.extend(named);
            if servers.len() == before {
                let own: Server = name.parse().map_err(|problem| format!("--server {name:?}: {problem}"))?;
                if servers.iter().any(|server| server.name == own.name) {
                    return Err(format!("--server {name:?}: there is another one named {}", own.name));
                }
                servers.push(own);
            }
        }
        for (name, seconds, least) in [("--seconds", self.seconds, 0.1), ("--warm-up", self.warm_up, 0.0)] {
            if !(least..=SECONDS_MAX).contains(&seconds) {
                return Err(format!("{name} must be between {least} and {SECONDS_MAX}, not {seconds}"));
            }
        }
        let cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        for (name, core) in [("--server-core", self.server_core), ("--load-core", self.load_core)] {
            if !cores.contains(&core) {
                return Err(format!("{name} {core}: this process may use the cores {cores:?}"));
            }
        }
        if self.chart.as_ref().is_some_and(|path| path.extension().is_none_or(|extension| extension != "svg")) {
            return Err("--chart: only .svg is drawn".to_owned());
        }
        let workloads = if self.workloads.is_empty() {
            self.group.names().iter().map(|name| name.parse()).collect::<Result<_, _>>()?
        } else {
            self.workloads.clone()
        };
        Ok(Plan {
            servers,
            workloads,
            blocks: self.blocks,
            windows: self.windows,
            seconds: self.seconds,
            warm_up: self.warm_up,
            server_core: self.server_core,
            load_core: self.load_core,
            places: self.places()?,
        })
    }

    pub(super) fn list_text(&self) -> Result<String, String> {
        let places = self.places()?;
        let mut text = "Servers:\n".to_owned();
        for server in catalogue::all() {
            let version = server.version(&places).unwrap_or_default();
            let _ = writeln!(text, "  {:<14}{version}", server.name);
        }
        text.push_str("Workloads of --group full (* of quick), of --group arena, and of --group tls:\n");
        for name in FULL.into_iter().chain(ARENA).chain(TLS) {
            let workload: Workload = name.parse()?;
            let mark = if QUICK.contains(&name) { "*" } else { " " };
            let _ = writeln!(text, "{mark} {name:<24}{workload}");
        }
        Ok(text.trim_end().to_owned())
    }

    pub(super) fn write(&self, comparison: &Comparison) -> Result<(), String> {
        let save =
            |path: &Path, text: String| fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()));
        if let Some(path) = &self.markdown {
            save(path, comparison.markdown())?;
        }
        if let Some(path) = &self.json {
            save(path, serde_json::to_string_pretty(comparison).map_err(|error| error.to_string())?)?;
        }
        if let Some(path) = &self.chart {
            chart::draw(path, comparison).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}
