//! OpenSSL's client: a handshake of either version, key updates from both sides, and a session that moves at each read.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use baton_tls::accept::{Accepted, Config, Progress};
use baton_tls::record::{Limits, Session, Status, Window};
use baton_tls::schedule::Suite;
use baton_tls::settings::Version;
use baton_tls::state::{self, Negotiated};
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;

const WAIT: Duration = Duration::from_secs(20);

fn config_of(key: &KeyPair, limits: Limits) -> Config {
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(key).expect("a certificate").der().clone();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key);
    Config::new(config.expect("a certificate"), limits)
}

fn few_records() -> Limits {
    Limits { records_per_key_max: Some(5), ..Limits::default() }
}

fn receive(stream: &mut TcpStream, input: &mut Vec<u8>) {
    let mut part = [0; 1000];
    let length = stream.read(&mut part).expect("within the time");
    assert!(length > 0, "the client left without close_notify");
    input.extend_from_slice(&part[..length]);
}

/// Answers each line with the same in capitals, until the client closes. Returns the suite.
fn serve(config: Config, mut stream: TcpStream) -> Suite {
    stream.set_read_timeout(Some(WAIT)).expect("a time-out");
    let mut handshake = config.begin().expect("a handshake");
    let mut input = Vec::new();
    let (mut session, negotiated) = loop {
        receive(&mut stream, &mut input);
        let mut output = Vec::new();
        let (consumed, progress) = handshake.advance(&mut input, &mut output);
        stream.write_all(&output).expect("sent");
        input.drain(..consumed);
        match progress {
            Progress::Incomplete(one) => handshake = one,
            Progress::Accepted(Accepted::Session(session, negotiated)) => break (*session, negotiated),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(negotiated.server_name.as_deref(), Some("localhost"));
    let mut window = Window::default();
    loop {
        session = moved(&session, &negotiated);
        let status = session.open_all(&mut input, &mut window).expect("good records");
        let mut output = Vec::new();
        session.seal_into(&input[window.plaintext.clone()].to_ascii_uppercase(), &mut output).expect("open");
        input.drain(..window.records);
        window = Window::default();
        if status == Status::Closed {
            output.extend_from_slice(&session.close().expect("the first"));
            stream.write_all(&output).expect("sent");
            return session.suite();
        }
        output.extend(
            session.owes_warning().then(|| session.next_control()).flatten().iter().flat_map(|one| one.to_vec()),
        );
        if output.len() > 5 && session.suite().version() == Version::Tls13 {
            output.extend_from_slice(&session.update_key(true).expect("open"));
        }
        stream.write_all(&output).expect("sent");
        receive(&mut stream, &mut input);
    }
}

fn moved(session: &Session, negotiated: &Negotiated) -> Session {
    let frozen = state::freeze(session, negotiated).expect("it has not failed");
    let limits = if session.suite().version() == Version::Tls13 { few_records() } else { Limits::default() };
    state::thaw(&frozen, limits).expect("what was frozen").0
}

fn wait_for(lines: &mut impl Iterator<Item = std::io::Result<String>>, wanted: &str) {
    assert!(lines.map_while(Result::ok).any(|line| line == wanted), "{wanted} did not come");
}

#[test]
fn openssl_speaks_tls_1_2_with_a_session_that_moves() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not installed");
        return;
    }
    for (suite, name) in [
        (Suite::EcdheEcdsaAes128GcmSha256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (Suite::EcdheEcdsaAes256GcmSha384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
        (Suite::EcdheEcdsaChacha20Poly1305Sha256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
        (Suite::EcdheRsaAes128GcmSha256, "ECDHE-RSA-AES128-GCM-SHA256"),
        (Suite::EcdheRsaAes256GcmSha384, "ECDHE-RSA-AES256-GCM-SHA384"),
        (Suite::EcdheRsaChacha20Poly1305Sha256, "ECDHE-RSA-CHACHA20-POLY1305"),
    ] {
        let is_rsa = name.starts_with("ECDHE-RSA");
        let algorithm = if is_rsa { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let config = config_of(&key, Limits::default());
        let server = thread::spawn(move || serve(config, listener.accept().expect("a client").0));
        let mut client = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", "localhost", "-tls1_2", "-cipher", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let mut stdin = client.stdin.take().expect("piped");
        let mut answers = BufReader::new(client.stdout.take().expect("piped")).lines();
        for round in 0..12 {
            let line = format!("line {round} of {name} {}", "x".repeat(round * 900));
            stdin.write_all(format!("{line}\n").as_bytes()).expect("it reads");
            wait_for(&mut answers, &line.to_ascii_uppercase());
        }
        stdin.write_all(b"Q\n").expect("it reads");
        drop(stdin);
        assert_eq!(server.join().expect("the server"), suite);
        client.wait().expect("it ends");
    }
}

#[test]
fn openssl_that_asks_for_another_handshake_hears_that_there_is_none() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not installed");
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let key = KeyPair::generate().expect("a key");
    let config = config_of(&key, Limits::default());
    let server = thread::spawn(move || serve(config, listener.accept().expect("a client").0));
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", "localhost", "-tls1_2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    let mut stdin = client.stdin.take().expect("piped");
    let mut answers = BufReader::new(client.stdout.take().expect("piped")).lines();
    stdin.write_all(b"before\n").expect("it reads");
    wait_for(&mut answers, "BEFORE");
    // The client's command for another handshake. Without one, the client ends.
    stdin.write_all(b"R\n").expect("it reads");
    let notes = BufReader::new(client.stderr.take().expect("piped")).lines();
    assert!(notes.map_while(Result::ok).any(|line| line.contains("no renegotiation")), "it did not hear of it");
    client.wait().expect("it ends");
    drop(server.join());
}

#[test]
fn openssl_speaks_with_a_session_and_both_change_keys() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not installed");
        return;
    }
    for (suite, name) in [
        (Suite::Aes128GcmSha256, "TLS_AES_128_GCM_SHA256"),
        (Suite::Aes256GcmSha384, "TLS_AES_256_GCM_SHA384"),
        (Suite::Chacha20Poly1305Sha256, "TLS_CHACHA20_POLY1305_SHA256"),
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let config = config_of(&KeyPair::generate().expect("a key"), few_records());
        let server = thread::spawn(move || serve(config, listener.accept().expect("a client").0));
        let mut client = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", "localhost", "-tls1_3", "-ciphersuites", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl");
        let mut stdin = client.stdin.take().expect("piped");
        let mut answers = BufReader::new(client.stdout.take().expect("piped")).lines();
        let mut notes = BufReader::new(client.stderr.take().expect("piped")).lines();
        for round in 0..12 {
            stdin.write_all(format!("line {round} of {name}\n").as_bytes()).expect("it reads");
            wait_for(&mut answers, &format!("LINE {round} OF {name}"));
            // The client's commands: a key update, with and without a request.
            stdin.write_all([b"k\n", b"K\n"][round % 2]).expect("it reads");
            wait_for(&mut notes, "KEYUPDATE");
        }
        stdin.write_all(b"Q\n").expect("it reads");
        drop(stdin);
        assert_eq!(server.join().expect("the server"), suite);
        client.wait().expect("it ends");
    }
}
