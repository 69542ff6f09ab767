//! What a start would find here, without starting: permissions, addresses, paths and limits.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, eaccess};
use socket2::Type;

use super::start::occupied_control;
use crate::config::{Control, Limits, Settings};
use crate::endpoint::Endpoint;
use crate::error::ServerError;
use crate::ipc::control::{Client, Reply, Request};
use crate::steering;
use crate::sys::features::Features;
use crate::sys::listener::{self, ListenError};
use crate::sys::socket_file::{self, Occupied, is_stale};
use crate::worker::{Sizing, StartError};

/// How long a running server may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// A worker whose loop does not turn for this long may only be waiting for a processor.
const HANG_MS_LEAST: u64 = 1_000;

/// What prevents a start here, and what else an operator should know; see [`Server::check`](crate::Server::check).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Check {
    /// Each one prevents the start of the server.
    pub problems: Vec<ServerError>,
    /// Sentences about problems that do not prevent the start.
    pub warnings: Vec<String>,
    /// The server that has the control socket. This server would replace it by a reload or an upgrade and not by a
    /// start, so the addresses that it has are not a problem.
    pub running: Option<RunningServer>,
}

/// A server that answers at the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunningServer {
    /// The process of its master.
    pub pid: u32,
    /// The name of the program, if it reports one.
    pub name: Option<String>,
    /// The addresses on which it listens.
    pub addresses: Vec<String>,
}

impl RunningServer {
    /// Whether it has an address that excludes this one.
    fn has(&self, wanted: Endpoint) -> bool {
        let there = self.addresses.iter().filter_map(|address| address.parse().ok());
        there.into_iter().any(|there: Endpoint| match (there, wanted) {
            (Endpoint::Internet(there), Endpoint::Internet(wanted)) => excludes(there, wanted),
            (there, wanted) => there == wanted,
        })
    }
}

/// Whether two different servers cannot have these two addresses. IPv6 sockets are for IPv6 alone.
fn excludes(there: SocketAddr, wanted: SocketAddr) -> bool {
    let is_same = there.ip() == wanted.ip() || there.ip().is_unspecified() || wanted.ip().is_unspecified();
    there.port() == wanted.port() && there.is_ipv4() == wanted.is_ipv4() && is_same
}

pub(crate) fn check(settings: &Settings) -> Check {
    let mut check = Check::default();
    check.rights(settings);
    check.control(&settings.control);
    check.pid_file(settings.pid_file.as_deref());
    check.addresses(settings);
    check.limits(settings);
    check.times(settings);
    check
}

impl Check {
    fn rights(&mut self, settings: &Settings) {
        self.problems.extend(Features::probe().err().map(|error| StartError::from(error).into()));
        let checked = [
            settings.check_identity(),
            settings.check_unix_owner(),
            settings.check_sandbox(),
            settings.check_readable(),
            settings.check_access_log(),
            settings.check_metrics(),
        ];
        self.problems.extend(checked.into_iter().filter_map(Result::err).map(ServerError::from));
        self.problems.extend(steering::choose(settings.handover).err().map(ServerError::Handover));
    }

    fn control(&mut self, control: &Control) {
        let (path, is_required) = match control {
            Control::Off => return,
            Control::IfFree(path) => (path, false),
            Control::At(path) => (path, true),
        };
        let occupied = match is_stale(path, Type::STREAM, None) {
            Ok(_) => match writable(path) {
                Ok(()) => return,
                Err(error) => Occupied::from(error),
            },
            Err(Occupied::InUse) => {
                self.running = running(path);
                if self.running.is_some() {
                    return;
                }
                Occupied::InUse
            }
            Err(occupied) => occupied,
        };
        if is_required {
            self.problems.push(occupied_control(path, &occupied));
        } else {
            let path = path.display();
            self.warnings.push(format!(
                "control socket {path}: {occupied}; batonctl could not reach this server, so name another path with `control`"
            ));
        }
    }

    fn pid_file(&mut self, path: Option<&Path>) {
        let Some(path) = path else { return };
        if let Err(error) = writable(path) {
            self.warnings.push(format!("cannot write the pid file {}: {error}", path.display()));
        }
    }

    fn addresses(&mut self, settings: &Settings) {
        let Ok(file) = settings.socket_file() else { return };
        for listener in &settings.listen {
            let free = match listener.address {
                Endpoint::Internet(address) => listener::check_free(address),
                Endpoint::Unix(path) => {
                    socket_file::reserve(path).and_then(|_| socket_file::check_free(path, file)).and_then(|()| {
                        writable(path.as_path()).map_err(|error| ListenError::new(path, "its folder", error))
                    })
                }
            };
            let is_ours = || self.running.as_ref().is_some_and(|running| running.has(listener.address));
            if let Err(error) = free
                && !is_ours()
            {
                self.problems.push(error.into());
            }
        }
    }

