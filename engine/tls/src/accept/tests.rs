use std::io::Write as _;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::Resumption;
use rustls::crypto::CipherSuiteCommon;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConnection,
    SupportedCipherSuite, Tls12CipherSuite,
};

use super::*;
use crate::fuzzing::rig::{self, HOST, client, feed, rustls_client_config, rustls_server_config, shake, tell};
use crate::record::{Opened, Status, Window};

mod tls12;

fn default_provider() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

fn config_of(rustls: ServerConfig) -> Config {
    Config::new(rustls, Limits::default())
}

fn server() -> Config {
    config_of(rustls_server_config(default_provider()))
}

fn client_of(config: ClientConfig) -> ClientConnection {
    client(&Arc::new(config))
}

fn session_of(progress: Progress) -> (Session, Negotiated) {
    let Progress::Accepted(Accepted::Session(session, negotiated)) = progress else { panic!("{progress:?}") };
    (*session, negotiated)
}

/// All plaintext of `input`, which consists of complete records.
fn opened(session: &mut Session, input: &mut [u8]) -> Vec<u8> {
    let mut window = Window::default();
    assert_eq!(session.open_all(input, &mut window), Ok(Status::Incomplete { at_least: HEADER_BYTES }));
    assert_eq!(window.records, input.len());
    input[window.plaintext].to_vec()
}

/// Both sides write, and read what the other has written.
fn speak(session: &mut Session, client: &mut ClientConnection) {
    client.writer().write_all(b"ping").expect("buffered");
    let (mut sent, mut answer) = (Vec::new(), Vec::new());
    while client.wants_write() {
        client.write_tls(&mut sent).expect("into memory");
    }
    assert_eq!(opened(session, &mut sent), b"ping");
    session.seal_into(b"pong", &mut answer).expect("open");
    assert_eq!(tell(client, &answer).expect("good records"), b"pong");
}

#[test]
fn handshakes_come_in_any_parts() {
    for suite in Suite::TLS13 {
        for part in [1, 2, 3, 5, 6, 64, 500, usize::MAX] {
            let mut client = client(&rig::client_config(suite));
            let (progress, rest) = shake(rig::server_config(suite), &mut client, part);
            let (mut session, negotiated) = session_of(progress);
            assert_eq!((session.suite(), &rest[..]), (suite, &b""[..]));
            assert_eq!(negotiated.alpn.as_deref(), Some(&b"http/1.1"[..]));
            assert_eq!(negotiated.server_name.as_deref(), Some(HOST));
            assert!(!negotiated.is_resumed && negotiated.peer_certificate.is_none());
            speak(&mut session, &mut client);
        }
    }
}

#[test]
fn what_follows_the_finished_message_in_its_flight_is_the_sessions() {
    for tickets in [0, 1, 3] {
        for part in [1, usize::MAX] {
            let mut config = rustls_server_config(default_provider());
            config.send_tls13_tickets = tickets;
            let config = config_of(config);
            let mut client = client_of(rustls_client_config(default_provider()));
            // rustls keeps it until the handshake is over.
            client.writer().write_all(b"with Finished").expect("buffered");
            let (progress, mut rest) = shake(&config, &mut client, part);
            let (mut session, _) = session_of(progress);
            assert_eq!(opened(&mut session, &mut rest), b"with Finished");
            speak(&mut session, &mut client);
        }
    }
}

#[test]
fn key_updates_follow_the_finished_message_in_its_flight() {
    let mut client = client_of(rustls_client_config(default_provider()));
    let config = server();
    // Without `shake`, so that the client's last flight can be made longer.
    let (mut input, mut output) = (Vec::new(), Vec::new());
    client.write_tls(&mut input).expect("into memory");
    let (consumed, progress) = config.begin().expect("a handshake").advance(&mut input, &mut output);
    let Progress::Incomplete(handshake) = progress else { panic!("{progress:?}") };
    assert_eq!(consumed, input.len());
    input.clear();
    tell(&mut client, &output).expect("a handshake");
    for _ in 0..3 {
        client.refresh_traffic_keys().expect("TLS 1.3");
        client.writer().write_all(b"updated ").expect("buffered");
    }
    while client.wants_write() {
        client.write_tls(&mut input).expect("into memory");
    }
    let (consumed, progress) = handshake.advance(&mut input, &mut output);
    let (mut session, _) = session_of(progress);
    assert_eq!(opened(&mut session, &mut input[consumed..]), b"updated updated updated ");
    speak(&mut session, &mut client);
}

