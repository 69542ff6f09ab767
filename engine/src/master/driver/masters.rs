//! The other masters of an upgrade: the old one, which started this process and passes on what it has, and the new one,
//! which this process has started. Their messages go to the core as they arrive.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use socket2::Socket;

use super::sockets::{OldMap, OldMaps, Sockets};
use super::wait_ready;
use super::workers::reap;
use crate::config::WORKERS_MAX;
use crate::endpoint::Endpoint;
use crate::error::ServerError;
use crate::ipc::channel::{self, Heard, hear_with_all};
use crate::ipc::control::{Exit, Failure};
use crate::ipc::descriptors;
use crate::ipc::meeting::is_name;
use crate::ipc::orders::Member;
use crate::ipc::relay::{RELAY_VARIABLE, RELAY_VERSION, ToNew, ToOld};
use crate::master::core::{Address, Event, Greeting, Inheritance, ProcessId, SocketId, Upgrade};
use crate::steering::{Loads, Span};
use crate::sys::channel::DESCRIPTORS_MAX;
use crate::sys::{inheritance, process};
use crate::telemetry::Totals;

/// Time for the greeting to arrive. The old master wrote it before it started this one.
const HELLO_TIME_MAX: Duration = Duration::from_secs(5);

/// The number of listeners, with their addresses, that fit into one message.
const LISTENERS_PER_MESSAGE: usize = 200;

const _: () = assert!(LISTENERS_PER_MESSAGE <= DESCRIPTORS_MAX);

/// Doors of another master's workers, by their names.
#[derive(Default)]
pub(super) struct Doors {
    /// Of workers that take connections.
    heirs: BTreeMap<String, OwnedFd>,
    /// Of workers to which others can send messages.
    siblings: BTreeMap<String, OwnedFd>,
}

/// The most doors of workers to which others can send messages.
const SIBLINGS_MAX: usize = 4096;

impl Doors {
    pub(super) fn get(&self, name: &str) -> Option<&OwnedFd> {
        self.heirs.get(name).or_else(|| self.siblings.get(name))
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds these doors to the earlier ones, and drops doors of workers that are gone.
    fn add_siblings(&mut self, members: &[Member], doors: Vec<OwnedFd>) {
        self.siblings.retain(|_, door| {
            let mut ends = [PollFd::new(door.as_fd(), PollFlags::empty())];
            poll(&mut ends, PollTimeout::ZERO).is_ok_and(|gone| gone == 0)
        });
        let room = SIBLINGS_MAX.saturating_sub(self.siblings.len());
        let came = members.iter().map(|member| member.name.clone()).zip(doors);
        self.siblings.extend(came.filter(|(name, _)| is_name(name)).take(room));
    }
}

/// Stores the doors that have come with a message, in place of the earlier ones.
fn keep_doors(doors: &mut Doors, names: Option<&mut Vec<String>>, descriptors: Vec<OwnedFd>) {
    if let Some(names) = names {
        doors.heirs = names.iter().cloned().zip(descriptors).collect();
    }
}

/// The old master.
#[derive(Default)]
pub(super) struct Old {
    /// `None` once it has closed its end.
    channel: Option<OwnedFd>,
    pub(super) pid: u32,
    pub(super) tier: String,
    /// It understands messages about Unix sockets. A release that only knows TCP does not.
    knows_unix: bool,
    /// Its listeners, while both masters serve.
    pub(super) maps: OldMaps,
    /// The numbers that it has sent, and that were not added yet.
    pub(super) totals: Vec<Totals>,
    /// Its listener for metrics.
    pub(super) metrics: Option<TcpListener>,
}

/// What the old master has passed to this one, apart from its channel.
#[derive(Default)]
pub(super) struct Passed {
    next_number: u32,
    is_held: bool,
    addresses: Vec<(SocketAddr, SocketAddr)>,
    listeners: Vec<(Endpoint, Socket)>,
}

impl Passed {
    /// Converts this for the core. The sockets are kept from now on if they are wanted.
    pub(super) fn inheritance(self, old: &Old, adopts: bool, sockets: &mut Sockets) -> Inheritance {
        let address =
            |(requested, bound): (SocketAddr, SocketAddr)| Address { requested: requested.into(), bound: bound.into() };
        let kept = self.listeners.into_iter().filter(|_| adopts);
        Inheritance {
            predecessor: ProcessId(old.pid),
            is_held: self.is_held,
            next_number: self.next_number,
            addresses: self.addresses.into_iter().map(address).collect(),
            listeners: kept.map(|(address, socket)| (sockets.keep_once(socket), address)).collect(),
        }
    }
}

impl Old {
    /// Reads the greeting of the master that started this process, if one did. This is the only wait of the driver,
    /// before there is anything to drive.
    pub(super) fn meet() -> Result<Option<(Self, Passed)>, ServerError> {
        let Some(channel) = inheritance::take(RELAY_VARIABLE) else { return Ok(None) };
        let mut this = Self { channel: Some(channel), ..Self::default() };
        let mut passed = Passed::default();
        match this.hear_all(&mut passed) {
            Ok(()) => Ok(Some((this, passed))),
            Err(error) => {
                this.tell(&ToOld::Failed { reason: error.to_string(), why: None }, &[]);
                Err(error)
            }
        }
    }

