//! The known servers, how each is started for a workload, and what it needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use super::made::Made;
use super::requests::Data;
use super::workload::{Service, Workload};

/// Where a server comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// This workspace.
    Own,
    /// A script beside the peers that starts an installed program; `version` are the arguments that print its version.
    Script { version: &'static [&'static str] },
    /// A package beside the peers, and the crate whose version is reported.
    Package { folder: &'static str, of: &'static str },
    /// The yardstick, in one of its forms.
    Bare { form: &'static str },
    /// A command given by the user.
    Command(String),
}

/// A server under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) name: String,
    source: Source,
    /// What it can do; empty means that it is measured with any workload.
    services: &'static [Service],
    /// It can also do this within TLS.
    has_tls: bool,
}

/// The server with which others are compared.
pub(super) const BATON: &str = "baton";

const ECHO: &[Service] = &[Service::Echo];

const RESP: &[Service] = &[Service::Resp];

/// The services of peers, from those that all have to those that few have.
const BY_COMMON: [Service; 9] = [
    Service::Plaintext,
    Service::Json,
    Service::Pipeline,
    Service::Static,
    Service::Upload,
    Service::Items,
    Service::ItemsCompressed,
    Service::Baseline,
    Service::WebSocket,
];

/// Services that need only configuration.
const FIXED: &[Service] = BY_COMMON.split_at(3).0;

const FIXED_AND_FILES: &[Service] = BY_COMMON.split_at(4).0;

/// Services of an HTTP server that reads bodies only by their length.
const HTTP_BY_LENGTH: &[Service] = BY_COMMON.split_at(7).0;

const HTTP: &[Service] = BY_COMMON.split_at(8).0;

const HTTP_AND_WEB_SOCKET: &[Service] = &BY_COMMON;

/// Services of a loop that reads no request.
const BARE_URING: &[Service] = &[Service::Plaintext, Service::Json, Service::Pipeline, Service::Echo, Service::Resp];

/// On epoll it also counts a body, in one buffer that stays in the cache.
const BARE_EPOLL: &[Service] =
    &[Service::Plaintext, Service::Json, Service::Pipeline, Service::Upload, Service::Echo, Service::Resp];

/// Servers that are started with TLS if a workload uses it.
const WITH_TLS: [&str; 5] = [BATON, "nginx", "h2o", "haproxy", "hyper"];

/// Every known server.
pub(super) fn all() -> Vec<Server> {
    let server = |name: &str, source, services| {
        let has_tls = WITH_TLS.contains(&name);
        Server { name: name.to_owned(), source, services, has_tls }
    };
    let script = |name, version, services| server(name, Source::Script { version }, services);
    let http = |folder, of, services| server(folder, Source::Package { folder, of }, services);
    let echo = |name, folder, of| server(name, Source::Package { folder, of }, ECHO);
    vec![
        server(BATON, Source::Own, &[]),
        server("bare-uring", Source::Bare { form: "uring" }, BARE_URING),
        server("bare-epoll", Source::Bare { form: "epoll" }, BARE_EPOLL),
        script("nginx", &["nginx", "-v"], FIXED_AND_FILES),
        script("h2o", &["h2o", "--version"], FIXED_AND_FILES),
        script("haproxy", &["haproxy", "-v"], FIXED),
        http("may_minihttp", "may_minihttp", HTTP_BY_LENGTH),
        http("ntex", "ntex", HTTP),
        http("ntex_uring", "ntex", HTTP),
        http("actix_web", "actix-web", HTTP_AND_WEB_SOCKET),
        http("hyper", "hyper", HTTP_AND_WEB_SOCKET),
        http("monoio", "monoio", HTTP),
        echo("tokio", "echo_tokio", "tokio"),
        echo("monoio", "echo_monoio", "monoio"),
        echo("glommio", "echo_glommio", "glommio"),
        echo("compio", "echo_compio", "compio"),
        echo("tokio-uring", "echo_tokio_uring", "tokio-uring"),
        script("redis", &["redis-server", "--version"], RESP),
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
        Ok(Self { name: name.to_owned(), source: Source::Command(command.to_owned()), services: &[], has_tls: true })
    }
}

/// Where files are.
pub(super) struct Places {
    /// The folder of the peers.
    pub(super) peers: PathBuf,
    /// The folder of this workspace's executables.
    pub(super) own: PathBuf,
    /// Files to serve.
    pub(super) data: Data,
    /// The files that were made for the workloads.
    pub(super) made: Option<Made>,
}

impl Places {
    /// The files that a server serves for a workload.
    pub(super) fn data_of(&self, workload: &Workload) -> Data {
        match &self.made {
            Some(made) if workload.download_bytes().is_some() => made.data(),
            _ => self.data.clone(),
        }
    }

