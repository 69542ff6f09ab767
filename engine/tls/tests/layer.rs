//! TLS as a layer of the engine, with rustls as the client: in the harness, where input arrives in any parts and
//! connections move at any time.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use baton::layer::SharedLayers;
use baton::testing::{Client, Harness};
use baton::{CannotFreeze, CloseReason, ConnectionId, Io, Next, Peer, Protocol, Reject, StateFormat, Step, ThawError};
use baton_tls::accept::Config;
use baton_tls::layer::Tls;
use baton_tls::record::Limits;
use baton_tls::state::Negotiated;
use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};

/// Answers each line with the number of the line and the line.
#[derive(Default)]
struct Lines;

impl Protocol for Lines {
    type Connection = u64;
    type Message = ();

    const STATE: Option<StateFormat> = Some(StateFormat { name: "lines", version: 1 });

    fn on_open(&mut self, peer: Peer<'_>, io: &mut Io<'_>) -> Result<u64, Reject> {
        let name = peer.secured::<Negotiated>().and_then(|negotiated| negotiated.server_name.as_deref());
        io.write(format!("hello {}\n", name.unwrap_or("localhost")).as_bytes());
        Ok(0)
    }

    fn on_data(&mut self, count: &mut u64, input: &[u8], io: &mut Io<'_>) -> Step {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Step::at_least(0, input.len() + 1) };
        *count += 1;
        io.write(format!("{count} ").as_bytes());
        io.write_input(&input[..=end]);
        if input.len() > end + 1 { Step::yield_now(end + 1) } else { Step::more(end + 1) }
    }

    fn freeze(&mut self, count: &u64, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        state.extend_from_slice(&count.to_le_bytes());
        Ok(())
    }

    fn thaw(&mut self, _: u32, state: &[u8], peer: Peer<'_>, _: &mut Io<'_>) -> Result<u64, ThawError> {
        assert_eq!(peer.secured::<Negotiated>().and_then(|one| one.server_name.as_deref()), Some("localhost"));
        Ok(u64::from_le_bytes(state.try_into().map_err(|_| ThawError::Malformed)?))
    }
}

/// Passes what it receives on to all others as well, between a word for itself before and after.
#[derive(Default)]
struct Party(Vec<ConnectionId>);

impl Protocol for Party {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, io: &mut Io<'_>) -> Result<(), Reject> {
        self.0.push(io.id());
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        let id = io.id();
        io.write(b"<");
        for other in self.0.iter().filter(|other| **other != id) {
            let told = io.with(*other, |(): &mut (), io| {
                io.write(input);
                Next::Keep
            });
            assert_eq!(told, Ok(()));
            io.write(b".");
        }
        io.write(b">");
        Step::more(input.len())
    }
}

#[test]
fn those_with_and_without_tls_act_on_each_other() {
    VERSIONS.into_iter().for_each(act_on_each_other);
}

fn act_on_each_other(version: &'static SupportedProtocolVersion) {
    let mut rig = Rig::with(Party::default(), version, Limits::default());
    let plain = rig.harness.open();
    let also_plain = rig.harness.open();
    rig.exchange(usize::MAX, |_| {});
    rig.say(b"a");
    rig.exchange(usize::MAX, |_| {});
    rig.harness.send(plain, b"b");
    rig.exchange(usize::MAX, |_| {});
    let outputs = [plain, also_plain].map(|client| rig.harness.take_output(client));
    assert_eq!(outputs, [b"a<..>".to_vec(), b"ab".to_vec()]);
    assert_eq!(rig.got, b"<..>b");
}

struct Rig<P: Protocol = Lines> {
    harness: Harness<P>,
    client: Client,
    tls: ClientConnection,
    /// Plaintext that the client has received.
    got: Vec<u8>,
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A server of both versions, and a client of this one.
fn configs(version: &'static SupportedProtocolVersion) -> (ServerConfig, Arc<ClientConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let certificate: CertificateDer<'static> = made.cert.into();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, Arc::new(client))
}

impl Rig {
    fn new() -> Self {
        Self::of(&TLS13)
    }

    fn of(version: &'static SupportedProtocolVersion) -> Self {
        Self::with(Lines, version, Limits::default())
    }
}

impl<P: Protocol> Rig<P> {
    fn with(protocol: P, version: &'static SupportedProtocolVersion, limits: Limits) -> Self {
        let (server, client) = configs(version);
        let layers = SharedLayers::new(Tls::new(Config::new(server, limits)));
        let name = ServerName::try_from("localhost").expect("a name");
        let mut tls = ClientConnection::new(client, name).expect("a client");
        tls.set_buffer_limit(None);
        let mut harness = Harness::new(protocol);
        let client = harness.open_layered(&layers);
        Self { harness, client, tls, got: Vec::new() }
    }

