//! `batonctl`: shows a running server and tells it what to do.
#![deny(unsafe_code)]

mod show;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use baton::control::{Allowed, Client, Outcome, Reply, Request, Status, default_path};
use clap::{Args, CommandFactory, Parser, Subcommand};

/// The request was refused, or what was asked for failed.
const EXIT_FAILED: u8 = 1;

/// No server could be reached.
const EXIT_UNREACHABLE: u8 = 3;

/// An answer that takes longer than this will not come: the master never waits for anything.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Shows a running batond, and tells it what to do.
///
/// Each command waits for its outcome. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no server reached.
#[derive(Debug, Parser)]
#[command(name = "batonctl", version, arg_required_else_help = true)]
struct Arguments {
    /// The server's control socket [default: $BATON_CONTROL, else where batond puts it]
    #[arg(long, global = true, value_name = "PATH")]
    control: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What runs: generations, workers, connections, requests
    Status(StatusArguments),
    /// One line a worker
    Workers {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Read the configuration again and replace the workers; losing no connection
    Reload,
    /// Change the number of workers, without a reload
    Scale {
        /// How many there shall be
        #[arg(value_name = "N")]
        workers: usize,
    },
    /// Start another binary, or a new version of the same; it takes over without losing a connection
    Upgrade(UpgradeArguments),
    /// Make an upgrade that is held, or on probation, final: the old workers leave
    Commit,
    /// Take an upgrade that is held, or on probation, back: the old workers serve, the new ones leave
    Revert,
    /// Print completions for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for man -l
    Manual,
    /// Stop the server, letting connections finish
    Stop {
        /// End connections at once
        #[arg(long, conflicts_with = "deadline")]
        now: bool,
        /// End connections that have not finished after so many seconds [default: the server's drain_ms_max]
        #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
        deadline: Option<Duration>,
    },
    /// What has happened lately
    Events {
        /// Go on with what happens from now on
        #[arg(long)]
        follow: bool,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct UpgradeArguments {
    /// The binary [default: the path of the running one, where a new file may lie by now]
    #[arg(value_name = "BINARY")]
    binary: Option<PathBuf>,
    /// Let old and new serve until commit or revert
    #[arg(long)]
    hold: bool,
    /// Revert by itself when a new worker dies or hangs within so many seconds, or, with --hold, when nobody commits; waits
    /// for how that ends
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    probation: Option<Duration>,
    /// Give up when it does not serve within so many seconds [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Upgrade although something would be lost: state, control, user or tier; may be given several times
    #[arg(long, value_name = "LOSS", value_parser = parse_allowed)]
    allow: Vec<Allowed>,
    /// Refuse where connections would be closed since they cannot move
    #[arg(long)]
    keep_connections: bool,
    /// Its arguments [default: those of the running one]
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

impl UpgradeArguments {
    /// The request, with a path that does not depend on where this program runs.
    fn request(&self) -> Result<Request, Failure> {
        let absolute = |path: &PathBuf| {
            let path =
                std::path::absolute(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| Failure::Failed(format!("{} is not UTF-8", path.display())))
        };
        let milliseconds = |time: Duration| time.as_millis() as u64;
        Ok(Request::Upgrade {
            binary: self.binary.as_ref().map(absolute).transpose()?,
            arguments: (!self.arguments.is_empty()).then(|| self.arguments.clone()),
            hold: self.hold,
            probation_ms: self.probation.map(milliseconds),
            timeout_ms: self.timeout.map(milliseconds),
            allow: self.allow.clone(),
            keep_connections: self.keep_connections,
        })
    }
}

#[derive(Debug, Args)]
struct StatusArguments {
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Again each second, until interrupted
    #[arg(long)]
    watch: bool,
}

enum Failure {
    Unreachable(String),
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) | Self::Failed(reason) => formatter.write_str(reason),
        }
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.0..=604_800.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("{text:?} is not a number of seconds up to seven days"))
}

fn parse_allowed(text: &str) -> Result<Allowed, String> {
    let all = [Allowed::State, Allowed::Control, Allowed::User, Allowed::Tier];
    let found = all.into_iter().find(|one| one.to_string() == text);
    found.ok_or_else(|| format!("{text:?} is none of state, control, user, tier"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let path = arguments.control.unwrap_or_else(default_path);
    match run(&path, &arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody reads it, the exit code has to do.
            let _ = writeln!(io::stderr(), "batonctl: error: {failure}");
            ExitCode::from(if matches!(failure, Failure::Unreachable(_)) { EXIT_UNREACHABLE } else { EXIT_FAILED })
        }
    }
}

fn run(path: &Path, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Status(StatusArguments { json, watch }) => loop {
            let (status, others) = (status(path)?, others(path));
            let text = if *json { show::status_json(&status, &others) } else { show::all(&status, &others) };
            if *watch && !*json {
                // Home, and clear what is below.
                print("\x1b[H\x1b[2J")?;
            }
            print(&text)?;
            if !*watch {
                return Ok(());
            }
            thread::sleep(Duration::from_secs(1));
        },
        Command::Workers { json } => {
            let status = status(path)?;
            print(&if *json { show::workers_json(&status) } else { show::workers(&status) })
        }
        Command::Reload => follow(path, &Request::Reload, Some(Duration::from_secs(60)), false),
        Command::Scale { workers } => {
            follow(path, &Request::Scale { workers: *workers }, Some(Duration::from_secs(60)), false)
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "batonctl", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Manual => {
            let mut text = Vec::new();
            let rendered = clap_mangen::Man::new(Arguments::command()).render(&mut text);
            rendered.map_err(|error| Failure::Failed(error.to_string()))?;
            print(&String::from_utf8_lossy(&text))
        }
        Command::Upgrade(arguments) => follow(path, &arguments.request()?, None, false),
        Command::Commit => follow(path, &Request::Commit, Some(Duration::from_secs(60)), false),
        Command::Revert => follow(path, &Request::Revert, None, false),
        Command::Stop { now, deadline } => {
            let deadline_ms = deadline.map(|deadline| deadline.as_millis() as u64);
            follow(path, &Request::Stop { now: *now, deadline_ms }, None, false)
        }
        Command::Events { follow: goes_on, json } => {
            let limit = (!goes_on).then_some(ANSWER_TIME_MAX);
            follow(path, &Request::Events { follow: *goes_on }, limit, *json)
        }
    }
}

fn connect(path: &Path, request: &Request) -> Result<Client, Failure> {
    let unreachable = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "no server runs there; start batond, or name its socket with --control"
            }
            io::ErrorKind::PermissionDenied => "only the server's user and root may control it",
            _ => "is it batond's control socket?",
        };
        Failure::Unreachable(format!("cannot reach a server at {}: {error}; {hint}", path.display()))
    };
    let mut client = Client::connect(path).map_err(unreachable)?;
    client.send(request).map_err(unreachable)?;
    Ok(client)
}

