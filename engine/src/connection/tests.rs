//! What the state machine guarantees to its driver, beyond what the harness shows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Connection, Host, Received};
use crate::config::{Limits, Timeouts};
use crate::context::{Context, Io, Nobody};
use crate::protocol::Protocol;
use crate::sys::shared_memory::Shared;
use crate::types::{CannotFreeze, ConnectionId, Drain, Peer, Reject, StateFormat, Step};

/// Counts how often it gets the order to leave.
#[derive(Default)]
struct Counting {
    drains: usize,
}

impl Protocol for Counting {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], _: &mut Io<'_>) -> Step {
        Step::more(input.len())
    }

    fn on_drain(&mut self, (): &mut (), _: Duration, _: &[u8], _: &mut Io<'_>) -> Drain {
        self.drains += 1;
        Drain::Wait
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "counting", version: 1 });

    fn freeze(&mut self, (): &(), _: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        Ok(())
    }
}

fn opened() -> (Counting, Context, Connection<()>) {
    let page = Arc::new(Shared::new().expect("memory for telemetry"));
    let mut context = Context::new(page, Limits::default(), Timeouts::default(), 1_000_000_000);
    let mut protocol = Counting::default();
    let mut connection = Connection::new(ConnectionId { slot: 0, generation: 0 }, context.now_ns);
    let ends = (SocketAddr::from(([127, 0, 0, 1], 40_000)), SocketAddr::from(([127, 0, 0, 1], 80)));
    let peer = Peer { token: None, ends: &ends, proxy: None, secured: None };
    connection.open(&mut Host::new(&mut protocol, &mut Nobody), &mut context, peer);
    connection.receive(&mut Host::new(&mut protocol, &mut Nobody), &mut context, Received::Bytes(b"input"), false);
    (protocol, context, connection)
}

#[test]
fn a_connection_is_told_once_that_its_worker_leaves() {
    let (mut protocol, mut context, mut connection) = opened();
    for _ in 0..3 {
        connection.drain(&mut Host::new(&mut protocol, &mut Nobody), &mut context, Duration::ZERO);
    }
    assert_eq!(protocol.drains, 1);
}

/// Every idle connection needs each of these bytes.
#[test]
fn a_connection_stays_small() {
    assert!(size_of::<Connection<()>>() <= 160);
}

#[test]
fn a_frozen_connection_is_told_where_it_goes_on() {
    let (mut protocol, mut context, mut connection) = opened();
    let frozen = connection.freeze(&mut protocol, &mut context).expect("it freezes");
    connection.drain(&mut Host::new(&mut protocol, &mut Nobody), &mut context, Duration::ZERO);
    assert_eq!(protocol.drains, 0, "nothing happens to it now");
    connection.resume(&mut context, &frozen.standing);
    connection.drain(&mut Host::new(&mut protocol, &mut Nobody), &mut context, Duration::ZERO);
    assert_eq!(protocol.drains, 1);
}