    /// The files of a server's certificate and key, quoted for a shell.
    fn identity(&self, workload: &Workload) -> Option<[String; 2]> {
        let paths = self.made.as_ref()?.identity(workload.key()?);
        Some(paths.map(quoted))
    }
}

fn quoted(path: PathBuf) -> String {
    format!("'{}'", path.display())
}

impl Server {
    pub(super) fn serves(&self, workload: &Workload) -> bool {
        let has_service = self.services.is_empty() || self.services.contains(&workload.service());
        has_service && (workload.key().is_none() || self.has_tls)
    }

    /// Whether it is the right kind of server: an echo server serves no HTTP, and that needs no message.
    pub(super) fn is_of_kind(&self, workload: &Workload) -> bool {
        let is_http = workload.service().is_http();
        let can_speak = workload.key().is_none() || self.has_tls;
        self.serves(workload) || is_http && can_speak && self.services.iter().any(|service| service.is_http())
    }

    /// What a prepared server lacks for this workload, if anything.
    pub(super) fn missing(&self, places: &Places, workload: &Workload) -> Option<String> {
        if !self.serves(workload) {
            return Some("it has no such service".to_owned());
        }
        if let Source::Command(command) = &self.source
            && workload.key().is_some()
            && !(command.contains("{cert}") && command.contains("{key}"))
        {
            return Some("its command has no {cert} and {key}".to_owned());
        }
        let program = places.own.join(own_program(workload));
        let is_own = self.source == Source::Own;
        (is_own && !program.exists()).then(|| format!("{} is not built", program.display()))
    }

    pub(super) fn is_bare(&self) -> bool {
        matches!(self.source, Source::Bare { .. })
    }

    /// Builds what must be built.
    ///
    /// # Errors
    /// What is missing and how to get it.
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
        let path = places.own.join(BATOND);
        if path.exists() {
            return Ok(());
        }
        Err(format!("{} is not built; run cargo build --release --workspace --bins --examples", path.display()))
    }

    /// The shell command that starts it.
    pub(super) fn command(&self, places: &Places, workload: &Workload, port: u16) -> String {
        let data = quoted(places.data_of(workload).0);
        let identity = places.identity(workload);
        let [certificate, key] = identity.clone().unwrap_or_default();
        let folder = if self.services.iter().any(|service| service.is_http()) { data.as_str() } else { "" };
        match &self.source {
            Source::Command(command) => {
                let command = command.replace("{port}", &port.to_string()).replace("{data}", &data);
                command.replace("{cert}", &certificate).replace("{key}", &key)
            }
            Source::Script { .. } => {
                let script = quoted(places.peers.join(format!("{}.sh", self.name)));
                format!("{script} {port} {folder} {certificate} {key}").trim_end().to_owned()
            }
            Source::Package { folder: of, .. } => {
                let program = quoted(places.peers.join("target/release").join(of));
                format!("{program} {port} {folder} {certificate} {key}").trim_end().to_owned()
            }
            Source::Own if identity.is_some() => {
                let program = quoted(places.own.join(own_program(workload)));
                let files = if workload.service() == Service::Static {
                    format!(" --static /static/={}", quoted(places.data_of(workload).0.join("static")))
                } else {
                    String::new()
                };
                format!(
                    "{program} --listen tls://127.0.0.1:{port} --tls-cert {certificate} --tls-key {key} --log-level error \
                     --control off{files}"
                )
            }
            Source::Own => {
                let program = quoted(places.own.join(own_program(workload)));
                let more = match own_program(workload) {
                    ARENA => format!("--workers 1 --data {data}"),
                    BATOND => {
                        let protocol = if workload.service() == Service::Echo { "echo" } else { "http" };
                        format!("--protocol {protocol} --log-level error --control off")
                    }
                    _ => String::new(),
                };
                format!("{program} --listen 127.0.0.1:{port} {more}")
            }
            Source::Bare { form } => {
                let what = match workload.service() {
                    Service::Echo => "echo",
                    Service::Resp => "resp",
                    _ => "http",
                };
                let more = match workload {
                    Workload::Close { .. } => " --close",
                    Workload::Resp { is_set: false, .. } => " --get",
                    _ => match workload.service() {
                        Service::Json => " --json",
                        Service::Pipeline => " --ok",
                        Service::Upload => " --upload",
                        _ => "",
                    },
                };
                format!("{} {form} {what} {port}{more}", quoted(places.peers.join("target/release/bare")))
            }
        }
    }

    /// Its version, if known.
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

const BATOND: &str = "batond";
const RESP_EXAMPLE: &str = "examples/resp";
const ARENA: &str = "examples/arena";

/// Which of this workspace's programs serves a workload.
fn own_program(workload: &Workload) -> &'static str {
    match workload.service() {
        _ if workload.key().is_some() => BATOND,
        Service::Resp => RESP_EXAMPLE,
        Service::Plaintext | Service::Json | Service::Echo => BATOND,
        _ => ARENA,
    }
}

