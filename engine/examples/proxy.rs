//! A TCP proxy: each connection goes to one of several upstreams, in turn. A side that reads slowly slows the other one
//! down.
//!
//! ```text
//! $ cargo run --example proxy -- 127.0.0.1:7003 127.0.0.1:7000 127.0.0.1:7001 --control /tmp/proxy.sock
//! ```
//!
//! FIN is forwarded and the other direction continues; a reset is forwarded as one. An upstream that refuses gets no
//! connections until a check of it, once per second, succeeds. `--proxy-header` sends upstreams the clients' addresses
//! (PROXY protocol, version 2). The two connections of a client are paired ([`Io::pair_with`]): they move to another
//! worker together, at reloads and upgrades, with every byte that was on its way.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use baton::config::{Control, Settings};
use baton::{
    CannotFreeze, CloseReason, Closed, ConnectionId, CounterId, Drain, Io, Limit, Next, Peer, Protocol, Reject, Server,
    Service, StateFormat, Step, ThawError, TimerKey, Worker,
};
use clap::Parser;

/// The timer for checks of upstreams that get no connections.
const LOOK: TimerKey = TimerKey(0);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Tokens from here on are checks of upstreams. Lower ones name clients.
const LOOKS: u64 = u64::MAX - u16::MAX as u64;

struct Upstream {
    address: SocketAddr,
    is_up: bool,
}

struct Proxy {
    upstreams: Vec<Upstream>,
    sends_header: bool,
    next: usize,
    failures: Option<CounterId>,
}

/// One side of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Side {
    /// The connection to its upstream is being established.
    is_waiting: bool,
    /// It is not read until the other side has read something.
    is_held: bool,
    /// The client has ended its side before the other side existed.
    has_ended: bool,
    /// The header that the upstream gets for it.
    header: Vec<u8>,
    /// The index of its upstream. The next field: how many were tried before.
    upstream: usize,
    tries: usize,
}

impl Proxy {
    fn new(upstreams: &[SocketAddr], sends_header: bool) -> Self {
        let upstreams = upstreams.iter().map(|address| Upstream { address: *address, is_up: true }).collect();
        Self { upstreams, sends_header, next: 0, failures: None }
    }

    /// The next upstream that is up; any upstream if none is.
    fn choose(&mut self) -> usize {
        let count = self.upstreams.len();
        let order = (0..count).map(|step| (self.next + step) % count);
        let chosen = order.clone().find(|place| self.upstreams[*place].is_up).unwrap_or(self.next % count);
        self.next = chosen + 1;
        chosen
    }

    /// A client's upstream cannot be reached: tries the next one, if there is one.
    fn try_next(&mut self, side: &mut Side, error: &std::io::Error, io: &mut Io<'_>) -> Next {
        let failed = &mut self.upstreams[side.upstream];
        tracing::warn!(upstream = %failed.address, %error, "an upstream cannot be connected to");
        failed.is_up = false;
        side.tries += 1;
        if side.tries >= self.upstreams.len() {
            return Next::Abort;
        }
        side.upstream = self.choose();
        io.connect(self.upstreams[side.upstream].address, io.id().to_u64());
        Next::Keep
    }
}

/// The header of version 2, for TCP (PROXY protocol, section 2.2); empty if an end is not known.
fn header(peer: &Peer<'_>) -> Vec<u8> {
    let (Ok(from), Ok(to)) = (peer.address(), peer.local_address()) else { return Vec::new() };
    let mut addresses = Vec::new();
    let family = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            addresses.extend([from.ip().octets(), to.ip().octets()].concat());
            0x11
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            addresses.extend([from.ip().octets(), to.ip().octets()].concat());
            0x21
        }
        _ => 0,
    };
    if family != 0 {
        addresses.extend([from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
    }
    let length = (addresses.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x21, family], &length, &addresses].concat()
}

impl Protocol for Proxy {
    type Connection = Side;
    type Message = ();

    fn on_start(&mut self, worker: &mut Worker<'_, ()>) -> std::io::Result<()> {
        self.failures = Some(worker.counter("upstream_failures"));
        worker.set_timer(LOOK, LOOK_INTERVAL);
        Ok(())
    }

    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<Side, Reject> {
        match peer.outbound_token() {
            None => {
                let header = if self.sends_header { header(&peer) } else { Vec::new() };
                let upstream = self.choose();
                io.connect(self.upstreams[upstream].address, io.id().to_u64());
                Ok(Side { is_waiting: true, header, upstream, ..Side::default() })
            }
            Some(look @ LOOKS..) => {
                self.upstreams[(look - LOOKS) as usize].is_up = true;
                Err(Reject::Abort)
            }
            Some(token) => {
                let client = ConnectionId::from_u64(token);
                io.pair_with(client).map_err(|_| Reject::Abort)?;
                let (mut header, mut has_ended) = (Vec::new(), false);
                let told = io.with(client, |side: &mut Side, _| {
                    side.is_waiting = false;
                    (header, has_ended) = (std::mem::take(&mut side.header), side.has_ended);
                    Next::More { at_least: 1 }
                });
                told.map_err(|_| Reject::Abort)?;
                io.write(&header);
                if has_ended {
                    io.wake(io.id());
                }
                Ok(Side { has_ended, ..Side::default() })
            }
        }
    }