#[test]
fn tickets_resume_sessions() {
    let mut config = rustls_server_config(default_provider());
    config.send_tls13_tickets = 2;
    let config = config_of(config);
    let mut of_client = rustls_client_config(default_provider());
    of_client.resumption = Resumption::in_memory_sessions(8);
    let of_client = Arc::new(of_client);
    for is_resumed in [false, true, true] {
        let mut client = client(&of_client);
        let (progress, _) = shake(&config, &mut client, usize::MAX);
        let (mut session, negotiated) = session_of(progress);
        assert_eq!(negotiated.is_resumed, is_resumed);
        assert_eq!(negotiated.server_name.as_deref(), Some(HOST));
        speak(&mut session, &mut client);
    }
}

/// A server that refuses early data, and a client that sends some: it has a ticket of a server that accepts it.
fn with_refused_early_data(try_it: impl Fn(&Config, ClientConnection)) {
    let sessions = ServerSessionMemoryCache::new(8);
    let configs = [1 << 14, 0].map(|early_bytes| {
        let mut config = rustls_server_config(default_provider());
        config.session_storage = sessions.clone();
        config.send_tls13_tickets = 1;
        config.max_early_data_size = early_bytes;
        config
    });
    let [takes, refuses] = configs;
    let mut of_client = rustls_client_config(default_provider());
    of_client.resumption = Resumption::in_memory_sessions(8);
    of_client.enable_early_data = true;
    let of_client = Arc::new(of_client);
    let mut first = client(&of_client);
    let mut server = ServerConnection::new(Arc::new(takes)).expect("a server");
    while first.wants_write() || server.wants_write() {
        let (mut sent, mut answer) = (Vec::new(), Vec::new());
        first.write_tls(&mut sent).expect("into memory");
        feed(&mut server, &sent).expect("a handshake");
        server.write_tls(&mut answer).expect("into memory");
        tell(&mut first, &answer).expect("a handshake");
    }
    try_it(&config_of(refuses), client(&of_client));
}

#[test]
fn refused_early_data_is_skipped() {
    // One record, and many; at most 2^14 bytes, including what encryption adds.
    for (records, bytes) in [(1, 2000), (1, 16_300), (60, 200), (900, 1)] {
        for part in [1, 300, usize::MAX] {
            with_refused_early_data(|refuses, mut client| {
                for _ in 0..records {
                    let mut early_data = client.early_data().expect("the ticket allows it");
                    early_data.write_all(&vec![7; bytes]).expect("buffered");
                }
                let (progress, rest) = shake(refuses, &mut client, part);
                let (mut session, negotiated) = session_of(progress);
                assert!(!client.is_early_data_accepted() && rest.is_empty());
                assert!(negotiated.is_resumed);
                speak(&mut session, &mut client);
            });
        }
    }
}

#[test]
fn each_record_of_refused_early_data_is_looked_at_once() {
    with_refused_early_data(|refuses, mut client| {
        client.early_data().expect("the ticket allows it").write_all(b"early").expect("buffered");
        let (mut input, mut output) = (Vec::new(), Vec::new());
        client.write_tls(&mut input).expect("into memory");
        // Empty records do not count towards the limit of skipped bytes.
        input.extend_from_slice(&[23, 3, 3, 0, 0].repeat(1000));
        let (consumed, progress) = refuses.begin().expect("a handshake").advance(&mut input, &mut output);
        assert_eq!(consumed, input.len(), "nothing is kept, to be tried again with what follows");
        let Progress::Incomplete(handshake) = progress else { panic!("{progress:?}") };
        tell(&mut client, &output).expect("a handshake");
        (input, output) = Default::default();
        client.write_tls(&mut input).expect("into memory");
        let (mut session, _) = session_of(handshake.advance(&mut input, &mut output).1);
        tell(&mut client, &output).expect("a ticket");
        speak(&mut session, &mut client);
    });
}

#[test]
fn a_client_without_a_fitting_key_share_is_asked_for_one() {
    for part in [1, usize::MAX] {
        let mut only = provider::default_provider();
        only.kx_groups = vec![provider::kx_group::SECP384R1];
        let config = config_of(rustls_server_config(Arc::new(only)));
        let mut client = client_of(rustls_client_config(default_provider()));
        let (mut session, _) = session_of(shake(&config, &mut client, part).0);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
        speak(&mut session, &mut client);
    }
}

