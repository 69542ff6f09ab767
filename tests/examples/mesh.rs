//! A server whose workers send each other messages, for tests. Each line is a command; subscribers hear what others
//! publish.
//!
//! ```text
//! sub                  hear what is published, and what is sent to this worker
//! pub TEXT             to all workers
//! send SLOT TEXT       to one
//! flood COUNT BYTES    publishes COUNT messages of this size, as far as there is room; answers `flooded COUNT`
//! who                  answers `who PID SLOT SLOTS…`
//! writable             answers `writable COUNT`: how often there was room again
//! ```
//!
//! The last argument is the version of the workers' messages, 1 by default. `MESH_HANG_MS` is as in `Timeouts`.

use std::cell::RefCell;
use std::io::{Result, Write};
use std::rc::{Rc, Weak};

use baton::config::{Control, Handover, Limits, Settings, Timeouts};
use baton::{
    CannotFreeze, ConnectionId, Io, Next, Peer, Protocol, Reject, Server, Service, Sibling, StateFormat, Step,
    ThawError, Worker,
};

/// Lines that were not written to a subscriber yet.
type Pending = RefCell<Vec<u8>>;

#[derive(Default)]
struct Connection {
    pending: Option<Rc<Pending>>,
}

#[derive(Default)]
struct Mesh<const VERSION: u32> {
    subscribers: Vec<(ConnectionId, Weak<Pending>)>,
    writable: usize,
}

impl<const VERSION: u32> Mesh<VERSION> {
    fn subscribe(&mut self, id: ConnectionId, pending: Vec<u8>) -> Connection {
        let pending = Rc::new(RefCell::new(pending));
        self.subscribers.push((id, Rc::downgrade(&pending)));
        Connection { pending: Some(pending) }
    }

    fn command(&mut self, connection: &mut Connection, line: &str, io: &mut Io<'_>) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let said = match command {
            "sub" => {
                *connection = self.subscribe(io.id(), Vec::new());
                Ok(())
            }
            "pub" => io.broadcast(rest.as_bytes()),
            "send" => match rest.split_once(' ').map(|(slot, text)| (slot.parse(), text)) {
                Some((Ok(slot), text)) => io.send(slot, text.as_bytes()),
                _ => return io.write(b"what?\n"),
            },
            "flood" => {
                let mut numbers = rest.split(' ').map(|number| number.parse().unwrap_or(0));
                let (count, bytes) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                let message = vec![b'x'; bytes];
                let sent = (0..count).take_while(|_| io.broadcast(&message).is_ok()).count();
                return drop(writeln!(io, "flooded {sent}"));
            }
            "who" => {
                let slots: Vec<String> = io.siblings().iter().map(ToString::to_string).collect();
                return drop(writeln!(io, "who {} {}", std::process::id(), slots.join(" ")));
            }
            "writable" => return drop(writeln!(io, "writable {}", self.writable)),
            _ => return io.write(b"what?\n"),
        };
        match said {
            Ok(()) => io.write(b"ok\n"),
            Err(error) => drop(writeln!(io, "{error:?}")),
        }
    }
}

impl<const VERSION: u32> Protocol for Mesh<VERSION> {
    type Connection = Connection;
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> std::result::Result<Connection, Reject> {
        Ok(Connection::default())
    }

    fn on_data(&mut self, connection: &mut Connection, input: &[u8], io: &mut Io<'_>) -> Step {
        let mut consumed = 0;
        while let Some(length) = input[consumed..].iter().position(|byte| *byte == b'\n') {
            let line = &input[consumed..consumed + length];
            consumed += length + 1;
            self.command(connection, &String::from_utf8_lossy(line), io);
        }
        Step::more(consumed)
    }

    const MESSAGES: Option<StateFormat> = Some(StateFormat { name: "mesh", version: VERSION });

    fn on_sibling_message(&mut self, from: Sibling, message: &[u8], worker: &mut Worker<'_, ()>) {
        self.subscribers.retain(|(id, pending)| {
            let Some(pending) = pending.upgrade() else { return false };
            let mut pending = pending.borrow_mut();
            if pending.is_empty() {
                worker.wake(*id);
            }
            let _ = write!(pending, "m {} ", from.slot());
            pending.extend_from_slice(message);
            pending.push(b'\n');
            true
        });
    }

    fn on_siblings_writable(&mut self, _: &mut Worker<'_, ()>) {
        self.writable += 1;
    }

    fn on_wake(&mut self, connection: &mut Connection, io: &mut Io<'_>) -> Next {
        if let Some(pending) = &connection.pending {
            io.write(&std::mem::take(&mut *pending.borrow_mut()));
        }
        Next::Keep
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "mesh", version: 1 });

    fn freeze(&mut self, connection: &Connection, state: &mut Vec<u8>) -> std::result::Result<(), CannotFreeze> {
        if let Some(pending) = &connection.pending {
            state.push(1);
            state.extend_from_slice(&pending.borrow());
        }
        Ok(())
    }

    fn thaw(
        &mut self,
        _: u32,
        state: &[u8],
        _: Peer<'_>,
        io: &mut Io<'_>,
    ) -> std::result::Result<Connection, ThawError> {
        let Some((_, pending)) = state.split_first() else { return Ok(Connection::default()) };
        io.write(pending);
        Ok(self.subscribe(io.id(), Vec::new()))
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn service(version: &str) -> Service<'static> {
    match version {
        "1" => Service::new(|_slot| Mesh::<1>::default()),
        _ => Service::new(|_slot| Mesh::<2>::default()),
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, workers, control, pid_file, version @ ..] = arguments.as_slice() else {
        return Err(std::io::Error::other("mesh ADDRESS WORKERS CONTROL PID_FILE [VERSION]"));
    };
    let version = version.first().map_or("1", String::as_str);
    let times = Timeouts::default();
    let settings = Settings {
        listen: vec![listen.parse::<std::net::SocketAddr>().map_err(std::io::Error::other)?.into()],
        workers: workers.parse().map_err(std::io::Error::other)?,
        control: Control::At(control.into()),
        pid_file: Some(pid_file.into()),
        handover: if number("MESH_ADOPT", 0) > 0 { Handover::Adopt } else { Handover::Auto },
        limits: Limits { outbound_bytes_high: 64 << 20, ..Limits::default() },
        timeouts: Timeouts {
            idle_ms: 0,
            message_ms: 0,
            settle_ms: number("MESH_SETTLE_MS", 20),
            hang_ms: number("MESH_HANG_MS", times.hang_ms),
            ..times
        },
        ..Settings::default()
    };
    let server = Server::builder().settings(settings.clone()).build().map_err(std::io::Error::other)?;
    server.run_with_reload(service(version), || Ok((settings.clone(), service(version)))).map_err(std::io::Error::other)
}
