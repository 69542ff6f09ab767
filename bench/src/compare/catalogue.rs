//! The servers that are known, how each is started for a workload, and what it takes to have it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use super::workload::{Protocol, Workload};

/// Where a server comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// This workspace.
    Own,
    /// A script beside the peers, which starts an installed program; `version` is how that is asked.
    Script { version: &'static [&'static str] },
    /// A package beside the peers, and the crate whose version counts.
    Package { folder: &'static str, of: &'static str },
    /// The yardstick, in one of its forms.
    Bare { form: &'static str },
    /// Anybody's own command.
    Command(String),
}

/// A server under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) name: String,
    source: Source,
    /// `None`: whatever it is asked.
    protocol: Option<Protocol>,
}

/// What is compared with.
pub(super) const BATON: &str = "baton";

/// Every server that is known.
pub(super) fn all() -> Vec<Server> {
    let server = |name: &str, source, protocol| Server { name: name.to_owned(), source, protocol };
    let script = |name, version, protocol| server(name, Source::Script { version }, Some(protocol));
    let http = |folder, of| server(folder, Source::Package { folder, of }, Some(Protocol::Http));
    let echo = |name, folder, of| server(name, Source::Package { folder, of }, Some(Protocol::Echo));
    vec![
        server(BATON, Source::Own, None),
        server("bare-uring", Source::Bare { form: "uring" }, None),
        server("bare-epoll", Source::Bare { form: "epoll" }, None),
        script("nginx", &["nginx", "-v"], Protocol::Http),
        script("h2o", &["h2o", "--version"], Protocol::Http),
        script("haproxy", &["haproxy", "-v"], Protocol::Http),
        http("may_minihttp", "may_minihttp"),
        http("ntex", "ntex"),
        http("ntex_uring", "ntex"),
        http("actix_web", "actix-web"),
        http("hyper", "hyper"),
        http("monoio", "monoio"),
        echo("tokio", "echo_tokio", "tokio"),
        echo("monoio", "echo_monoio", "monoio"),
        echo("glommio", "echo_glommio", "glommio"),
        echo("compio", "echo_compio", "compio"),
        echo("tokio-uring", "echo_tokio_uring", "tokio-uring"),
        script("redis", &["redis-server", "--version"], Protocol::Resp),
    ]
}

impl FromStr for Server {
    type Err = String;

    /// `NAME=COMMAND`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("expected a name from --list, or NAME=COMMAND")?;
        if !command.contains("{port}") {
            return Err("the command must contain {port}, where the port to listen on goes".to_owned());
        }
        Ok(Self { name: name.to_owned(), source: Source::Command(command.to_owned()), protocol: None })
    }
}

/// Where things are.
pub(super) struct Places {
    /// The folder of the peers.
    pub(super) peers: PathBuf,
    /// The folder of this workspace's executables.
    pub(super) own: PathBuf,
}

impl Server {
    pub(super) fn serves(&self, workload: &Workload) -> bool {
        self.protocol.is_none_or(|protocol| protocol == workload.protocol())
    }

    pub(super) fn is_bare(&self) -> bool {
        matches!(self.source, Source::Bare { .. })
    }

    /// Builds what must be built.
    ///
    /// # Errors
    /// Says what is missing and how to come by it.
    pub(super) fn prepare(&self, places: &Places) -> Result<(), String> {
        let folder = match &self.source {
            Source::Own => return self.check_own(places),
            Source::Command(_) => return Ok(()),
            Source::Script { version } => {
                let script = places.peers.join(format!("{}.sh", self.name));
                if !script.exists() {
                    return Err(format!("{} does not exist", script.display()));
                }
                let mut asked = Command::new(version[0]);
                asked.args(&version[1..]).stdout(Stdio::null()).stderr(Stdio::null());
                return asked.status().map(drop).map_err(|error| format!("{}: {error}; is it installed?", version[0]));
            }
            Source::Package { folder, .. } => *folder,
            Source::Bare { .. } => "bare",
        };
        let manifest = places.peers.join(folder).join("Cargo.toml");
        if !manifest.exists() {
            return Err(format!("{} does not exist", manifest.display()));
        }
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--release", "--quiet", "--locked", "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(places.peers.join("target"))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cargo: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let told = String::from_utf8_lossy(&output.stderr);
        let reason = told.lines().find(|line| line.starts_with("error")).unwrap_or("cargo build failed");
        Err(reason.to_owned())
    }