/// The version of a crate in a lock file. Skips the peer itself, which may have the same name and has no source.
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
        let places = Places { peers: PathBuf::new(), own: PathBuf::new(), data: Data("d".into()), made: None };
        assert_eq!(server.command(&places, &Workload::Idle { connections: 1 }, 7), "./x -p 7");
        let server: Server = "x=./x -p {port} -d {data}".parse().expect("right");
        assert_eq!(server.command(&places, &Workload::Static { connections: 1 }, 7), "./x -p 7 -d 'd'");
    }

    #[test]
    fn our_own_program_is_the_one_that_serves_the_workload() {
        let places = Places { peers: PathBuf::new(), own: "o".into(), data: Data("d".into()), made: None };
        let baton = all().into_iter().find(|server| server.name == BATON).expect("ours");
        for (workload, command) in [
            ("differ:64", "'o/batond' --listen 127.0.0.1:7 --protocol http --log-level error --control off"),
            ("echo:1:1", "'o/batond' --listen 127.0.0.1:7 --protocol echo --log-level error --control off"),
            ("resp:get:1", "'o/examples/resp' --listen 127.0.0.1:7 "),
            ("arena:pipelined", "'o/examples/arena' --listen 127.0.0.1:7 --workers 1 --data 'd'"),
            ("upload:1:1", "'o/examples/arena' --listen 127.0.0.1:7 --workers 1 --data 'd'"),
        ] {
            let workload = workload.parse().expect(workload);
            assert_eq!(baton.command(&places, &workload, 7), command);
            assert!(baton.missing(&places, &workload).is_some_and(|why| why.ends_with("is not built")));
        }
    }

    #[test]
    fn servers_get_a_certificate_where_a_workload_is_within_tls() {
        let workloads = ["tls:differ:1", "tls:download:1:1000", "differ:1"];
        let workloads = workloads.map(|name| name.parse::<Workload>().expect(name));
        let data = Data(super::super::requests::DATA_DEFAULT.into());
        let made = Made::new(&workloads, &data).expect("made");
        let [certificate, key] = made.identity(super::super::workload::Key::Ecdsa).map(quoted);
        let files = quoted(made.data().0.join("static"));
        let places = Places { peers: "p".into(), own: "o".into(), data, made: Some(made) };
        let baton = all().into_iter().find(|server| server.name == BATON).expect("ours");
        let command = format!(
            "'o/batond' --listen tls://127.0.0.1:7 --tls-cert {certificate} --tls-key {key} --log-level error --control off"
        );
        assert_eq!(baton.command(&places, &workloads[0], 7), command);
        assert_eq!(baton.command(&places, &workloads[1], 7), format!("{command} --static /static/={files}"));
        let nginx = all().into_iter().find(|server| server.name == "nginx").expect("a peer");
        assert!(nginx.command(&places, &workloads[0], 7).ends_with(&format!(" {certificate} {key}")));
        assert!(nginx.command(&places, &workloads[2], 7).starts_with("'p/nginx.sh' 7 '"));
        assert!(!nginx.command(&places, &workloads[2], 7).contains(&certificate));
        let own: Server = "x=./x {port} {cert} {key}".parse().expect("right");
        assert_eq!(own.command(&places, &workloads[0], 7), format!("./x 7 {certificate} {key}"));
        let own: Server = "x=./x {port}".parse().expect("right");
        assert!(own.missing(&places, &workloads[0]).is_some_and(|why| why.contains("{cert}")));
        assert_eq!(own.missing(&places, &workloads[2]), None);
        let serving = all().into_iter().filter(|server| server.serves(&workloads[0])).map(|server| server.name);
        assert_eq!(serving.collect::<Vec<_>>(), WITH_TLS);
    }

    #[test]
    fn each_workload_has_its_servers() {
        let names = |workload: &str| {
            let workload = workload.parse().expect("a workload");
            all().into_iter().filter(|server| server.serves(&workload)).map(|server| server.name).collect::<Vec<_>>()
        };
        assert_eq!(names("resp:get:1"), ["baton", "bare-uring", "bare-epoll", "redis"]);
        assert!(names("echo:1:1").contains(&"compio".to_owned()));
        assert!(names("rate:10").contains(&"h2o".to_owned()));
        assert!(names("upload:1:1").contains(&"bare-epoll".to_owned()));
        assert!(!names("arena:json").contains(&"nginx".to_owned()));
        let (nginx, tokio): (Vec<Server>, Vec<Server>) = all()
            .into_iter()
            .filter(|server| ["nginx", "tokio"].contains(&server.name.as_str()))
            .partition(|server| server.name == "nginx");
        let json: Workload = "arena:json".parse().expect("a workload");
        assert!(nginx[0].is_of_kind(&json) && !tokio[0].is_of_kind(&json));
    }
}
