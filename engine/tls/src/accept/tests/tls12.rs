//! What a client of TLS 1.2 may send before its Finished.

use std::sync::Mutex;

use aws_lc_rs::tls_prf;

use super::*;
use crate::record::sealed_bytes_tls12;

const SUITE: Suite = Suite::EcdheEcdsaAes128GcmSha256;

/// The range of a ServerHello's random bytes in its record (RFC 5246 sections 6.2.1 and 7.4.1.3).
const RANDOM: std::ops::Range<usize> = 5 + 4 + 2..5 + 4 + 2 + 32;

/// Types and contents of records.
const KINDS: [(u8, &[u8]); 9] = [
    (22, b""),
    (21, &[1, 90]),
    (21, &[1, 0]),
    (22, &[20, 0, 0, 12]),
    (22, &[1, 0, 0, 0]),
    (22, &[16]),
    (23, b""),
    (23, b"x"),
    (20, &[1]),
];

/// Keeps the client's random bytes and the master secret.
#[derive(Debug, Default)]
struct MasterSecret(Mutex<(Vec<u8>, Vec<u8>)>);

impl KeyLog for MasterSecret {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        assert_eq!(label, "CLIENT_RANDOM");
        *self.0.lock().expect("one thread") = (client_random.to_vec(), secret.to_vec());
    }
}

/// `client_write_key` and `client_write_IV` (RFC 5246 section 6.3).
fn client_key(master: &MasterSecret, server_random: &[u8]) -> Direction {
    let (client_random, secret) = master.0.lock().expect("one thread").clone();
    let secret = tls_prf::Secret::new(&tls_prf::P_SHA256, &secret).expect("a secret");
    let block = secret.derive(b"key expansion", &[server_random, &client_random].concat(), 2 * (16 + 4) + 8);
    let block = block.expect("a key block");
    let block = block.as_ref();
    let iv: Vec<u8> = block[32..36].iter().chain(&block[40..48]).copied().collect();
    let traffic_key = TrafficKey::new(SUITE, &block[..16], iv[..].try_into().expect("twelve bytes"));
    Direction::of(Source::Key(traffic_key.expect("a key")), 0)
}

/// A handshake after the server's first flight, the client's last flight without its Finished, and the client's
/// direction for sealing.
fn before_finished() -> (Handshake, Vec<u8>, Direction) {
    let master = Arc::new(MasterSecret::default());
    let mut of_client = rustls_client_config(rig::provider(SUITE));
    of_client.key_log = Arc::clone(&master) as Arc<dyn KeyLog>;
    let mut client = client_of(of_client);
    let (mut input, mut output) = (Vec::new(), Vec::new());
    client.write_tls(&mut input).expect("into memory");
    let (_, progress) = rig::server_config(SUITE).begin().expect("a handshake").advance(&mut input, &mut output);
    let Progress::Incomplete(handshake) = progress else { panic!("{progress:?}") };
    tell(&mut client, &output).expect("a handshake");
    let mut flight = Vec::new();
    client.write_tls(&mut flight).expect("into memory");
    let finished = HEADER_BYTES + 8 + 16 + 16;
    flight.truncate(flight.len() - finished);
    assert!(flight.ends_with(&[20, 3, 3, 0, 1, 1]), "the last before Finished");
    (handshake, flight, client_key(&master, &output[RANDOM]))
}

/// No such flight succeeds: the handshake continues or fails.
fn send(handshake: Handshake, flight: &[u8], part: usize) {
    let (mut handshake, mut input, mut output) = (Some(handshake), Vec::new(), Vec::new());
    for part in flight.chunks(part) {
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

#[test]
fn whatever_a_client_encrypts_before_its_finished_message_ends_without_a_panic() {
    for first in 0..KINDS.len().pow(3) {
        let (handshake, mut flight, mut sending) = before_finished();
        for place in [1, KINDS.len(), KINDS.len().pow(2)] {
            let (content_type, content) = KINDS[first / place % KINDS.len()];
            let mut record = vec![0; sealed_bytes_tls12(SUITE, content.len())];
            sending.seal_tls12(content_type.into(), content, &mut record);
            flight.extend_from_slice(&record);
        }
        send(handshake, &flight, [7, 24, 1000][first % 3]);
    }
}

#[test]
fn whatever_a_client_sends_without_encrypting_ends_without_a_panic() {
    for first in 0..KINDS.len().pow(3) {
        let (handshake, flight, _) = before_finished();
        let records = [1, KINDS.len(), KINDS.len().pow(2)].map(|place| {
            let (content_type, content) = KINDS[first / place % KINDS.len()];
            [&[content_type, 3, 3, 0, content.len() as u8][..], content].concat()
        });
        // Before the expected message, and after the key exchange.
        let exchange = flight.len() - 6;
        let flight = if first % 2 == 0 {
            [&records.concat()[..], &flight].concat()
        } else {
            [&flight[..exchange], &records.concat(), &flight[exchange..]].concat()
        };
        send(handshake, &flight, [7, 24, 1000][first % 3]);
    }
}

#[test]
fn the_secrets_of_the_key_log_lead_to_the_keys_that_move() {
    let (handshake, mut flight, mut sending) = before_finished();
    // Not its Finished, but a record that the server can read: it is refused because of its contents.
    let mut record = vec![0; sealed_bytes_tls12(SUITE, 16)];
    sending.seal_tls12(ContentType::Handshake, &[&[20, 0, 0, 12][..], &[7; 12]].concat(), &mut record);
    flight.extend_from_slice(&record);
    let (_, progress) = handshake.advance(&mut flight, &mut Vec::new());
    let Progress::Failed(HandshakeError::Rustls(error)) = progress else { panic!("{progress:?}") };
    assert_eq!(error, rustls::Error::DecryptError, "a Finished with another digest");
}