    /// Passes the client's output on in parts of this many bytes; calls `between` after each.
    fn exchange(&mut self, part_bytes: usize, mut between: impl FnMut(&mut Self)) {
        loop {
            let mut sent = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut sent).expect("into memory");
            }
            for part in sent.chunks(part_bytes) {
                self.harness.send(self.client, part);
                between(self);
            }
            let answer = self.harness.take_output(self.client);
            if sent.is_empty() && answer.is_empty() {
                return;
            }
            let mut rest = &answer[..];
            while !rest.is_empty() {
                self.tls.read_tls(&mut rest).expect("from memory");
                self.tls.process_new_packets().expect("records");
                // It ends with `WouldBlock`.
                let _ = self.tls.reader().read_to_end(&mut self.got);
            }
        }
    }

    /// TLS 1.2 has no KeyUpdate.
    fn change_keys(&mut self) {
        if self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
            self.tls.refresh_traffic_keys().expect("a KeyUpdate");
        }
    }

    fn say(&mut self, text: &[u8]) {
        self.tls.writer().write_all(text).expect("into memory");
    }
}

#[test]
fn a_protocol_behind_tls_hears_what_was_said_however_it_is_cut() {
    let all = [1, 2, 3, 5, 7, 21, 22, 64, 1000, usize::MAX];
    for (part_bytes, version) in all.into_iter().flat_map(|part_bytes| VERSIONS.map(|version| (part_bytes, version))) {
        let mut rig = Rig::of(version);
        rig.exchange(part_bytes, |_| {});
        rig.say(b"one\ntwo\nthr");
        rig.exchange(part_bytes, |_| {});
        rig.say(b"ee\n");
        rig.exchange(part_bytes, |_| {});
        assert_eq!(String::from_utf8_lossy(&rig.got), "hello localhost\n1 one\n2 two\n3 three\n", "{part_bytes}");
        rig.tls.send_close_notify();
        rig.exchange(part_bytes, |_| {});
        assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Peer), "{part_bytes}");
    }
}

#[test]
fn a_connection_moves_anywhere_in_its_handshake_and_records() {
    for (part_bytes, version) in [1, 3, 22, 100].into_iter().flat_map(|bytes| VERSIONS.map(|version| (bytes, version)))
    {
        let mut rig = Rig::of(version);
        let hand_over = |rig: &mut Rig| rig.harness.hand_over(Lines);
        rig.exchange(part_bytes, hand_over);
        rig.say(b"one\ntwo\nthr");
        rig.exchange(part_bytes, hand_over);
        rig.change_keys();
        rig.say(b"ee\nfour\n");
        rig.exchange(part_bytes, hand_over);
        let expected = "hello localhost\n1 one\n2 two\n3 three\n4 four\n";
        assert_eq!(String::from_utf8_lossy(&rig.got), expected, "{part_bytes}");
    }
}

/// An event of a connection.
#[derive(Clone, Debug)]
enum Event {
    /// The client sends lines of these lengths; the last one may have no end.
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
    let line = |length: &u16| (0..*length).map(|index| b'a' + (index % 26) as u8).chain([b'\n']).collect::<Vec<u8>>();
    let mut text: Vec<u8> = lengths.iter().flat_map(line).collect();
    if !is_whole {
        text.pop();
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A client with TLS gets the same bytes as a plain client.
    #[test]
    fn a_protocol_says_the_same_behind_tls(
        version in prop::sample::select(VERSIONS.to_vec()),
        events in prop::collection::vec(event(), 1..30),
    ) {
        let mut rig = Rig::of(version);
        let (mut plain, mut expected) = (Harness::new(Lines), Vec::new());
        let client = plain.open();
        let mut part_bytes = usize::MAX;
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
                Event::ChangeKeys => rig.change_keys(),
                Event::HandOver => rig.harness.hand_over(Lines),
            }
            rig.exchange(part_bytes, |_| {});
            expected.extend(plain.take_output(client));
            prop_assert!(expected.starts_with(&rig.got[..rig.got.len().min(expected.len())]));
        }
        rig.harness.set_window(rig.client, None);
        rig.exchange(part_bytes, |_| {});
        prop_assert!(rig.got == expected);
    }
}

#[test]
fn a_large_answer_goes_out_whole_to_a_client_that_takes_little() {
    VERSIONS.into_iter().for_each(answer_at_large);
}