fn receive(client: &mut Client, limit: Option<Duration>) -> Result<Option<Reply>, Failure> {
    client.receive(limit).map_err(|error| {
        let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let reason =
            if is_late { "the server does not answer".to_owned() } else { format!("reading the answer: {error}") };
        Failure::Unreachable(reason)
    })
}

fn status(path: &Path) -> Result<Status, Failure> {
    let mut client = connect(path, &Request::Status)?;
    match receive(&mut client, Some(ANSWER_TIME_MAX))? {
        Some(Reply::Status(status)) => Ok(status),
        Some(Reply::Failed(why)) => Err(Failure::Failed(why.to_string())),
        other => Err(Failure::Unreachable(format!("the server answered {other:?}"))),
    }
}

/// Other masters of the same server, during an upgrade: those whose name the one at `path` has taken over.
fn others(path: &Path) -> Vec<Status> {
    let Some(name) = path.file_name().map(|name| format!("{}.", name.to_string_lossy())) else { return Vec::new() };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let is_other = |file: &str| {
        let pid = file.strip_prefix(&name);
        pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let paths = entries.filter(|entry| is_other(&entry.file_name().to_string_lossy())).map(|entry| entry.path());
    // One that has left meanwhile is none.
    let mut all: Vec<Status> = paths.filter_map(|path| status(&path).ok()).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.uptime_ms));
    all
}

/// Prints what happens until the outcome is there.
fn follow(path: &Path, request: &Request, limit: Option<Duration>, json: bool) -> Result<(), Failure> {
    let mut client = connect(path, request)?;
    let start = Instant::now();
    let is_listing = matches!(request, Request::Events { .. });
    loop {
        match receive(&mut client, limit)? {
            Some(Reply::Event(event)) if json => print(&show::json(&event))?,
            Some(Reply::Event(event)) if is_listing => print(&show::event(&event))?,
            Some(Reply::Event(event)) => print(&show::step(&event, start.elapsed()))?,
            Some(Reply::Done(Outcome::Listed)) => return Ok(()),
            Some(Reply::Done(outcome)) => return print(&format!("{outcome}\n")),
            Some(Reply::Failed(why)) => return Err(Failure::Failed(why.to_string())),
            Some(Reply::Status(_)) => {}
            None => return Err(Failure::Unreachable("the server has gone".to_owned())),
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::Failed(format!("standard output cannot be written: {error}")))
}
