//! `batonctl`: shows and controls a running server.
#![deny(unsafe_code)]

mod arguments;
mod connections;
mod show;
mod top;

use std::env;
use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use baton::control::{Client, Event, MetricsFormat, Outcome, Reply, Request, Status, default_path, escaped};
use clap::CommandFactory;

use self::arguments::{Arguments, Command, Format, milliseconds};

/// The request was refused or has failed.
const EXIT_FAILED: u8 = 1;

/// No server could be reached.
const EXIT_UNREACHABLE: u8 = 3;

/// The longest wait for an answer. The master never blocks, so a later answer will not come.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// The longest wait from one event of an operation to the next.
const OPERATION_TIME_MAX: Duration = Duration::from_secs(60);

enum Failure {
    Unreachable(String),
    Failed(String),
    /// The reader of standard output is gone.
    Unread(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) | Self::Failed(reason) => formatter.write_str(&escaped(reason)),
            Self::Unread(error) => write!(formatter, "cannot write to standard output: {error}"),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let path = arguments.control.unwrap_or_else(default_path);
    match run(&path, &arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        // `batonctl status --watch | head` ends quietly, as every program in a pipe does. The outcome of an operation
        // must not get lost.
        Err(Failure::Unread(_)) if arguments.command.only_shows() => ExitCode::SUCCESS,
        Err(failure) => {
            // If nobody reads stderr, only the exit code remains.
            let _ = writeln!(io::stderr(), "batonctl: error: {failure}");
            ExitCode::from(if matches!(failure, Failure::Unreachable(_)) { EXIT_UNREACHABLE } else { EXIT_FAILED })
        }
    }
}

fn run(path: &Path, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Status { json, watch } => show_status(path, *json, *watch),
        Command::Top => top::run(path),
        Command::Workers(Format { json }) => {
            let (status, user) = status(path)?;
            announce(path, user);
            print(&if *json { show::workers_json(&status) } else { show::workers(&status) })
        }
        Command::Metrics { openmetrics } => {
            let (status, user) = status(path)?;
            announce(path, user);
            let format = if *openmetrics { MetricsFormat::OpenMetrics } else { MetricsFormat::Prometheus };
            print(&status.metrics(format))
        }
        Command::Reload(format) => follow(path, &Request::Reload, Some(OPERATION_TIME_MAX), *format),
        Command::Scale { workers, format } => {
            follow(path, &Request::Scale { workers: *workers }, Some(OPERATION_TIME_MAX), *format)
        }
        Command::Rebalance { dry_run, format } => {
            follow(path, &Request::Rebalance { dry_run: *dry_run }, Some(OPERATION_TIME_MAX), *format)
        }
        Command::Upgrade(upgrade) => follow(path, &upgrade.request().map_err(Failure::Failed)?, None, upgrade.format),
        Command::Commit(format) => follow(path, &Request::Commit, Some(OPERATION_TIME_MAX), *format),
        Command::Revert(format) => follow(path, &Request::Revert, None, *format),
        Command::Stop { now, deadline, format } => {
            follow(path, &Request::Stop { now: *now, deadline_ms: deadline.map(milliseconds) }, None, *format)
        }
        Command::Connections(wanted) => connections::list(path, &wanted.request(), wanted.format),
        Command::Close { id, now, format } => connections::close(path, *id, *now, *format),
        Command::Events { follow: goes_on, format } => {
            let limit = (!goes_on).then_some(ANSWER_TIME_MAX);
            follow(path, &Request::Events { follow: *goes_on }, limit, *format)
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "batonctl", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Manual { command } => {
            let mut whole = Arguments::command();
            whole.build();
            let page = command.as_ref().and_then(|name| whole.find_subcommand(name)).cloned().unwrap_or(whole);
            let mut text = Vec::new();
            let rendered = clap_mangen::Man::new(page).render(&mut text);
            rendered.map_err(|error| Failure::Failed(error.to_string()))?;
            print(&String::from_utf8_lossy(&text))
        }
    }
}

fn show_status(path: &Path, json: bool, watch: bool) -> Result<(), Failure> {
    let is_screen = can_steer(io::stdout().is_terminal());
    loop {
        let ((status, user), others) = (status(path)?, others(path));
        if watch && !json && is_screen {
            // Cursor to the top left, and clear everything below.
            print("\x1b[H\x1b[2J")?;
        }
        announce(path, user);
        print(&if json { show::status_json(&status, &others) } else { show::all(&status, &others) })?;
        if !watch {
            return Ok(());
        }
        thread::sleep(Duration::from_secs(1));
        if !json && !is_screen {
            print("\n")?;
        }
    }
}

/// Whether escape codes may be written: to a terminal whose TERM says that it supports them.
fn can_steer(is_terminal: bool) -> bool {
    is_terminal && env::var_os("TERM").is_some_and(|name| !name.is_empty() && name != "dumb")
}

