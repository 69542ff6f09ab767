//! TLS as a layer of outbound connections, with rustls as the server: in the harness, where input arrives in any parts
//! and connections move at any time.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use baton::testing::{Client, Harness};
use baton::{CannotFreeze, CloseReason, Io, Peer, Protocol, Reject, StateFormat, Step, Target, ThawError, Worker};
use baton_tls::accept;
use baton_tls::connect::Config;
use baton_tls::layer::{Tls, TlsClient};
use baton_tls::record::Limits;
use baton_tls::state::Negotiated;
use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, date_time_ymd};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig, ServerConnection};

const TOKEN: u64 = 7;

/// Connects to a server, perhaps with a layer, when it gets a message, and answers each line with its number and the
/// line.
#[derive(Default)]
struct Lines {
    failures: Vec<(u64, ErrorKind)>,
}

impl Protocol for Lines {
    type Connection = u64;
    type Message = Option<&'static str>;

    const STATE: Option<StateFormat> = Some(StateFormat { name: "lines", version: 1 });

    fn on_message(&mut self, server_name: Self::Message, worker: &mut Worker<'_, Self::Message>) {
        let target = Target::new(SocketAddr::from(([192, 0, 2, 7], 443)));
        worker.connect(server_name.map_or(target.clone(), |name| target.with_layer("upstream", name)), TOKEN);
    }

    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<u64, Reject> {
        assert_eq!(peer.outbound_token(), Some(TOKEN));
        if let Some(negotiated) = peer.secured::<Negotiated>() {
            assert!(negotiated.peer_certificate.is_some());
            assert_eq!(negotiated.server_name.as_deref(), Some("localhost"));
        }
        io.write(b"hello\n");
        Ok(0)
    }

    fn on_data(&mut self, count: &mut u64, input: &[u8], io: &mut Io<'_>) -> Step {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Step::at_least(0, input.len() + 1) };
        *count += 1;
        io.write(format!("{count} ").as_bytes());
        io.write_input(&input[..=end]);
        if input.len() > end + 1 { Step::yield_now(end + 1) } else { Step::more(end + 1) }
    }

    fn on_connect_failed(&mut self, token: u64, error: std::io::Error, _: &mut Worker<'_, Self::Message>) {
        self.failures.push((token, error.kind()));
    }

    fn freeze(&mut self, count: &u64, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        state.extend_from_slice(&count.to_le_bytes());
        Ok(())
    }

    fn thaw(&mut self, _: u32, state: &[u8], _: Peer<'_>, _: &mut Io<'_>) -> Result<u64, ThawError> {
        Ok(u64::from_le_bytes(state.try_into().map_err(|_| ThawError::Malformed)?))
    }
}

/// A rustls server, and a worker that has connected to it.
struct Rig {
    harness: Harness<Lines>,
    client: Client,
    server: ServerConnection,
    /// Plaintext that the server has received.
    got: Vec<u8>,
    /// The error that ended its reading.
    failure: Option<rustls::Error>,
}

struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

fn identity(change: impl Fn(&mut CertificateParams)) -> Identity {
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    change(&mut params);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate").into();
    Identity { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
}

fn server_config(identity: &Identity, tickets: usize) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        .expect("a certificate");
    config.send_tls13_tickets = tickets;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(100);
    Arc::new(config)
}

fn trusting(identity: &Identity) -> Config {
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate.clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Config::new(config, Limits::default())
}

impl Rig {
    fn new(tickets: usize) -> Self {
        let identity = identity(|_| {});
        Self::with(&identity, &trusting(&identity), "localhost", tickets)
    }

    fn with(identity: &Identity, config: &Config, server_name: &'static str, tickets: usize) -> Self {
        let mut harness = Harness::new(Lines::default());
        harness.add_outbound_layer("upstream", TlsClient::new(config.clone()));
        harness.message(Some(server_name));
        let client = harness.accept_outbound();
        let mut server = ServerConnection::new(server_config(identity, tickets)).expect("a server");
        server.set_buffer_limit(None);
        Self { harness, client, server, got: Vec::new(), failure: None }
    }

