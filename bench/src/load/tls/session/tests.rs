//! Sessions with a server of rustls, without a socket.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::load::tls::{Trust, group, read_certificates, suite};

/// A certificate for `localhost`, signed by an authority.
struct Identity {
    authority: String,
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

fn identity() -> Identity {
    signed_by("one")
}

fn signed_by(name: &str) -> Identity {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let (issuer, own) = (key(), key());
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, name);
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let signed = params.signed_by(&own, &Issuer::from_params(&authority, &issuer)).expect("signed");
    let authority = authority.self_signed(&issuer).expect("an authority").pem();
    Identity { authority, chain: vec![signed.der().clone()], key: own }
}

fn file(pem: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("certificates.pem");
    std::fs::write(&path, pem).expect("written");
    (folder, path)
}

fn trust(pem: &str) -> Trust {
    let (_folder, path) = file(pem);
    read_certificates(&path).expect("certificates")
}

fn server_config(identity: &Identity) -> ServerConfig {
    let config =
        ServerConfig::builder_with_provider(default_provider().into()).with_protocol_versions(rustls::ALL_VERSIONS);
    let key = PrivateKeyDer::Pkcs8(identity.key.serialize_der().into());
    let config = config.expect("versions").with_no_client_auth().with_single_cert(identity.chain.clone(), key);
    let mut config = config.expect("a certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().expect("a ticketer");
    config
}

/// A client and a server that exchange records.
struct Pair<'a> {
    sessions: &'a mut Sessions,
    session: Session,
    server: ServerConnection,
    /// The client's bytes for the server.
    output: Vec<u8>,
    /// What the server has sent, and what it has received.
    plain: Vec<u8>,
    heard: Vec<u8>,
}

impl<'a> Pair<'a> {
    fn new(sessions: &'a mut Sessions, config: &Arc<ServerConfig>) -> Self {
        let mut output = Vec::new();
        let session = sessions.begin(&mut output).expect("begun");
        let server = ServerConnection::new(Arc::clone(config)).expect("a server");
        Self { sessions, session, server, output, plain: Vec::new(), heard: Vec::new() }
    }

    /// Passes what the client has sent to the server, and returns its answer.
    fn serve(&mut self) -> Result<Vec<u8>, Error> {
        let mut sent = &self.output[..];
        while !sent.is_empty() {
            self.server.read_tls(&mut sent).expect("memory");
            let left = self.server.process_new_packets()?.plaintext_bytes_to_read();
            let before = self.heard.len();
            self.heard.resize(before + left, 0);
            self.server.reader().read_exact(&mut self.heard[before..]).expect("as many as were told");
        }
        self.output.clear();
        Ok(self.answer())
    }

    fn answer(&mut self) -> Vec<u8> {
        let mut answer = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut answer).expect("memory");
        }
        answer
    }

    fn receive(&mut self, input: &[u8]) -> Result<(), TlsProblem> {
        self.sessions.receive(&mut self.session, input, &mut self.plain, &mut self.output)
    }

    /// Exchanges records until neither has more; the server's bytes arrive in pieces of this size.
    fn talk(&mut self, piece_bytes: usize) -> Result<(), TlsProblem> {
        loop {
            let answer = self.serve().expect("the server is content");
            if answer.is_empty() {
                return Ok(());
            }
            for piece in answer.chunks(piece_bytes) {
                self.receive(piece)?;
            }
        }
    }

    fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        self.server.writer().write_all(plain).expect("memory");
        self.answer()
    }
}

fn plan(trust: Trust) -> TlsPlan {
    let mut plan = TlsPlan::new(trust, "localhost".try_into().expect("a name"));
    plan.alpn = vec![b"http/1.1".to_vec()];
    plan
}

#[test]
fn bytes_come_out_as_they_went_in_however_records_are_cut() {
    let identity = identity();
    let config = Arc::new(server_config(&identity));
    let message: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
    for (piece_bytes, older) in [(1, false), (7, false), (1 << 20, false), (1, true), (1 << 20, true)] {
        let mut plan = plan(trust(&identity.authority));
        if older {
            plan.suites = vec![suite("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256").expect("known")];
        }
        let mut sessions = Sessions::new(&plan, 1).expect("sessions");
        let mut pair = Pair::new(&mut sessions, &config);
        assert!(!pair.session.is_open());
        pair.talk(piece_bytes).expect("a handshake");
        assert!(pair.session.is_open() && !pair.session.is_within());
        let agreed = pair.session.agreed();
        let version =
            if older { "TLS 1.2, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" } else { "TLS 1.3, TLS_AES_256_GCM" };
        assert!(!agreed.is_resumed && agreed.on.starts_with(version) && agreed.on.ends_with("http/1.1"), "{agreed:?}");
        pair.session.send(&message, &mut pair.output).expect("sent");
        pair.serve().expect("right");
        assert!(pair.heard == message);
        for piece in pair.say(&message).chunks(piece_bytes) {
            pair.receive(piece).expect("right");
        }
        assert!(pair.plain == message && !pair.session.is_ended());
        pair.server.send_close_notify();
        let last = pair.answer();
        pair.receive(&last[..3]).expect("part of it");
        assert!(pair.session.is_within() && !pair.session.is_ended());
        pair.receive(&last[3..]).expect("the rest");
        assert!(pair.session.is_ended());
        pair.session.close(&mut pair.output);
        let length = pair.output.len();
        pair.session.close(&mut pair.output);
        assert!(length > 0 && pair.output.len() == length, "said once");
        pair.serve().expect("a goodbye");
        assert_eq!(pair.server.reader().read(&mut [0]).expect("a clean end"), 0);
    }
}

