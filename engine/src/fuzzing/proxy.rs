//! The header that a proxy sends first.

use crate::context::Io;
use crate::protocol::Protocol;
use crate::proxy::{PROXY_HEADER_BYTES_MAX, ProxyHeader};
use crate::testing::{Client, Harness};
use crate::types::{CloseReason, Peer, Reject, Step};

/// Stores what it receives.
#[derive(Default)]
struct Heard {
    header: Option<ProxyHeader>,
    input: Vec<u8>,
}

impl Protocol for Heard {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, peer: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        let header = peer.proxy().expect("it came from a proxy");
        assert!(self.header.replace(header.clone()).is_none(), "opened twice");
        let address = peer.address().expect("known");
        assert!(header.source().is_none_or(|source| source == address));
        assert!(header.tlvs().map(|(_, value)| 3 + value.len()).sum::<usize>() < header.as_bytes().len());
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], _: &mut Io<'_>) -> Step {
        self.input.extend_from_slice(input);
        Step::more(input.len())
    }
}

fn told(harness: &mut Harness<Heard>, client: Client) -> (Option<ProxyHeader>, Vec<u8>, Option<CloseReason>) {
    let closed = harness.closed(client);
    let Heard { header, input } = harness.protocol();
    (header.clone(), input.clone(), closed)
}

/// Any bytes that a proxy may send, in parts as long as the first byte says. However they are split, the protocol gets
/// a header and everything after it, or nothing.
///
/// # Panics
/// If it does not.
pub fn proxy_header(data: &[u8]) {
    let Some((part_bytes, sent)) = data.split_first() else { return };
    let harness = || {
        let mut harness = Harness::new(Heard::default());
        let client = harness.open_proxied();
        (harness, client)
    };
    let (mut at_once, client) = harness();
    at_once.send(client, sent);
    let expected = told(&mut at_once, client);
    let (mut in_parts, client) = harness();
    sent.chunks(usize::from(*part_bytes).max(1)).for_each(|part| in_parts.send(client, part));
    assert_eq!(told(&mut in_parts, client), expected, "it matters how it is cut");
    match expected {
        (Some(header), input, closed) => {
            assert_eq!([header.as_bytes(), &input].concat(), sent, "not all was heard");
            assert!(header.as_bytes().len() <= PROXY_HEADER_BYTES_MAX && closed.is_none());
            assert_eq!(ProxyHeader::whole(header.as_bytes()), Ok(header));
        }
        (None, input, closed) => {
            assert!(input.is_empty(), "heard without a header");
            assert!(closed.is_some() || sent.len() < PROXY_HEADER_BYTES_MAX, "waits for ever more");
        }
    }
}