    /// Passes the server's output on in parts of this many bytes; calls `between` after each.
    fn exchange(&mut self, part_bytes: usize, mut between: impl FnMut(&mut Self)) {
        loop {
            let answer = self.harness.take_output(self.client);
            let mut rest = &answer[..];
            while !rest.is_empty() && self.failure.is_none() {
                self.server.read_tls(&mut rest).expect("from memory");
                self.failure = self.server.process_new_packets().err();
                // It ends with `WouldBlock`.
                let _ = self.server.reader().read_to_end(&mut self.got);
            }
            let mut sent = Vec::new();
            while self.server.wants_write() {
                self.server.write_tls(&mut sent).expect("into memory");
            }
            for part in sent.chunks(part_bytes) {
                self.harness.send(self.client, part);
                between(self);
            }
            if sent.is_empty() && answer.is_empty() {
                return;
            }
        }
    }

    fn say(&mut self, text: &[u8]) {
        self.server.writer().write_all(text).expect("into memory");
    }

    fn failures(&mut self) -> Vec<(u64, ErrorKind)> {
        self.harness.protocol().failures.clone()
    }
}

#[test]
fn a_protocol_speaks_with_a_server_however_its_answers_are_cut() {
    for part_bytes in [1, 2, 3, 5, 21, 22, 64, 1000, usize::MAX] {
        let mut rig = Rig::new(2);
        rig.exchange(part_bytes, |_| {});
        rig.say(b"one\ntwo\nthr");
        rig.exchange(part_bytes, |_| {});
        rig.say(b"ee\n");
        rig.exchange(part_bytes, |_| {});
        assert_eq!(String::from_utf8_lossy(&rig.got), "hello\n1 one\n2 two\n3 three\n", "{part_bytes}");
        rig.server.send_close_notify();
        rig.exchange(part_bytes, |_| {});
        rig.harness.finish(rig.client);
        assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Peer), "{part_bytes}");
    }
}

#[test]
fn a_connection_moves_anywhere_behind_its_handshake() {
    for part_bytes in [1, 3, 22, 100] {
        let mut rig = Rig::new(2);
        let hand_over = |rig: &mut Rig| rig.harness.hand_over(Lines::default());
        // It stays for its handshake, and moves when that is over, even in the middle of a ticket.
        rig.exchange(part_bytes, hand_over);
        assert!(rig.harness.is_served(rig.client), "{part_bytes}");
        rig.say(b"one\ntwo\nthr");
        rig.exchange(part_bytes, hand_over);
        rig.server.refresh_traffic_keys().expect("a KeyUpdate");
        rig.say(b"ee\nfour\n");
        rig.exchange(part_bytes, hand_over);
        assert_eq!(String::from_utf8_lossy(&rig.got), "hello\n1 one\n2 two\n3 three\n4 four\n", "{part_bytes}");
    }
}

#[test]
fn a_server_that_cannot_be_trusted_gets_its_alert_and_the_protocol_its_token() {
    let good = identity(|_| {});
    let other = identity(|params| params.distinguished_name.push(DnType::CommonName, "another one"));
    let expired = identity(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let trusts_good = trusting(&good);
    let cases = [
        (&good, &trusts_good, "example.com", AlertDescription::BadCertificate),
        (&good, &trusts_good, "192.0.2.7", AlertDescription::BadCertificate),
        (&other, &trusts_good, "localhost", AlertDescription::UnknownCA),
        (&expired, &trusting(&expired), "localhost", AlertDescription::CertificateExpired),
    ];
    for (identity, config, server_name, alert) in cases {
        let mut rig = Rig::with(identity, config, server_name, 2);
        rig.exchange(usize::MAX, |_| {});
        assert_eq!(rig.failure, Some(rustls::Error::AlertReceived(alert)), "{server_name}");
        assert_eq!(rig.got, b"", "the protocol has not seen it");
        rig.harness.finish(rig.client);
        assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Handshake));
        assert_eq!(rig.failures(), [(TOKEN, ErrorKind::ConnectionAborted)]);
    }
}

#[test]
fn a_server_without_tls_and_one_that_says_nothing_are_left() {
    let mut rig = Rig::new(0);
    rig.harness.take_output(rig.client);
    rig.harness.send(rig.client, b"220 mail.example.com\r\n");
    let alert = rig.harness.take_output(rig.client);
    assert!(matches!(alert[..], [21, 3, _, 0, 2, 2, _]), "{alert:?}");
    rig.harness.finish(rig.client);
    assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Handshake));
    assert_eq!(rig.failures(), [(TOKEN, ErrorKind::ConnectionAborted)]);

    let mut rig = Rig::new(0);
    rig.harness.advance(Duration::from_millis(10_002));
    assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Handshake));
    assert_eq!(rig.failures(), [(TOKEN, ErrorKind::ConnectionAborted)]);

    let mut rig = Rig::new(0);
    rig.harness.reset(rig.client);
    assert_eq!(rig.failures(), [(TOKEN, ErrorKind::ConnectionReset)]);
}