    fn hear_all(&mut self, passed: &mut Passed) -> Result<(), ServerError> {
        let until = Instant::now() + HELLO_TIME_MAX;
        let mut missing = None;
        while missing != Some(0) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let problem = format!("the old master sent no greeting within {} s", HELLO_TIME_MAX.as_secs());
                return Err(ServerError::Upgrade { problem });
            }
            let descriptors: Vec<_> = self.descriptor().into_iter().map(|one| (one, PollFlags::POLLIN)).collect();
            wait_ready(&descriptors, Some(left)).map_err(|source| ServerError::System { what: "poll", source })?;
            missing = self.hear_greeting(passed, missing)?;
        }
        Ok(())
    }

    /// Returns how many messages are still missing; `None` before the first one.
    fn hear_greeting(&mut self, passed: &mut Passed, missing: Option<usize>) -> Result<Option<usize>, ServerError> {
        let problem = |problem: String| Err(ServerError::Upgrade { problem });
        let Some(channel) = &self.channel else { return problem("the old master is gone".to_owned()) };
        match hear_with_all::<ToNew>(channel) {
            Ok((Heard::Message(ToNew::Hello { version, .. }), _)) if version != RELAY_VERSION => problem(format!(
                "the old master speaks version {version} of the upgrade's messages, this one version {RELAY_VERSION}"
            )),
            Ok((Heard::Message(message @ ToNew::Hello { .. }), _)) if message.clone().bounded() == ToNew::Unknown => {
                problem("the old master's greeting is malformed".to_owned())
            }
            Ok((
                Heard::Message(ToNew::Hello { pid, next_number, tier, is_held, addresses, unix, messages, .. }),
                _,
            )) => {
                self.knows_unix = unix;
                (self.pid, self.tier) = (pid, tier);
                (passed.next_number, passed.is_held, passed.addresses) = (next_number, is_held, addresses);
                Ok(Some(messages))
            }
            Ok((Heard::Message(ToNew::Listeners { addresses }), descriptors)) => {
                for (address, descriptor) in addresses.into_iter().zip(descriptors) {
                    match descriptors::bound(descriptor, address) {
                        Ok(socket) => passed.listeners.push((address, socket)),
                        Err(unfit) => {
                            return problem(format!("the listen socket of {address} cannot be taken over: {unfit}"));
                        }
                    }
                }
                Ok(missing.map(|missing| missing.saturating_sub(1)))
            }
            Ok((Heard::Message(ToNew::Map { address, places }), maps)) => {
                let places = places.clamp(1, WORKERS_MAX as u32);
                self.maps.maps.extend(maps.into_iter().map(|map| OldMap { address, places, map }));
                Ok(missing.map(|missing| missing.saturating_sub(1)))
            }
            // This message is not among the counted ones: an older release would wait for it.
            Ok((Heard::Message(ToNew::Loads { places }), maps)) => {
                let spans = places.into_iter().zip(maps).map(|(places, map)| Span { places, map: Arc::new(map) });
                self.maps.loads = Loads::new(spans.collect());
                Ok(missing)
            }
            // It comes before the first message.
            Ok((Heard::Message(ToNew::Metrics { address }), mut descriptors)) => {
                self.metrics = descriptors.pop().and_then(|listener| metrics_came(listener, address));
                Ok(missing)
            }
            Ok((Heard::Message(_) | Heard::Nothing, _)) => Ok(missing),
            Ok((Heard::End, _)) => problem("the old master is gone".to_owned()),
            Err(error) => problem(format!("the old master sent no valid greeting: {error}")),
        }
    }

    pub(super) fn channel(&self) -> Option<&OwnedFd> {
        self.channel.as_ref()
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Whether the master is alive, as far as is known: its channel ends with it.
    pub(super) fn is_alive(&self) -> bool {
        self.channel.is_some()
    }

    pub(super) fn tell(&self, message: &ToOld, doors: &[BorrowedFd<'_>]) {
        // The end of the channel shows that the master is gone.
        let _ = self.channel.as_ref().map(|channel| channel::tell_with_all(channel, message, doors));
    }

    pub(super) fn give_listeners(&self, sockets: &Sockets, listeners: &[(SocketId, Endpoint)]) {
        let listeners = known(self.knows_unix, listeners);
        give_listeners(self.channel.as_ref(), |addresses| ToOld::Listeners { addresses }, sockets, &listeners);
    }

    /// Hands over a connection. Returns `false` if that is not possible now.
    pub(super) fn pass(&self, connection: BorrowedFd<'_>) -> bool {
        let channel = self.channel.as_ref();
        channel.is_some_and(|channel| channel::tell_with(channel, &ToOld::Arrival, connection).is_ok())
    }

    /// Reads its next message.
    pub(super) fn hear(&mut self, sockets: &mut Sockets, doors: &mut Doors) -> Option<Event> {
        match hear_with_all::<ToNew>(self.channel.as_ref()?) {
            Ok((Heard::Message(ToNew::Arrival), mut descriptors)) if descriptors.len() == 1 => {
                descriptors.pop().and_then(|connection| connection_came(sockets, connection))
            }
            Ok((Heard::Message(ToNew::Listeners { addresses }), descriptors)) => {
                Some(listeners_came(sockets, addresses, descriptors))
            }
            Ok((Heard::Message(ToNew::Totals { totals }), _)) => {
                keep_totals(&mut self.totals, totals);
                Some(Event::FromOld(ToNew::Unknown))
            }
            Ok((Heard::Message(mut message), descriptors)) => {
                keep_doors(doors, message.doors(), descriptors);
                Some(Event::FromOld(message.bounded()))
            }
            Ok((Heard::Nothing, _)) => None,
            Ok((Heard::End, _)) | Err(_) => {
                self.channel = None;
                self.maps = OldMaps::default();
                Some(Event::OldEnded)
            }
        }
    }
}

/// Tells the master that started this process for an upgrade, if one did, why this one cannot run. For programs that
/// find that out before they run a server.
pub fn refuse_upgrade(reason: &str) {
    if let Some(channel) = inheritance::take(RELAY_VARIABLE) {
        let _ = channel::tell(&channel, &ToOld::Failed { reason: reason.to_owned(), why: None });
    }
}

/// The new master.
pub(super) struct New {
    pub(super) process: ProcessId,
    /// Readable once it has ended. `None` on a kernel without such handles; SIGCHLD replaces it.
    handle: Option<OwnedFd>,
    /// `None` once it has closed its end, or once its messages are not read any more.
    channel: Option<OwnedFd>,
    /// It understands messages about Unix sockets.
    knows_unix: bool,
    has_ended: bool,
    /// The numbers that it has sent, and that were not added yet.
    pub(super) totals: Vec<Totals>,
}

impl New {
    /// Starts the new binary, with the greeting waiting in its channel. Also returns its path.
    ///
    /// # Errors
    /// If it cannot be started, or if this process is the first of its namespace: the kernel kills the others when that one
    /// ends (pid_namespaces(7)).
    pub(super) fn start(
        upgrade: &Upgrade,
        own_binary: &std::path::Path,
        greeting: &Greeting,
        sockets: &Sockets,
        metrics: Option<&TcpListener>,
    ) -> Result<(Self, String), Failure> {
        if std::process::id() == 1 {
            return Err(Failure::FirstProcess);
        }
        let binary = upgrade.binary.as_ref().map_or_else(|| own_binary.to_owned(), PathBuf::from);
        let name = binary.display().to_string();
        let fail = |what: &'static str| {
            let binary = name.clone();
            move |error: std::io::Error| Failure::Binary { binary, problem: format!("{what}: {error}") }
        };
        let (ours, theirs) = channel::pair().map_err(fail("socketpair"))?;
        let mut command = Command::new(&binary);
        match &upgrade.arguments {
            Some(arguments) => command.args(arguments),
            None => command.args(std::env::args_os().skip(1)),
        };
        inheritance::pass(&mut command, RELAY_VARIABLE, &theirs).map_err(fail("fcntl"))?;
        give_metrics(&ours, metrics).map_err(fail("writing the greeting"))?;
        greet(&ours, greeting, sockets).map_err(fail("writing the greeting"))?;
        // The variable names the process that the service manager watches. The manager watches the new master when that
        // is the main process.
        command.env_remove("WATCHDOG_PID");
        let child =
            command.spawn().map_err(|error| Failure::Binary { binary: name.clone(), problem: error.to_string() })?;
        let handle = process::open(Pid::from_raw(child.id() as i32)).ok();
        let process = ProcessId(child.id());
        let (channel, totals) = (Some(ours), Vec::new());
        Ok((Self { process, handle, channel, knows_unix: false, has_ended: false, totals }, name))
    }

    pub(super) fn channel(&self) -> Option<&OwnedFd> {
        self.channel.as_ref()
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.channel.iter().chain(&self.handle).map(AsFd::as_fd)
    }

    pub(super) fn tell(&self, message: &ToNew, doors: &[BorrowedFd<'_>]) {
        // The end of the channel shows that the master is gone.
        let _ = self.channel.as_ref().map(|channel| channel::tell_with_all(channel, message, doors));
    }

    pub(super) fn give_listeners(&self, sockets: &Sockets, listeners: &[(SocketId, Endpoint)]) {
        let listeners = known(self.knows_unix, listeners);
        give_listeners(self.channel.as_ref(), |addresses| ToNew::Listeners { addresses }, sockets, &listeners);
    }

    /// Hands over a connection. Returns `false` if that is not possible now.
    pub(super) fn pass(&self, connection: BorrowedFd<'_>) -> bool {
        let channel = self.channel.as_ref();
        channel.is_some_and(|channel| channel::tell_with(channel, &ToNew::Arrival, connection).is_ok())
    }

    pub(super) fn forget_channel(&mut self) {
        self.channel = None;
    }

    /// Reads its next message.
    pub(super) fn hear(&mut self, sockets: &mut Sockets, doors: &mut Doors) -> Option<Event> {
        let problem = match hear_with_all::<ToOld>(self.channel.as_ref()?) {
            Ok((Heard::Message(ToOld::Listeners { addresses }), descriptors)) => {
                return Some(listeners_came(sockets, addresses, descriptors));
            }
            Ok((Heard::Message(ToOld::Arrival), mut descriptors)) if descriptors.len() == 1 => {
                return descriptors.pop().and_then(|connection| connection_came(sockets, connection));
            }
            Ok((Heard::Message(ToOld::Siblings { members }), descriptors)) => {
                doors.add_siblings(&members, descriptors);
                return Some(Event::FromNew(ToOld::Siblings { members }.bounded()));
            }
            Ok((Heard::Message(ToOld::Totals { totals }), _)) => {
                keep_totals(&mut self.totals, totals);
                return Some(Event::FromNew(ToOld::Unknown));
            }
            Ok((Heard::Message(mut message), descriptors)) => {
                if let ToOld::Introduction { unix, .. } = message {
                    self.knows_unix = unix;
                }
                keep_doors(doors, message.doors(), descriptors);
                return Some(Event::FromNew(message.bounded()));
            }
            Ok((Heard::Nothing, _)) => return None,
            Ok((Heard::End, _)) => None,
            Err(error) => Some(format!("the new binary sent a malformed message: {error}")),
        };
        self.channel = None;
        Some(Event::NewEnded { problem })
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.has_ended
    }

    /// Its exit status, once it has ended.
    pub(super) fn reap(&mut self) -> Option<Exit> {
        let exit = reap(self.process)?;
        self.has_ended = true;
        Some(exit)
    }

    pub(super) fn kill(&self) {
        if !self.has_ended {
            super::workers::kill_child(self.process, self.handle.as_ref());
        }
    }
}

/// Puts the listener for metrics into the channel.
fn give_metrics(channel: &OwnedFd, listener: Option<&TcpListener>) -> std::io::Result<()> {
    let Some(listener) = listener else { return Ok(()) };
    channel::tell_with(channel, &ToNew::Metrics { address: listener.local_addr()? }, listener.as_fd())
}

fn metrics_came(descriptor: OwnedFd, address: SocketAddr) -> Option<TcpListener> {
    match descriptors::shared_listener(descriptor, address.into()) {
        Ok(listener) => Some(listener.into()),
        Err(unfit) => {
            tracing::warn!(%address, "refused the old master's listener for metrics: {unfit}");
            None
        }
    }
}

/// The counters of another master have at most this many parts.
const PARTS_MAX: usize = 256;

fn keep_totals(parts: &mut Vec<Totals>, part: Totals) {
    if parts.len() < PARTS_MAX {
        parts.push(part.bounded());
    }
}

/// Puts what the new master needs into the channel before that master exists.
fn greet(channel: &OwnedFd, greeting: &Greeting, sockets: &Sockets) -> std::io::Result<()> {
    let Greeting { next_number, tier, is_held, addresses, listeners, maps } = greeting;
    let packets = packets(sockets, listeners);
    let places = maps.map_or(0, |(_, places)| places);
    let loads = maps.and_then(|(steering, _)| sockets.loads(steering)).map(Loads::spans).unwrap_or_default();
    let maps: Vec<_> = maps.iter().flat_map(|(steering, _)| sockets.maps(*steering)).collect();
    let hello = ToNew::Hello {
        version: RELAY_VERSION,
        pid: std::process::id(),
        next_number: *next_number,
        tier: tier.to_string(),
        is_held: *is_held,
        addresses: addresses.iter().filter_map(|one| one.requested.internet().zip(one.bound.internet())).collect(),
        unix: true,
        messages: packets.len() + maps.len(),
    };
    channel::tell(channel, &hello)?;
    if !loads.is_empty() {
        let (places, loads): (Vec<u32>, Vec<_>) = loads.iter().map(|span| (span.places, span.map.as_fd())).unzip();
        channel::tell_with_all(channel, &ToNew::Loads { places }, &loads)?;
    }
    for (addresses, descriptors) in packets {
        channel::tell_with_all(channel, &ToNew::Listeners { addresses }, &descriptors)?;
    }
    maps.into_iter().try_for_each(|(address, map)| channel::tell_with(channel, &ToNew::Map { address, places }, map))
}

/// Sends the other master copies of listen sockets, in messages of its kind.
fn give_listeners<T: serde::Serialize>(
    channel: Option<&OwnedFd>,
    message: impl Fn(Vec<Endpoint>) -> T,
    sockets: &Sockets,
    listeners: &[(SocketId, Endpoint)],
) {
    let Some(channel) = channel else { return };
    for (addresses, descriptors) in packets(sockets, listeners) {
        if let Err(error) = channel::tell_with_all(channel, &message(addresses), &descriptors) {
            tracing::warn!("cannot pass listen sockets to the other master: {error}");
        }
    }
}

/// The listeners that the other master understands.
fn known(knows_unix: bool, listeners: &[(SocketId, Endpoint)]) -> Vec<(SocketId, Endpoint)> {
    listeners.iter().filter(|(_, address)| knows_unix || !address.is_unix()).copied().collect()
}

/// Handles listen sockets that the other master has sent.
fn listeners_came(sockets: &mut Sockets, addresses: Vec<Endpoint>, descriptors: Vec<OwnedFd>) -> Event {
    let mut checked = |(address, descriptor)| match descriptors::bound(descriptor, address) {
        Ok(socket) => {
            sockets.keep_path(address);
            Some((sockets.keep_once(socket), address))
        }
        Err(unfit) => {
            tracing::warn!(%address, "refused a listen socket of the other master: {unfit}");
            None
        }
    };
    Event::Listeners(addresses.into_iter().zip(descriptors).filter_map(&mut checked).collect())
}

fn connection_came(sockets: &mut Sockets, descriptor: OwnedFd) -> Option<Event> {
    match descriptors::connection(descriptor) {
        Ok(connection) => Some(Event::Arrived(sockets.arrived(connection))),
        Err(unfit) => {
            tracing::warn!("refused a connection of the other master: {unfit}");
            None
        }
    }
}

type Packet<'a> = (Vec<Endpoint>, Vec<BorrowedFd<'a>>);

