//! One of the two servers: its files, its first process, and requests to it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use baton::control::{CannotRebalance, Failure, GenerationPhase, Reply, Request, Status, WorkerStatus};
use rcgen::{CertificateParams, KeyPair};

use super::plan::{self, Side, WORKERS};
use crate::handover::{ask, free_port, has_serving, wait_until};

/// Replaced listeners stay open for this long; on loopback no handshake takes longer.
const SETTLE_MS: u64 = 50;

/// Longer than a worker has to wait for a core on a machine that is shared with the load.
const HANG_MS: u64 = 3_000;

/// The longest time for which a server that is doing something else takes no request.
const BUSY_PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(3);

/// Number of log lines in a failure message.
const LOG_LINES: usize = 20;

/// Names and sizes of the files that the HTTP server has.
pub(super) const FILES: [(&str, usize); 3] = [("small", 1_000), ("middle", 100_000), ("large", 2_000_000)];

/// The indices of the smallest and the largest of [`FILES`].
pub(super) const SMALL: usize = 0;
pub(super) const LARGE: usize = 2;

/// The addresses of a server for clients, and what they know of it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) side: Side,
    pub(super) address: SocketAddr,
    /// For the HTTP server: the address for TLS, and the file of its certificate.
    pub(super) secure: SocketAddr,
    pub(super) certificate: PathBuf,
    /// The contents of [`FILES`].
    pub(super) files: Vec<Vec<u8>>,
}

/// See the module's head.
pub(super) struct Server {
    pub(super) place: Place,
    folder: PathBuf,
    binary: PathBuf,
    tier: String,
    /// The number that it should have now.
    pub(super) workers: usize,
    child: Child,
}

impl Server {
    /// Starts it, with its files in a folder of its own within `folder`.
    ///
    /// # Errors
    /// If it does not serve.
    pub(super) fn start(side: Side, binary: &Path, tier: &str, folder: &Path, seed: u64) -> Result<Self, String> {
        let folder = folder.join(side.name());
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(folder.join("files")).map_err(failed)?;
        let files: Vec<Vec<u8>> =
            FILES.iter().zip(0..).map(|((_, bytes), number)| plan::contents(seed, number, *bytes)).collect();
        for ((name, _), bytes) in FILES.iter().zip(&files) {
            fs::write(folder.join("files").join(name), bytes).map_err(failed)?;
        }
        make_broken(&folder).map_err(failed)?;
        make_certificate(&folder)?;
        let port = free_port()?;
        let secure = (port + 1..port + 1_000)
            .find(|port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
            .ok_or("no port is free")?;
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let certificate = folder.join("certificate.pem");
        let place = Place { side, address: at(port), secure: at(secure), certificate, files };
        write_settings(&place, &folder, tier)?;
        let child = spawn(binary, &folder)?;
        let (binary, tier) = (binary.to_owned(), tier.to_owned());
        let mut this = Self { place, folder, binary, tier, workers: WORKERS, child };
        let mut ended = None;
        let served = wait_until("the server serves", || {
            ended = this.child.try_wait().unwrap_or_default();
            ended.is_some() || this.serves()
        });
        let problem = match (served, ended) {
            (Ok(()), None) => return Ok(this),
            (Err(problem), _) => problem,
            (_, Some(status)) => format!("{} ended at once ({status})", this.binary.display()),
        };
        Err(format!("{}: {problem}{}", side.name(), this.last_words()))
    }

    /// Connections that the kernel has on the server's side, whichever process holds them.
    pub(super) fn established(&self) -> Result<u64, String> {
        // The echo server does not listen for TLS, so another process may have that port.
        let ports: &[u16] = match self.side() {
            Side::Http => &[self.place.address.port(), self.place.secure.port()],
            Side::Echo => &[self.place.address.port()],
        };
        let text = fs::read_to_string("/proc/net/tcp").map_err(|error| format!("/proc/net/tcp: {error}"))?;
        Ok(established(&text, ports))
    }

    /// Connections that all its workers have.
    pub(super) fn open(&self) -> Result<u64, String> {
        let status = self.status()?;
        Ok(status.generations.iter().flat_map(|generation| &generation.workers).map(|worker| worker.open).sum())
    }

    pub(super) fn side(&self) -> Side {
        self.place.side
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn status(&self) -> Result<Status, String> {
        match ask(&self.file("control"), &Request::Status)? {
            Reply::Status(status) => Ok(status),
            other => Err(format!("the server answered {other:?}")),
        }
    }

    /// Sends a request, and again if the server is still busy with an earlier one.
    pub(super) fn request(&self, request: &Request) -> Result<Reply, String> {
        let deadline = Instant::now() + BUSY_PATIENCE;
        loop {
            let reply = ask(&self.file("control"), request)?;
            let is_busy = matches!(
                reply,
                Reply::Failed(
                    Failure::ChangeUnderWay
                        | Failure::UpgradeUnderWay
                        | Failure::NotCommitted
                        | Failure::StartUnderWay
                        | Failure::Leaving { .. }
                        | Failure::CannotRebalance { why: CannotRebalance::Moving }
                )
            );
            if !is_busy || Instant::now() > deadline {
                return Ok(reply);
            }
            thread::sleep(BUSY_PAUSE);
        }
    }

    /// Whether the expected number of workers serves.
    pub(super) fn serves(&self) -> bool {
        self.status().is_ok_and(|status| has_serving(&status, self.workers))
    }

    pub(super) fn wait_served(&self) -> Result<(), String> {
        wait_until(&format!("{} workers serve", self.workers), || self.serves())
    }

    /// Waits until nothing is left of earlier changes: one master, one generation.
    pub(super) fn settle(&self) -> Result<(), String> {
        wait_until("old workers and masters have left", || {
            self.status().is_ok_and(|status| status.generations.len() == 1 && status.upgrade.is_none())
        })
    }

    /// Waits until all connections are closed.
    pub(super) fn wait_closed(&self) -> Result<(), String> {
        wait_until("all connections are closed", || self.open() == Ok(0))
    }

    /// The serving workers, as the server reports them.
    pub(super) fn serving(&self) -> Result<Vec<WorkerStatus>, String> {
        let status = self.status()?;
        let serving = status.generations.into_iter().filter(|generation| generation.phase == GenerationPhase::Serving);
        Ok(serving.flat_map(|generation| generation.workers).filter(|worker| worker.pid.is_some()).collect())
    }

    /// Starts a new master at the same place after the previous one has ended.
    pub(super) fn start_again(&mut self) -> Result<(), String> {
        self.child = spawn(&self.binary, &self.folder)?;
        self.workers = WORKERS;
        Ok(())
    }

    /// Makes the settings file invalid.
    pub(super) fn break_settings(&self) -> Result<(), String> {
        let path = self.file("batond.toml");
        fs::write(&path, "workers = \"many\"\n").map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(super) fn mend_settings(&self) -> Result<(), String> {
        write_settings(&self.place, &self.folder, &self.tier)
    }

    /// The end of its log, if there is one.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read_to_string(self.file("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        last.iter().map(|line| format!("\n  {}: {line}", self.side().name())).collect()
    }
}

/// The number of lines of /proc/net/tcp that are established connections with one of these local ports.
fn established(text: &str, ports: &[u16]) -> u64 {
    let is_one = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let port = fields.next().and_then(|address| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok());
        // TCP_ESTABLISHED
        port.is_some_and(|port| ports.contains(&port)) && fields.nth(1) == Some("01")
    };
    text.lines().filter(is_one).count() as u64
}

fn spawn(binary: &Path, folder: &Path) -> Result<Child, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", binary.display());
    let log = File::options().create(true).append(true).open(folder.join("log")).map_err(failed)?;
    Command::new(binary)
        .arg("--config")
        .arg(folder.join("batond.toml"))
        .current_dir(folder)
        // Ctrl-C is for this program; the servers are ended after the load.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(failed)
}

