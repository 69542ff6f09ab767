//! The command line of `baton-bench compare`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::catalogue::{self, Places, Server};
use super::report::Comparison;
use super::workload::{ARENA, FULL, QUICK, TLS, Workload};
use super::{Plan, chart, requests};
use crate::number;
use crate::panel::svg_file;

/// The longest that a window may last.
const SECONDS_MAX: f64 = 600.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Some workloads of each protocol, requests that differ first.
    Quick,
    /// All workloads but HttpArena's; with every server, two hours or more.
    Full,
    /// HttpArena's profiles for HTTP/1.1.
    Arena,
    /// Requests, handshakes, a file and memory within TLS.
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
resume:CONNECTIONS (resumed ones). Each table says whether all requests are equal, or how many are in rotation.

Each block starts all servers again and keeps them alive; each window measures every server once, in random order.
A ratio compares a server with the first one: the median of the ratios within windows, with a bootstrap interval of 95 %.

Servers written in Rust are built when they are first needed. A server that is not there is named and skipped.

Examples:
  baton-bench compare
  baton-bench compare --server baton --server nginx --workload differ:256 --blocks 8
  baton-bench compare --group arena
  baton-bench compare --group tls --server nginx --server hyper
  baton-bench compare --group full --markdown table.md --chart chart.svg
  baton-bench compare --server baton --server 'mine=./mine --port {port}' --workload differ:64:16")]
pub(crate) struct CompareArguments {
    /// Server to measure: a name from --list, or NAME=COMMAND, where {port} stands for the port, {data} for the folder of files and,
    /// with TLS, {cert} and {key} for the files of certificate and key; repeatable. Ratios are to the first server. Default: all.
    #[arg(long = "server", value_name = "NAME")]
    servers: Vec<String>,
    /// Workload to measure; repeatable.
    #[arg(long = "workload", value_name = "WORKLOAD")]
    workloads: Vec<Workload>,
    /// Group of workloads to measure if no workload is given.
    #[arg(long, value_enum, default_value_t = Group::Quick, conflicts_with = "workloads")]
    group: Group,
    /// Number of blocks; each starts the servers again.
    #[arg(long, default_value_t = 5, value_parser = number::whole(1..=100_u32))]
    blocks: u32,
    /// Number of windows in a block.
    #[arg(long, default_value_t = 4, value_parser = number::whole(1..=1000_u32))]
    windows: u32,
    /// Seconds to measure in each window.
    #[arg(long, default_value_t = 1.0, value_parser = number::seconds(0.1..=SECONDS_MAX))]
    seconds: f64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 0.2, value_parser = number::seconds(0.0..=SECONDS_MAX))]
    warm_up: f64,
    /// Pin the servers to this core.
    #[arg(long, default_value_t = 0, value_parser = number::core)]
    server_core: usize,
    /// Pin the load to this core.
    #[arg(long, default_value_t = 1, value_parser = number::core)]
    load_core: usize,
    /// Folder with the other servers.
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/peers"), hide_default_value = true)]
    peers: PathBuf,
    /// Folder with the files to serve: dataset.json, and a folder static.
    #[arg(long, value_name = "FOLDER", default_value = requests::DATA_DEFAULT, hide_default_value = true)]
    data: PathBuf,
    /// Write all tables as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write every figure as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw bars relative to the first server, as SVG.
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file())]
    chart: Option<PathBuf>,
    /// List all servers and workloads, then exit.
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
                return Err(format!("--server {name} is given twice"));
            }
            // One name can belong to an HTTP server and to an echo server.
            let named = known.iter().filter(|server| server.name == *name).cloned();
            let before = servers.len();
            servers.extend(named);
            if servers.len() == before {
                let own: Server = name.parse().map_err(|problem| format!("--server {name:?}: {problem}"))?;
                if servers.iter().any(|server| server.name == own.name) {
                    return Err(format!("--server {name:?}: there is already a server {}", own.name));
                }
                servers.push(own);
            }
        }
        let cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        for (name, core) in [("--server-core", self.server_core), ("--load-core", self.load_core)] {
            if !cores.contains(&core) {
                return Err(format!("{name} {core}: this process may only use the cores {cores:?}"));
            }
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
