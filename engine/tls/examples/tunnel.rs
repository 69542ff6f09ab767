//! Accepts plain connections and connects each to a TLS server: for programs that cannot use TLS themselves.
//!
//! ```text
//! $ cargo run -p baton-tls --example tunnel -- 127.0.0.1:7005 192.0.2.7:443 api.example.com \
//!       --ca /etc/ssl/certs/ca-certificates.crt --control /tmp/tunnel.sock
//! ```
//!
//! Both connections of a pair move to another worker together at reloads and upgrades, with the keys and every byte that
//! was on its way. The engine's example `proxy` can do more: several servers, servers that are down, the PROXY protocol.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use baton::config::{Control, Settings};
use baton::layer::SharedLayers;
use baton::{
    CannotFreeze, CloseReason, Closed, ConnectionId, Drain, Io, Next, Peer, Protocol, Reject, Server, Service,
    StateFormat, Step, Target, ThawError, Worker,
};
use baton_tls::connect::ClientSettings;
use baton_tls::files;
use baton_tls::layer::TlsClient;
use clap::Parser;

/// The name of the layer in the settings, here and in the next binary.
const LAYER: &str = "upstream";

struct Tunnel {
    upstream: Target,
}

/// One side of a connection.
#[derive(Default)]
struct Side {
    /// The other side does not exist yet.
    is_waiting: bool,
    /// It is not read until the other side has read something.
    is_held: bool,
    has_ended: bool,
}

impl Protocol for Tunnel {
    type Connection = Side;
    type Message = ();

    /// A connection to the server opens when its handshake is over; its client waits until then.
    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<Side, Reject> {
        let Some(token) = peer.outbound_token() else {
            io.connect(self.upstream.clone(), io.id().to_u64());
            return Ok(Side { is_waiting: true, ..Side::default() });
        };
        let client = ConnectionId::from_u64(token);
        io.pair_with(client).map_err(|_| Reject::Abort)?;
        let mut has_ended = false;
        let told = io.with(client, |side: &mut Side, _| {
            side.is_waiting = false;
            has_ended = side.has_ended;
            Next::More { at_least: 1 }
        });
        told.map_err(|_| Reject::Abort)?;
        if has_ended {
            io.wake(io.id());
        }
        Ok(Side::default())
    }

    /// The client had ended its side before its server was connected.
    fn on_wake(&mut self, _: &mut Side, _: &mut Io<'_>) -> Next {
        Next::ShutdownWrite
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
        if let Some(partner) = io.partner() {
            let _ = io.with(partner, |_: &mut Side, _| Next::ShutdownWrite);
        }
        Next::Keep
    }

    /// The server does not answer, or is not trusted.
    fn on_connect_failed(&mut self, token: u64, error: std::io::Error, worker: &mut Worker<'_, ()>) {
        tracing::warn!(upstream = %self.upstream.address(), %error, "no connection to the upstream");
        let _ = worker.with(ConnectionId::from_u64(token), |_: &mut Side, _| Next::Abort);
    }

    fn on_drain(&mut self, _: &mut Side, _: Duration, _: &[u8], _: &mut Io<'_>) -> Drain {
        Drain::Wait
    }

    fn on_close(&mut self, _: Side, closed: Closed<'_>, worker: &mut Worker<'_, ()>) {
        let Some(partner) = closed.partner else { return };
        let _ = worker.with(partner, |_: &mut Side, _| match closed.reason {
            CloseReason::Peer | CloseReason::HandedOver => Next::Keep,
            // Whichever side was cut off, the other side must not take that for a normal end.
            _ => Next::Abort,
        });
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "tunnel", version: 1 });

    fn freeze(&mut self, side: &Side, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        if side.is_waiting {
            return Err(CannotFreeze::Later);
        }
        state.extend([u8::from(side.is_held), u8::from(side.has_ended)]);
        Ok(())
    }

    fn thaw(&mut self, _: u32, state: &[u8], _: Peer<'_>, _: &mut Io<'_>) -> Result<Side, ThawError> {
        match state {
            [held @ 0..=1, ended @ 0..=1] => {
                Ok(Side { is_waiting: false, is_held: *held == 1, has_ended: *ended == 1 })
            }
            _ => Err(ThawError::Malformed),
        }
    }
}

#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    listen: SocketAddr,
    /// The server.
    upstream: SocketAddr,
    /// The name that its certificate must have.
    server_name: String,
    /// The authorities that are trusted, in PEM.
    #[arg(long)]
    ca: PathBuf,
    /// For batonctl.
    #[arg(long)]
    control: Option<PathBuf>,
}

impl Arguments {
    fn settings(&self) -> Result<Settings, String> {
        let config = ClientSettings::new(&self.ca).load(files::read).map_err(|error| error.to_string())?;
        Ok(Settings {
            listen: vec![self.listen.into()],
            outbound_layers: [(LAYER.to_owned(), SharedLayers::new(TlsClient::new(config)))].into(),
            control: self.control.clone().map_or(Control::Off, Control::At),
            ..Settings::default()
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let service = || {
        let (address, name) = (arguments.upstream, arguments.server_name.clone());
        Service::new(move |_| Tunnel { upstream: Target::new(address).with_layer(LAYER, name.as_str()) })
    };
    let served = arguments.settings().and_then(|settings| {
        let server = Server::builder().name("tunnel").settings(settings).build().map_err(|error| error.to_string())?;
        let reload = || Ok((arguments.settings()?, service()));
        server.run_with_reload(service(), reload).map_err(|error| error.to_string())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tunnel: {error}");
            ExitCode::FAILURE
        }
    }
}