    fn limits(&mut self, settings: &Settings) {
        let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
        let wanted = settings.limits.connections_max;
        match Sizing::new(settings, settings.listen.len(), descriptors, None) {
            Err(error) => self.problems.push(error.into()),
            // The default is more than most systems allow, and means as many as possible.
            Ok(Sizing { connections_max, .. }) if connections_max < wanted && wanted != Limits::default().connections_max => self.warnings.push(format!(
                "each worker takes at most {connections_max} connections instead of {wanted}, because the limit of open files is \
                 {descriptors}: raise it (ulimit -n, or LimitNOFILE=), or lower connections_max"
            )),
            Ok(_) => {}
        }
        let most = settings.memory_bytes_worst().saturating_mul(settings.workers as u64);
        if let Some(there) = memory_bytes().filter(|there| most > *there) {
            let mib = |bytes: u64| bytes >> 20;
            self.warnings.push(format!(
                "all workers together may need {} MiB of memory, but there are only {} MiB: lower memory_bytes_max, connections_max or workers",
                mib(most),
                mib(there)
            ));
        }
    }

    fn times(&mut self, settings: &Settings) {
        let times = &settings.timeouts;
        if (1..HANG_MS_LEAST).contains(&times.hang_ms) {
            self.warnings.push(format!(
                "hang_ms is {}: a worker that waits this long for a processor, or works this long on one request, is killed; set it to \
                 {HANG_MS_LEAST} or more",
                times.hang_ms
            ));
        }
        let above = [
            ("stop_ms_max", times.stop_ms_max, "drain_ms_max", times.drain_ms_max),
            ("idle_at_limit_ms", times.idle_at_limit_ms, "idle_ms", times.idle_ms),
        ];
        for (setting, value, other, bound) in above {
            if bound > 0 && value > bound {
                self.warnings.push(format!("{setting} ({value}) has no effect, because {other} ({bound}) is shorter"));
            }
        }
    }
}

/// The server that listens at a path; `None` if it does not answer.
fn running(path: &Path) -> Option<RunningServer> {
    let Ok(Reply::Status(status)) = Client::ask(path, &Request::Status, Some(ANSWER_TIME_MAX)) else { return None };
    let addresses = status.generations.into_iter().flat_map(|generation| generation.addresses).collect();
    Some(RunningServer { pid: status.pid, name: status.name, addresses })
}

/// Checks that a file can be created at a path.
fn writable(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    eaccess(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| {
        io::Error::new(io::Error::from(error).kind(), format!("its folder {}: {}", folder.display(), error.desc()))
    })
}

/// The memory that this process and its children may use: the machine's, or less if a control group limits it.
fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok()?;
    let total = machine.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = total.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10;
    Some(group_bytes().map_or(total, |group| group.min(total)))
}

/// The smallest `memory.max` of this process's control group and its ancestors (cgroup v2).
fn group_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = PathBuf::from("/sys/fs/cgroup").join(own);
    let limits = folder.ancestors().take_while(|folder| folder.starts_with("/sys/fs/cgroup"));
    limits.filter_map(|folder| fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::{Listener, Timeouts};

    fn settings(listen: Listener) -> Settings {
        Settings { listen: vec![listen], control: Control::Off, ..Settings::default() }
    }

    #[test]
    fn an_address_that_somebody_has_is_a_problem_unless_it_is_the_running_servers() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = holder.local_addr().expect("an address");
        let found = check(&settings(Listener::new(address)));
        assert!(
            matches!(&found.problems[..], [ServerError::Listen(error)] if *error.address == address.into()),
            "{found:?}"
        );
        let mut found = Check {
            running: Some(RunningServer { pid: 1, name: None, addresses: vec![address.to_string()] }),
            ..Check::default()
        };
        found.addresses(&settings(Listener::new(address)));
        assert!(found.problems.is_empty(), "{found:?}");
    }

    #[test]
    fn wildcards_exclude_each_address_of_their_port_and_kind() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (there, wanted, is_excluded) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("[::]:80", "127.0.0.1:80", false),
        ] {
            assert_eq!(excludes(address(there), address(wanted)), is_excluded, "{there}, {wanted}");
        }
    }

    #[test]
    fn paths_in_folders_that_are_not_there_are_named() {
        let mut settings = settings(Listener::new(([127, 0, 0, 1], 0)));
        settings.pid_file = Some(PathBuf::from("/no such folder/pid"));
        settings.control = Control::IfFree(PathBuf::from("/no such folder/control"));
        let found = check(&settings);
        let named = |text: &str| found.warnings.iter().filter(|warning| warning.contains(text)).count();
        assert_eq!(
            (found.problems.len(), named("/no such folder/pid"), named("/no such folder/control")),
            (0, 1, 1),
            "{found:?}"
        );
        settings.control = Control::At(PathBuf::from("/no such folder/control"));
        let found = check(&settings);
        assert!(matches!(&found.problems[..], [ServerError::Control { .. }]), "{found:?}");
    }

    #[test]
    fn times_that_make_no_sense_together_are_told() {
        let warnings = |timeouts| {
            let mut found = Check::default();
            found.times(&Settings { timeouts, ..Settings::default() });
            found.warnings.len()
        };
        assert_eq!(warnings(Timeouts::default()), 0);
        assert_eq!(warnings(Timeouts { hang_ms: 0, ..Timeouts::default() }), 0);
        assert_eq!(warnings(Timeouts { hang_ms: 10, ..Timeouts::default() }), 1);
        assert_eq!(warnings(Timeouts { stop_ms_max: 2, drain_ms_max: 1, ..Timeouts::default() }), 1);
    }
}