/// Listen sockets, as many per message as fit.
fn packets<'a>(sockets: &'a Sockets, listeners: &[(SocketId, Endpoint)]) -> Vec<Packet<'a>> {
    let known = listeners.iter().filter_map(|(socket, address)| Some((*address, sockets.descriptor(*socket)?)));
    let known: Vec<(Endpoint, BorrowedFd<'a>)> = known.collect();
    known.chunks(LISTENERS_PER_MESSAGE).map(|chunk| chunk.iter().copied().unzip()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::channel::send;
    use std::fs::File;

    fn hello(messages: usize, next_number: u32) -> ToNew {
        let (version, tier) = (RELAY_VERSION, "adopt".to_owned());
        ToNew::Hello { version, pid: 1, next_number, tier, is_held: false, addresses: Vec::new(), unix: true, messages }
    }

    /// How the new master reads a greeting: the number of listen sockets.
    fn greeted(say: impl FnOnce(&OwnedFd)) -> Result<usize, ServerError> {
        let (channel, theirs) = channel::pair().expect("a pair");
        say(&theirs);
        drop(theirs);
        let mut passed = Passed::default();
        let mut old = Old { channel: Some(channel), ..Old::default() };
        old.hear_all(&mut passed).map(|()| passed.listeners.len())
    }

    #[test]
    fn a_greeting_with_what_is_no_listen_socket_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addresses = vec![listener.local_addr().expect("an address").into()];
        let give = |theirs: &OwnedFd, descriptor: BorrowedFd<'_>| {
            let addresses = addresses.clone();
            channel::tell_with(theirs, &ToNew::Listeners { addresses }, descriptor).expect("told");
        };
        let tell = |theirs: &OwnedFd, message| channel::tell(theirs, &message).expect("told");
        let whole = greeted(|theirs| {
            tell(theirs, hello(1, 2));
            give(theirs, listener.as_fd());
        });
        assert_eq!(whole.expect("understood"), 1);
        let null = File::open("/dev/null").expect("open");
        let refused = greeted(|theirs| {
            tell(theirs, hello(1, 2));
            give(theirs, null.as_fd());
        });
        assert!(matches!(refused, Err(ServerError::Upgrade { problem }) if problem.contains("no TCP socket")));
        let headless = greeted(|theirs| give(theirs, listener.as_fd()));
        assert!(headless.is_err(), "there was no hello");
        assert!(greeted(|theirs| tell(theirs, hello(0, u32::MAX))).is_err(), "no number is left");
        assert!(greeted(|theirs| send(theirs.as_fd(), b"nonsense", &[]).expect("sent")).is_err());
    }
}