fn answer_at_large(version: &'static SupportedProtocolVersion) {
    let mut rig = Rig::of(version);
    rig.exchange(usize::MAX, |_| {});
    let line = vec![b'x'; 300_000];
    rig.say(&line);
    rig.say(b"\n");
    rig.exchange(usize::MAX, |_| {});
    rig.harness.set_window(rig.client, Some(1000));
    rig.say(b"y\n");
    rig.exchange(usize::MAX, |_| {});
    rig.harness.set_window(rig.client, None);
    rig.exchange(usize::MAX, |_| {});
    assert_eq!(rig.got.len(), "hello localhost\n1 \n2 y\n".len() + line.len());
}

#[test]
fn who_speaks_no_tls_hears_an_alert() {
    let mut rig = Rig::new();
    rig.harness.send(rig.client, b"GET / HTTP/1.1\r\n\r\n");
    let alert = rig.harness.take_output(rig.client);
    assert!(matches!(alert[..], [21, 3, _, 0, 2, 2, _]), "{alert:?}");
    assert!(rig.harness.saw_end(rig.client));
    rig.harness.finish(rig.client);
    assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Handshake));
}

#[test]
fn a_record_that_does_not_authenticate_ends_the_connection_with_its_alert() {
    VERSIONS.into_iter().for_each(send_what_does_not_authenticate);
}

fn send_what_does_not_authenticate(version: &'static SupportedProtocolVersion) {
    let mut rig = Rig::of(version);
    rig.exchange(usize::MAX, |_| {});
    rig.harness.send(rig.client, &[&[23, 3, 3, 0, 40][..], &[7; 40]].concat());
    let answer = rig.harness.take_output(rig.client);
    rig.tls.read_tls(&mut &answer[..]).expect("from memory");
    let error = rig.tls.process_new_packets().expect_err("an alert");
    assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
    rig.harness.finish(rig.client);
    assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Record));
}

#[test]
fn a_fin_without_close_notify_is_a_truncation() {
    VERSIONS.into_iter().for_each(cut_short);
}

fn cut_short(version: &'static SupportedProtocolVersion) {
    let mut rig = Rig::of(version);
    rig.exchange(usize::MAX, |_| {});
    rig.say(b"half");
    rig.exchange(usize::MAX, |_| {});
    rig.harness.finish(rig.client);
    assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Truncated));
}

#[test]
fn a_handshake_has_its_time() {
    let mut rig = Rig::new();
    rig.harness.send(rig.client, &[22, 3, 1]);
    rig.harness.advance(Duration::from_millis(10_002));
    assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Handshake));
}

#[test]
fn a_connection_of_tls_1_2_ends_in_good_order_before_its_key_is_spent() {
    let limits = Limits { records_per_key_max: Some(10), ..Limits::default() };
    let mut rig = Rig::with(Lines, &TLS12, limits);
    rig.exchange(usize::MAX, |_| {});
    // Finished and the greeting were two records; each line is another one.
    for line in 1..=8 {
        assert_eq!(rig.harness.closed(rig.client), None, "{line}");
        rig.say(b"x\n");
        rig.exchange(usize::MAX, |_| {});
    }
    // The protocol learns of it when the next input is opened, and closes after its answer.
    rig.say(b"last\n");
    rig.exchange(usize::MAX, |_| {});
    assert!(rig.got.ends_with(b"8 x\n9 last\n"), "{}", String::from_utf8_lossy(&rig.got));
    assert!(rig.tls.process_new_packets().expect("records").peer_has_closed());
    rig.harness.finish(rig.client);
    assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Drained));
}

#[test]
fn an_answer_that_the_key_cannot_seal_ends_the_connection_with_an_alert() {
    let limits = Limits { records_per_key_max: Some(5), plaintext_bytes_max: 100, ..Limits::default() };
    let mut rig = Rig::with(Lines, &TLS12, limits);
    rig.exchange(usize::MAX, |_| {});
    rig.say(&[&[b'x'; 5000][..], b"\n"].concat());
    let mut sent = Vec::new();
    while rig.tls.wants_write() {
        rig.tls.write_tls(&mut sent).expect("into memory");
    }
    rig.harness.send(rig.client, &sent);
    let answer = rig.harness.take_output(rig.client);
    let mut rest = &answer[..];
    rig.tls.read_tls(&mut rest).expect("from memory");
    let error = rig.tls.process_new_packets().expect_err("an alert");
    assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::InternalError));
    rig.harness.finish(rig.client);
    assert_eq!(rig.harness.closed(rig.client), Some(CloseReason::Record));
}