#[test]
fn what_the_client_does_not_say_is_not_known() {
    let mut of_client = rustls_client_config(default_provider());
    of_client.enable_sni = false;
    of_client.alpn_protocols.clear();
    let mut client = client_of(of_client);
    let (mut session, negotiated) = session_of(shake(&server(), &mut client, usize::MAX).0);
    assert_eq!(negotiated, Negotiated::default());
    speak(&mut session, &mut client);
}

#[test]
fn a_clients_certificate_is_known_by_its_digest() {
    let made = rcgen::generate_simple_self_signed(["somebody".to_owned()]).expect("a certificate");
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), default_provider()).build();
    let mut config = rustls_server_config(default_provider());
    let resolver = Arc::clone(&config.cert_resolver);
    config = ServerConfig::builder_with_provider(default_provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_cert_resolver(resolver);
    let mut of_client = rustls_client_config(default_provider());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let provider = default_provider();
    let key = provider.key_provider.load_private_key(key).expect("a key");
    let identity = rustls::sign::SingleCertAndKey::from(CertifiedKey::new(vec![certificate.clone()], key));
    of_client.client_auth_cert_resolver = Arc::new(identity);
    let mut client = client_of(of_client);
    let (mut session, negotiated) = session_of(shake(&config_of(config.clone()), &mut client, 100).0);
    let sha256 = digest::digest(&digest::SHA256, &certificate).as_ref().try_into().expect("32 bytes");
    assert_eq!(negotiated.peer_certificate, Some(PeerCertificate { sha256, chain_length: 1 }));
    speak(&mut session, &mut client);
    // A client without a certificate is refused, and gets an alert.
    let mut client = client_of(rustls_client_config(default_provider()));
    let (progress, _) = shake(&config_of(config), &mut client, usize::MAX);
    assert!(matches!(progress, Progress::Failed(HandshakeError::Rustls(rustls::Error::NoCertificatesPresented))));
    let told = client.process_new_packets().expect_err("the alert");
    assert_eq!(told, rustls::Error::AlertReceived(AlertDescription::CertificateRequired));
}

#[test]
fn a_connection_of_tls_1_2_is_a_session_too() {
    for suite in rig::SUITES_OF_TLS12 {
        for part in [1, 2, 5, 64, usize::MAX] {
            let mut client = client(&rig::client_config(suite));
            client.writer().write_all(b"with Finished").expect("buffered");
            let (progress, mut rest) = shake(rig::server_config(suite), &mut client, part);
            let (mut session, negotiated) = session_of(progress);
            assert_eq!((session.suite(), negotiated.version), (suite, Version::Tls12));
            assert_eq!(negotiated.server_name.as_deref(), Some(HOST));
            assert_eq!(negotiated.alpn.as_deref(), Some(&b"http/1.1"[..]));
            while client.wants_write() {
                client.write_tls(&mut rest).expect("into memory");
            }
            assert_eq!(opened(&mut session, &mut rest), b"with Finished");
            speak(&mut session, &mut client);
            assert_eq!((session.opening.sequence(), session.sealing.sequence()), (3, 2), "behind each Finished");
        }
    }
}

#[test]
fn a_suite_that_is_not_known_stays_with_rustls() {
    // A number of another suite, so that it is not taken for a known one.
    let SupportedCipherSuite::Tls12(known) = provider::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 else {
        panic!("of TLS 1.2");
    };
    let common = CipherSuiteCommon {
        suite: CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_CCM,
        hash_provider: known.common.hash_provider,
        confidentiality_limit: known.common.confidentiality_limit,
    };
    let (prf_provider, aead_alg) = (known.prf_provider, known.aead_alg);
    let other = Tls12CipherSuite { common, prf_provider, kx: known.kx, sign: known.sign, aead_alg };
    let mut own = provider::default_provider();
    own.cipher_suites = vec![SupportedCipherSuite::Tls12(Box::leak(Box::new(other)))];
    let own = Arc::new(own);
    let mut client = client_of(rustls_client_config(Arc::clone(&own)));
    let (progress, _) = shake(&config_of(rustls_server_config(own)), &mut client, usize::MAX);
    assert!(matches!(progress, Progress::Accepted(Accepted::Rustls(..))), "{progress:?}");
}