    fn check_own(&self, places: &Places) -> Result<(), String> {
        let needed = ["batond", "examples/resp"];
        match needed.iter().map(|name| places.own.join(name)).find(|path| !path.exists()) {
            None => Ok(()),
            Some(path) => {
                Err(format!("{} is not built; run cargo build --release --workspace --bins --examples", path.display()))
            }
        }
    }

    /// The command that starts it, to be given to a shell.
    pub(super) fn command(&self, places: &Places, workload: &Workload, port: u16) -> String {
        let quoted = |path: PathBuf| format!("'{}'", path.display());
        match &self.source {
            Source::Command(command) => command.replace("{port}", &port.to_string()),
            Source::Script { .. } => format!("{} {port}", quoted(places.peers.join(format!("{}.sh", self.name)))),
            Source::Package { folder, .. } => {
                format!("{} {port}", quoted(places.peers.join("target/release").join(folder)))
            }
            Source::Own => {
                let batond = quoted(places.own.join("batond"));
                match workload.protocol() {
                    Protocol::Resp => format!("{} --listen 127.0.0.1:{port}", quoted(places.own.join("examples/resp"))),
                    protocol => {
                        let name = if protocol == Protocol::Echo { "echo" } else { "http" };
                        format!("{batond} --protocol {name} --listen 127.0.0.1:{port} --log-level error --control off")
                    }
                }
            }
            Source::Bare { form } => {
                let protocol = match workload.protocol() {
                    Protocol::Http => "http",
                    Protocol::Echo => "echo",
                    Protocol::Resp => "resp",
                };
                let more = match workload {
                    Workload::Close { .. } => " --close".to_owned(),
                    Workload::Json { .. } => " --json".to_owned(),
                    Workload::Resp { is_set: false, .. } => " --get".to_owned(),
                    _ => String::new(),
                };
                format!("{} {form} {protocol} {port}{more}", quoted(places.peers.join("target/release/bare")))
            }
        }
    }

    /// Its version, where it can be told.
    pub(super) fn version(&self, places: &Places) -> Option<String> {
        match &self.source {
            Source::Script { version } => {
                let output = Command::new(version[0]).args(&version[1..]).stdin(Stdio::null()).output().ok()?;
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                let words = text.lines().next()?.split([' ', '/', '=']);
                words
                    .map(str::trim)
                    .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
                    .map(str::to_owned)
            }
            Source::Package { folder, of } => locked_version(&places.peers.join(folder).join("Cargo.lock"), of),
            Source::Own => Some(env!("CARGO_PKG_VERSION").to_owned()),
            Source::Bare { .. } | Source::Command(_) => None,
        }
    }
}

/// The version of a crate in a lock file: not that of the peer itself, which may have the same name and has no source.
fn locked_version(lock: &Path, of: &str) -> Option<String> {
    let text = fs::read_to_string(lock).ok()?;
    let head = format!("name = \"{of}\"\nversion = \"");
    let package =
        text.split("[[package]]\n").find(|package| package.starts_with(&head) && package.contains("source"))?;
    package[head.len()..].split('"').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_commands_need_a_port() {
        assert!("x".parse::<Server>().is_err());
        assert!("x=./x".parse::<Server>().expect_err("no port").contains("{port}"));
        let server: Server = "x=./x -p {port}".parse().expect("right");
        let places = Places { peers: PathBuf::new(), own: PathBuf::new() };
        assert_eq!(server.command(&places, &Workload::Idle { connections: 1 }, 7), "./x -p 7");
    }

    #[test]
    fn each_protocol_has_its_servers() {
        let names = |workload: &str| {
            let workload = workload.parse().expect("a workload");
            all().into_iter().filter(|server| server.serves(&workload)).map(|server| server.name).collect::<Vec<_>>()
        };
        assert_eq!(names("resp:get:1"), ["baton", "bare-uring", "bare-epoll", "redis"]);
        assert!(names("echo:1:1").contains(&"compio".to_owned()));
        assert!(names("rate:10").contains(&"h2o".to_owned()));
    }
}