    /// The client had ended its side before the upstream was connected.
    fn on_wake(&mut self, side: &mut Side, _: &mut Io<'_>) -> Next {
        if side.has_ended { Next::ShutdownWrite } else { Next::Keep }
    }

    fn on_data(&mut self, side: &mut Side, input: &[u8], io: &mut Io<'_>) -> Step {
        let Some(partner) = io.partner() else {
            return if side.is_waiting { Step::pause(0) } else { Step::abort() };
        };
        let told = io.with(partner, |_: &mut Side, other| {
            other.write(input);
            side.is_held = other.is_full();
            Next::Keep
        });
        match told {
            Err(_) => Step::abort(),
            Ok(()) if side.is_held => Step::pause(input.len()),
            Ok(()) => Step::more(input.len()),
        }
    }

    fn on_writable(&mut self, _: &mut Side, io: &mut Io<'_>) -> Next {
        if let Some(partner) = io.partner() {
            let _ = io.with(partner, |other: &mut Side, _| {
                if std::mem::take(&mut other.is_held) { Next::More { at_least: 1 } } else { Next::Keep }
            });
        }
        Next::Keep
    }

    fn on_eof(&mut self, side: &mut Side, _: &[u8], io: &mut Io<'_>) -> Next {
        side.has_ended = true;
        match io.partner() {
            Some(partner) => {
                let told = io.with(partner, |_: &mut Side, _| Next::ShutdownWrite);
                if told.is_ok() { Next::Keep } else { Next::Abort }
            }
            None if side.is_waiting => Next::Keep,
            None => Next::Close,
        }
    }

    /// Idle for too long. The other side is idle, too, and gets its end by `on_close`.
    fn on_limit(&mut self, _: &mut Side, limit: Limit, _: &[u8], _: &mut Io<'_>) -> Next {
        // There are no messages here.
        if limit == Limit::Message { Next::Keep } else { Next::Close }
    }

    fn on_connect_failed(&mut self, token: u64, error: std::io::Error, worker: &mut Worker<'_, ()>) {
        if token >= LOOKS {
            return;
        }
        if let Some(failures) = self.failures {
            worker.add(failures, 1);
        }
        let client = ConnectionId::from_u64(token);
        let _ = worker.with(client, |side: &mut Side, io| self.try_next(side, &error, io));
    }

    fn on_worker_timer(&mut self, _: TimerKey, worker: &mut Worker<'_, ()>) {
        for (place, upstream) in self.upstreams.iter().enumerate().filter(|(_, upstream)| !upstream.is_up) {
            worker.connect(upstream.address, LOOKS + place as u64);
        }
        worker.set_timer(LOOK, LOOK_INTERVAL);
    }

    /// Both sides continue until they are done. If they do not end in time, they are cut.
    fn on_drain(&mut self, _: &mut Side, _: Duration, _: &[u8], _: &mut Io<'_>) -> Drain {
        Drain::Wait
    }

    fn on_close(&mut self, _: Side, closed: Closed<'_>, worker: &mut Worker<'_, ()>) {
        let Some(partner) = closed.partner else { return };
        let _ = worker.with(partner, |_: &mut Side, io| match closed.reason {
            // Both directions are over, and the other side only has to send the rest.
            CloseReason::Peer | CloseReason::HandedOver => Next::Keep,
            CloseReason::Reset | CloseReason::Aborted => Next::Abort,
            _ => {
                io.write(closed.unread);
                Next::Close
            }
        });
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "proxy", version: 1 });

    fn freeze(&mut self, side: &Side, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        if side.is_waiting {
            return Err(CannotFreeze::Later);
        }
        state.extend([u8::from(side.is_held), u8::from(side.has_ended)]);
        Ok(())
    }

    fn thaw(&mut self, version: u32, state: &[u8], _: Peer<'_>, _: &mut Io<'_>) -> Result<Side, ThawError> {
        match (version, state) {
            (1, [is_held @ 0..=1, has_ended @ 0..=1]) => {
                Ok(Side { is_held: *is_held == 1, has_ended: *has_ended == 1, ..Side::default() })
            }
            (1, _) => Err(ThawError::Malformed),
            _ => Err(ThawError::Version(version)),
        }
    }
}

#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    listen: SocketAddr,
    /// Where connections go, in turn.
    #[arg(required = true)]
    upstreams: Vec<SocketAddr>,
    /// Tells upstreams whose connections these are.
    #[arg(long)]
    proxy_header: bool,
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// For batonctl.
    #[arg(long)]
    control: Option<PathBuf>,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let settings = || Settings {
        listen: vec![arguments.listen.into()],
        workers: arguments.workers,
        control: arguments.control.clone().map_or(Control::Off, Control::At),
        ..Settings::default()
    };
    let service = || {
        let (upstreams, sends_header) = (arguments.upstreams.clone(), arguments.proxy_header);
        Service::new(move |_slot| Proxy::new(&upstreams, sends_header))
    };
    let server = Server::builder().name("proxy").settings(settings()).build();
    match server.and_then(|server| server.run_with_reload(service(), || Ok((settings(), service())))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[path = "proxy/tests.rs"]
mod tests;