#[test]
fn sessions_are_resumed_where_that_is_wanted() {
    let identity = identity();
    let config = Arc::new(server_config(&identity));
    for (resumes, older) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut plan = plan(trust(&identity.authority));
        plan.resumes = resumes;
        if older {
            plan.suites = vec![suite("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256").expect("known")];
        }
        let mut sessions = Sessions::new(&plan, 1).expect("sessions");
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let mut pair = Pair::new(&mut sessions, &config);
            pair.talk(1 << 20).expect("a handshake");
            kinds.push(pair.session.agreed().is_resumed);
        }
        assert_eq!(kinds, [false, resumes, resumes], "{resumes} {older}");
    }
}

/// The client's error for a server's certificate, and the alert that the server receives.
fn refusal(plan: &TlsPlan, config: &Arc<ServerConfig>) -> (String, String) {
    let mut sessions = Sessions::new(plan, 1).expect("sessions");
    let mut pair = Pair::new(&mut sessions, config);
    let TlsProblem::Refused(told) = pair.talk(1 << 20).expect_err("refused") else { panic!("an alert") };
    let heard = pair.serve().expect_err("an alert");
    (told, heard.to_string())
}

#[test]
fn certificates_are_checked() {
    let (identity, stranger, namesake) = (identity(), signed_by("other"), self::identity());
    let config = Arc::new(server_config(&identity));
    let (told, heard) = refusal(&plan(trust(&stranger.authority)), &config);
    assert!(told.contains("signed by none") && heard.contains("UnknownCA"), "{told}; {heard}");
    let (told, heard) = refusal(&plan(trust(&namesake.authority)), &config);
    assert!(told.contains("not by the right key") && heard.contains("DecryptError"), "{told}; {heard}");
    let mut other = plan(trust(&identity.authority));
    other.server_name = "example.org".try_into().expect("a name");
    let (told, heard) = refusal(&other, &config);
    assert!(told.contains("not valid for name \"example.org\"") && heard.contains("BadCertificate"), "{told}; {heard}");
    let mut sessions = Sessions::new(&plan(Trust::Anybody), 1).expect("sessions");
    Pair::new(&mut sessions, &config).talk(1 << 20).expect("anybody's");
}

#[test]
fn a_certificate_that_is_its_own_authority_can_be_given() {
    // As `openssl req -x509` makes them.
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let own = params.self_signed(&key).expect("signed");
    let pem = own.pem();
    let config = Arc::new(server_config(&Identity { authority: pem.clone(), chain: vec![own.der().clone()], key }));
    let mut sessions = Sessions::new(&plan(trust(&pem)), 1).expect("sessions");
    Pair::new(&mut sessions, &config).talk(1 << 20).expect("what was given");
    let mut other = plan(trust(&pem));
    other.server_name = "example.org".try_into().expect("a name");
    assert!(refusal(&other, &config).0.contains("not valid for name"));
}

#[test]
fn alerts_have_the_names_of_the_standard() {
    let identity = identity();
    let config = Arc::new(server_config(&identity));
    let mut plan = plan(Trust::Anybody);
    plan.alpn = vec![b"gopher".to_vec()];
    let mut sessions = Sessions::new(&plan, 1).expect("sessions");
    let mut pair = Pair::new(&mut sessions, &config);
    pair.serve().expect_err("no such protocol");
    let alert = pair.answer();
    assert_eq!(pair.receive(&alert), Err(TlsProblem::Alert("no_application_protocol".to_owned())));
    for (code, name) in [
        (40, "handshake_failure"),
        (20, "bad_record_mac"),
        (48, "unknown_ca"),
        (112, "unrecognized_name"),
        (115, "unknown_psk_identity"),
        (121, "ech_required"),
        (255, "255 (unknown)"),
    ] {
        assert_eq!(alert_name(AlertDescription::from(code)), name);
    }
}

#[test]
fn no_byte_that_a_server_changes_does_more_than_end_the_session() {
    let identity = identity();
    let config = Arc::new(server_config(&identity));
    let mut plan = plan(trust(&identity.authority));
    // The fastest of the groups.
    plan.groups = vec![group("X25519").expect("known")];
    let mut sessions = Sessions::new(&plan, 1).expect("sessions");
    let length = Pair::new(&mut sessions, &config).serve().expect("right").len();
    for at in (0..length).step_by(3) {
        let mut pair = Pair::new(&mut sessions, &config);
        let mut answer = pair.serve().expect("right");
        let Some(byte) = answer.get_mut(at) else { continue };
        *byte ^= 1 << (at % 8);
        let (first, second) = answer.split_at(at);
        let result = pair.receive(first).and_then(|()| pair.receive(second));
        // A record with a larger length waits for more, and the versions of records do not matter.
        if result.is_ok() && pair.session.is_open() {
            pair.serve().expect("the same handshake");
        }
        let _ = pair.receive(b"and more");
        let _ = pair.session.send(b"x", &mut pair.output);
        pair.session.close(&mut pair.output);
    }
}

#[test]
fn what_is_no_file_of_certificates_is_told() {
    for (text, part) in [
        ("", "no certificate between BEGIN"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 cannot be trusted"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "not a file of PEM"),
    ] {
        let (_folder, path) = file(text);
        let problem = read_certificates(&path).expect_err(text);
        assert!(problem.contains(part) && problem.contains("certificates.pem"), "{problem}");
    }
    assert!(read_certificates(std::path::Path::new("/nowhere.pem")).expect_err("none").contains("/nowhere.pem"));
}