fn connect(path: &Path, request: &Request) -> Result<Client, Failure> {
    let unreachable = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "no server runs there; start batond, or give its control socket with --control"
            }
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => "batonctl sent nothing to it",
            io::ErrorKind::PermissionDenied => "only the server's user and root may control it",
            io::ErrorKind::WouldBlock => "it did not accept the connection in time",
            _ => "is it batond's control socket?",
        };
        Failure::Unreachable(format!("cannot reach a server at {}: {error}; {hint}", path.display()))
    };
    let mut client = Client::connect(path).map_err(unreachable)?;
    client.send(request).map_err(unreachable)?;
    Ok(client)
}

/// Tells the operator if the server belongs to another user.
fn announce(path: &Path, user: Option<u32>) {
    if let Some(user) = user {
        let path = escaped(&path.display().to_string());
        let _ = writeln!(io::stderr(), "batonctl: the server at {path} belongs to user {user}");
    }
}

/// The next reply; the server does not end the connection before the last one.
fn receive(client: &mut Client, limit: Option<Duration>) -> Result<Reply, Failure> {
    let reply = client.receive(limit).map_err(|error| {
        Failure::Unreachable(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                "the server did not answer in time; see its log".to_owned()
            }
            io::ErrorKind::InvalidData => {
                format!("cannot read the server's answer: {error}; use the batonctl of the server's own version")
            }
            _ => format!("cannot read the server's answer: {error}"),
        })
    })?;
    reply.ok_or_else(|| {
        let reason = "the server closed the connection without an outcome; see its log and `batonctl status`";
        Failure::Unreachable(reason.to_owned())
    })
}

/// The last reply to a request, whatever events come before it, and the server's user if that is another one.
fn ask(path: &Path, request: &Request, limit: Option<Duration>) -> Result<(Reply, Option<u32>), Failure> {
    let mut client = connect(path, request)?;
    loop {
        let reply = receive(&mut client, limit)?;
        if reply.is_last() {
            return Ok((reply, client.other_user()));
        }
    }
}

/// The error for a reply that does not answer the request.
fn unexpected(reply: &Reply) -> Failure {
    Failure::Failed(match reply {
        Reply::Failed(why) => why.to_string(),
        Reply::Done(outcome) => format!("the server answered: {outcome}"),
        Reply::Status(_) => "the server answered with its status".to_owned(),
        Reply::Event(_) | Reply::Unknown => "the server gave no answer".to_owned(),
    })
}

/// The server's status, and the server's user if that is another one.
fn status(path: &Path) -> Result<(Status, Option<u32>), Failure> {
    match ask(path, &Request::Status, Some(ANSWER_TIME_MAX))? {
        (Reply::Status(status), user) => Ok((status, user)),
        (other, _) => Err(unexpected(&other)),
    }
}

/// The sockets of other masters of the same server, during an upgrade: each has the same name with its process number added.
fn other_sockets(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name().map(|name| format!("{}.", name.to_string_lossy())) else { return Vec::new() };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Other users may put sockets of their own beside it.
    let Ok(owner) = fs::metadata(path).map(|file| file.uid()) else { return Vec::new() };
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let is_other = |entry: &fs::DirEntry| {
        let file = entry.file_name().to_string_lossy().into_owned();
        let pid = file.strip_prefix(&name);
        pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
            && entry.metadata().is_ok_and(|file| file.uid() == owner)
    };
    entries.filter(is_other).map(|entry| entry.path()).collect()
}

/// The other masters of the same server, the one that has run for longest first.
fn others(path: &Path) -> Vec<Status> {
    // A master that has left meanwhile is skipped.
    let mut all: Vec<Status> = other_sockets(path).iter().filter_map(|path| Some(status(path).ok()?.0)).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.uptime_ms));
    all
}

/// Prints events until the outcome arrives.
fn follow(path: &Path, request: &Request, limit: Option<Duration>, Format { json }: Format) -> Result<(), Failure> {
    let mut client = connect(path, request)?;
    announce(path, client.other_user());
    let start = Instant::now();
    let is_listing = matches!(request, Request::Events { .. });
    // A failure that turns out to be the outcome is printed once, as the error.
    let mut held_back: Option<(Event, String)> = None;
    loop {
        let reply = receive(&mut client, limit)?;
        if let Some((event, text)) = held_back.take() {
            let is_outcome = matches!(&reply, Reply::Failed(why) if event.kind.failure() == Some(why));
            print(if is_outcome { "" } else { &text })?;
        }
        if json && !matches!(reply, Reply::Done(Outcome::Listed) | Reply::Unknown) {
            print(&show::json(&reply))?;
        }
        match reply {
            Reply::Event(event) if is_listing && !json => print(&show::event(&event))?,
            Reply::Event(event) if !json => {
                let text = show::step(&event, start.elapsed());
                if event.kind.failure().is_some() {
                    held_back = Some((event, text));
                } else {
                    print(&text)?;
                }
            }
            Reply::Event(_) | Reply::Unknown => {}
            // A list ends without a line that says so.
            Reply::Done(outcome) if json || outcome == Outcome::Listed => return Ok(()),
            Reply::Done(outcome) => return print(&show::outcome(&outcome)),
            Reply::Failed(why) => return Err(Failure::Failed(why.to_string())),
            Reply::Status(_) => {
                return Err(Failure::Failed("the server sent its status instead of an outcome".to_owned()));
            }
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Unread(error),
        _ => Failure::Failed(format!("cannot write to standard output: {error}")),
    })
}