fn write_settings(place: &Place, folder: &Path, tier: &str) -> Result<(), String> {
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    let [control, pid_file, files, certificate, key] =
        ["control", "pid", "files", "certificate.pem", "key.pem"].map(|name| quoted(folder.join(name)));
    let (listen, more) = match place.side {
        Side::Http => (
            format!("[\"{}\", \"tls://{}\"]", place.address, place.secure),
            format!(
                "[tls]\ncertificates = [{{ certificate = {certificate}, key = {key} }}]\n\
                 [[static]]\npath = \"/files/\"\nfolder = {files}\n"
            ),
        ),
        Side::Echo => (format!("[\"{}\"]", place.address), String::new()),
    };
    let protocol = place.side.name();
    let text = format!(
        "listen = {listen}\nprotocol = \"{protocol}\"\nworkers = {WORKERS}\nhandover = \"{tier}\"\n\
         control = {control}\npid_file = {pid_file}\n\
         [timeouts]\nsettle_ms = {SETTLE_MS}\nhang_ms = {HANG_MS}\n\
         [log]\nlevel = \"error\"\n{more}"
    );
    // A process that reads it meanwhile gets all of the old file or all of the new one.
    let (path, new) = (folder.join("batond.toml"), folder.join("batond.toml.new"));
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// The files that broken upgrades try to start.
fn make_broken(folder: &Path) -> std::io::Result<()> {
    for (name, text, mode) in [
        ("no_program", "no program\n", 0o644),
        ("ends", "#!/bin/sh\nexit 3\n", 0o755),
        ("hangs", "#!/bin/sh\nexec sleep 600\n", 0o755),
    ] {
        let path = folder.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn make_certificate(folder: &Path) -> Result<(), String> {
    let failed = |error: rcgen::Error| format!("a certificate: {error}");
    let key = KeyPair::generate().map_err(failed)?;
    let params = CertificateParams::new(vec!["localhost".to_owned()]).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key_file = folder.join("key.pem");
    let written = fs::write(folder.join("certificate.pem"), certificate.pem())
        .and_then(|()| fs::write(&key_file, key.serialize_pem()))
        .and_then(|()| fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)));
    written.map_err(|error| format!("{}: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn established_connections_are_those_of_the_ports() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                    0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
                    1: 0100007F:1F90 0201017F:D431 01 00000000:00000000\n\
                    2: 0201017F:D431 0100007F:1F90 01 00000000:00000000\n\
                    3: 0100007F:1F91 0201017F:D432 06 00000000:00000000\n\
                    4: 0100007F:1F91 0201017F:D433 01 00000000:00000000\n";
        assert_eq!(established(text, &[0x1F90, 0x1F91]), 2);
        assert_eq!(established(text, &[0x1F90]), 1);
        assert_eq!(established("", &[1]), 0);
    }
}