#[test]
fn early_data_stays_off_and_secrets_of_another_handshake_are_refused() {
    let mut config = rustls_server_config(default_provider());
    config.max_early_data_size = 100;
    assert_eq!(config_of(config).rustls.max_early_data_size, 0);

    let config = server();
    let mut client = client_of(rustls_client_config(default_provider()));
    let (mut input, mut output) = (Vec::new(), Vec::new());
    client.write_tls(&mut input).expect("into memory");
    let (consumed, progress) = config.begin().expect("a handshake").advance(&mut input, &mut output);
    let Progress::Incomplete(mut handshake) = progress else { panic!("{progress:?}") };
    input.drain(..consumed);
    handshake.told.client_secret = Some(Zeroizing::new(vec![7; 48]));
    tell(&mut client, &output).expect("a handshake");
    client.write_tls(&mut input).expect("into memory");
    let (_, progress) = handshake.advance(&mut input, &mut output);
    assert!(matches!(progress, Progress::Failed(HandshakeError::Secrets)), "{progress:?}");
}

/// The result of a handshake, and its output, when it is fed through rustls's own interface.
fn alone(config: &Config, flight: &[u8]) -> (Result<(), rustls::Error>, Vec<u8>) {
    let mut server = config.rustls_alone();
    let fed = feed(&mut server, flight).map(drop);
    let mut sent = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut sent).expect("into memory");
    }
    (fed, sent)
}

#[test]
fn each_altered_byte_of_a_client_hello_ends_as_with_rustls_alone() {
    let config = server();
    let mut hello = Vec::new();
    client_of(rustls_client_config(default_provider())).write_tls(&mut hello).expect("into memory");
    let (mut failures, mut alerts) = (0, 0);
    for at in 0..hello.len() {
        let mut flight = hello.clone();
        flight[at] ^= [1, 0x80, 0xFF][at % 3];
        let (expected, sent) = alone(&config, &flight);
        let mut output = Vec::new();
        let (_, progress) = config.begin().expect("a handshake").advance(&mut flight, &mut output);
        let ended = match progress {
            Progress::Incomplete(_) => Ok(()),
            Progress::Failed(error) => Err(error),
            Progress::Accepted(_) => unreachable!("nobody has signed anything"),
        };
        failures += usize::from(expected.is_err());
        assert_eq!(ended, expected.clone().map_err(HandshakeError::from), "byte {at}");
        // After a ServerHello it is encrypted.
        if sent.len() == 7 {
            assert_eq!(output, sent, "byte {at}: the same alert");
            alerts += 1;
        }
    }
    assert!(failures > 100 && alerts > 100, "{failures}, {alerts}");
}

#[test]
fn each_altered_byte_of_the_last_flight_ends_as_with_rustls_alone() {
    let config = server();
    // Change of cipher spec, and Finished.
    for at in 0..70 {
        let mut results = Vec::new();
        for is_alone in [true, false] {
            let mut client = client_of(rustls_client_config(default_provider()));
            let (mut flight, mut output) = (Vec::new(), Vec::new());
            client.write_tls(&mut flight).expect("into memory");
            let mut server = config.rustls_alone();
            let handshake = if is_alone {
                feed(&mut server, &flight).expect("a handshake");
                while server.wants_write() {
                    server.write_tls(&mut output).expect("into memory");
                }
                None
            } else {
                match config.begin().expect("a handshake").advance(&mut flight, &mut output) {
                    (_, Progress::Incomplete(handshake)) => Some(handshake),
                    (_, other) => panic!("{other:?}"),
                }
            };
            tell(&mut client, &output).expect("a handshake");
            output.clear();
            flight.clear();
            client.write_tls(&mut flight).expect("into memory");
            assert!(flight.len() >= 70);
            flight[at] ^= 0x11;
            let result = if let Some(handshake) = handshake {
                match handshake.advance(&mut flight, &mut output).1 {
                    Progress::Failed(HandshakeError::Rustls(error)) => Err(error),
                    Progress::Failed(error) => panic!("{error}"),
                    _ => Ok(()),
                }
            } else {
                let fed = feed(&mut server, &flight).map(drop);
                while server.wants_write() {
                    server.write_tls(&mut output).expect("into memory");
                }
                fed
            };
            // The client reads an alert.
            results.push((result, tell(&mut client, &output).map(drop)));
        }
        assert_eq!(results[0], results[1], "byte {at}");
    }
}