#[test]
fn nobody_is_connected_to_through_a_layer_that_is_not_there_or_to_a_name_that_is_none() {
    let mut harness = Harness::new(Lines::default());
    harness.message(Some("localhost"));
    harness.add_outbound_layer("upstream", TlsClient::new(trusting(&identity(|_| {}))));
    harness.message(Some("not a name"));
    assert_eq!(harness.outbound(), []);
    assert_eq!(harness.protocol().failures, [(TOKEN, ErrorKind::NotFound), (TOKEN, ErrorKind::InvalidInput)]);
}

#[test]
fn a_fin_without_close_notify_is_a_truncation() {
    let mut rig = Rig::new(2);
    rig.exchange(usize::MAX, |_| {});
    rig.say(b"half");
    rig.exchange(usize::MAX, |_| {});
    rig.harness.finish(rig.client);
    assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Truncated));
}

#[test]
fn a_layer_for_listeners_refuses_the_session_of_an_outbound_connection() {
    let mut rig = Rig::new(0);
    rig.exchange(usize::MAX, |_| {});
    let config = Arc::unwrap_or_clone(server_config(&identity(|_| {}), 0));
    rig.harness.add_outbound_layer("upstream", Tls::new(accept::Config::new(config, Limits::default())));
    let moved = rig.harness.hand_over_to(Lines::default()).map(|_| ());
    assert_eq!(moved, Err(ThawError::Malformed));
}

/// An event of a connection.
#[derive(Clone, Debug)]
enum Event {
    /// The server sends lines of these lengths; the last one may have no end.
    Say(Vec<u16>, bool),
    /// From now on it sends this many bytes at a time.
    Cut(usize),
    /// It reads this many further bytes.
    Take(usize),
    ChangeKeys,
    HandOver,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (prop::collection::vec(0..20_000u16, 0..4), any::<bool>())
            .prop_map(|(lines, is_whole)| Event::Say(lines, is_whole)),
        prop_oneof![1..50usize, Just(20_000)].prop_map(Event::Cut),
        (0..40_000usize).prop_map(Event::Take),
        Just(Event::ChangeKeys),
        Just(Event::HandOver),
    ]
}

fn lines(lengths: &[u16], is_whole: bool) -> Vec<u8> {
    let mut text: Vec<u8> =
        lengths.iter().flat_map(|length| (0..*length).map(|index| b'a' + (index % 26) as u8).chain([b'\n'])).collect();
    if !is_whole {
        text.pop();
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A server with TLS gets the same bytes as one without.
    #[test]
    fn a_protocol_says_the_same_through_tls(
        tickets in 0..4usize,
        first_part_bytes in prop_oneof![1..50usize, Just(20_000)],
        events in prop::collection::vec(event(), 1..30),
    ) {
        let mut rig = Rig::new(tickets);
        let (mut plain, mut expected) = (Harness::new(Lines::default()), Vec::new());
        plain.message(None);
        let client = plain.accept_outbound();
        let mut part_bytes = first_part_bytes;
        rig.exchange(part_bytes, |_| {});
        for event in events {
            match event {
                Event::Say(lengths, is_whole) => {
                    let text = lines(&lengths, is_whole);
                    rig.say(&text);
                    plain.send(client, &text);
                }
                Event::Cut(bytes) => part_bytes = bytes,
                Event::Take(bytes) => rig.harness.set_window(rig.client, Some(bytes)),
                Event::ChangeKeys => rig.server.refresh_traffic_keys().expect("a KeyUpdate"),
                Event::HandOver => rig.harness.hand_over(Lines::default()),
            }
            rig.exchange(part_bytes, |_| {});
            prop_assert!(rig.failure.is_none(), "{:?}", rig.failure);
            expected.extend(plain.take_output(client));
            prop_assert!(expected.starts_with(&rig.got[..rig.got.len().min(expected.len())]));
        }
        rig.harness.set_window(rig.client, None);
        rig.exchange(part_bytes, |_| {});
        prop_assert!(rig.got == expected);
    }
}