#[test]
fn a_plain_request_is_refused_with_an_alert() {
    let mut output = Vec::new();
    let mut request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let (_, progress) = server().begin().expect("a handshake").advance(&mut request, &mut output);
    assert!(matches!(progress, Progress::Failed(HandshakeError::Rustls(rustls::Error::InvalidMessage(_)))));
    assert_eq!(output, [21, 3, 3, 0, 2, 2, AlertDescription::DecodeError.into()]);
}

#[test]
fn handshakes_on_one_thread_do_not_mix() {
    let config = server();
    let mut clients: Vec<_> = (0..4).map(|_| client_of(rustls_client_config(default_provider()))).collect();
    let mut handshakes = Vec::new();
    for client in &mut clients {
        let (mut input, mut output) = (Vec::new(), Vec::new());
        client.write_tls(&mut input).expect("into memory");
        let (_, progress) = config.begin().expect("a handshake").advance(&mut input, &mut output);
        let Progress::Incomplete(handshake) = progress else { panic!("{progress:?}") };
        tell(client, &output).expect("a handshake");
        handshakes.push(handshake);
    }
    for (client, handshake) in clients.iter_mut().zip(handshakes).rev() {
        let (mut input, mut output) = (Vec::new(), Vec::new());
        client.write_tls(&mut input).expect("into memory");
        let (mut session, _) = session_of(handshake.advance(&mut input, &mut output).1);
        assert!(matches!(session.open(&mut []), Ok(Opened::Incomplete { .. })));
        speak(&mut session, client);
    }
}

/// Keeps the secret with which the client encrypts the rest of its handshake.
#[derive(Debug, Default)]
struct HandshakeSecret(std::sync::Mutex<Vec<u8>>);

impl KeyLog for HandshakeSecret {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == "CLIENT_HANDSHAKE_TRAFFIC_SECRET" {
            *self.0.lock().expect("one thread") = secret.to_vec();
        }
    }
}

#[test]
fn whatever_a_client_encrypts_before_its_finished_message_ends_without_a_panic() {
    let suite = Suite::Aes128GcmSha256;
    let config = rig::server_config(suite);
    let kinds: [&[u8]; 7] =
        [&[22], &[1, 90, 21], &[1, 0, 21], &[20, 0, 0, 22], &[11, 0, 0, 0, 22], &[23], &[24, 0, 0, 1, 0, 22]];
    for first in 0..kinds.len() * kinds.len() * kinds.len() {
        let secret = Arc::new(HandshakeSecret::default());
        let mut of_client = rustls_client_config(rig::provider(suite));
        of_client.key_log = Arc::clone(&secret) as Arc<dyn KeyLog>;
        let mut client = client_of(of_client);
        let (mut input, mut output) = (Vec::new(), Vec::new());
        client.write_tls(&mut input).expect("into memory");
        let (consumed, progress) = config.begin().expect("a handshake").advance(&mut input, &mut output);
        input.drain(..consumed);
        let Progress::Incomplete(handshake) = progress else { panic!("{progress:?}") };
        tell(&mut client, &output).expect("a handshake");
        let secret = Secret::new(suite, &secret.0.lock().expect("one thread")).expect("a secret");
        let mut sending = Direction::new(secret, 0);
        let mut flight = Vec::new();
        for place in [1, kinds.len(), kinds.len() * kinds.len()] {
            let mut record = [&[0; HEADER_BYTES][..], kinds[first / place % kinds.len()], &[0; 16]].concat();
            sending.seal(&mut record);
            flight.extend_from_slice(&record);
        }
        let mut handshake = Some(handshake);
        for part in flight.chunks([7, 24, 1000][first % 3]) {
            let Some(one) = handshake.take() else { break };
            input.extend_from_slice(part);
            let (consumed, progress) = one.advance(&mut input, &mut output);
            input.drain(..consumed);
            match progress {
                Progress::Incomplete(one) => handshake = Some(one),
                Progress::Failed(_) => {}
                Progress::Accepted(_) => panic!("without Finished"),
            }
        }
    }
}
