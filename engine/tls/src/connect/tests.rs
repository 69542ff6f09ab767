use std::io::{self, Write as _};
use std::path::Path;

use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{AlertDescription, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion, version};

use super::*;
use crate::fuzzing::rig::feed;
use crate::record::{Status, Window};
use crate::settings::{CertificateFiles, SettingsError};

/// A certificate authority with one server; clients trust it.
struct Identity {
    certificate: CertificateDer<'static>,
    pem: Vec<u8>,
    key: Vec<u8>,
    key_pem: Vec<u8>,
}

fn identity() -> Identity {
    let names = ["localhost".to_owned(), "192.0.2.7".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    Identity {
        certificate: made.cert.der().clone(),
        pem: made.cert.pem().into(),
        key: made.signing_key.serialize_der(),
        key_pem: made.signing_key.serialize_pem().into(),
    }
}

impl Identity {
    /// Used in place of files.
    fn read(&self) -> impl Fn(&Path) -> io::Result<Vec<u8>> {
        |path| match path.to_str() {
            Some("cert.pem") => Ok(self.pem.clone()),
            Some("key.pem") => Ok(self.key_pem.clone()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn client(&self, settings: &ClientSettings) -> Config {
        settings.load(self.read()).expect("settings")
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        roots
    }

    fn server(&self, version: &'static SupportedProtocolVersion, asks: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(provider::default_provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let config = config.expect("versions");
        let config = match asks {
            true => config.with_client_cert_verifier(verifier.build().expect("a verifier")),
            false => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(vec![self.certificate.clone()], key).expect("a certificate");
        config.alpn_protocols = vec![b"two".to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(10);
        Arc::new(config)
    }
}

fn settings() -> ClientSettings {
    ClientSettings { alpn: vec!["one".to_owned(), "two".to_owned()], ..ClientSettings::new("cert.pem") }
}

/// A handshake in which the server's bytes arrive in parts of this size; and what the session has not opened.
fn shake(config: &Config, name: &'static str, server: &mut ServerConnection, part: usize) -> (Progress, Vec<u8>) {
    let mut handshake = config.begin(ServerName::try_from(name).expect("a name")).expect("a handshake");
    let (mut input, mut sent) = (Vec::new(), Vec::new());
    loop {
        let mut output = Vec::new();
        let (consumed, progress) = handshake.advance(&mut input, &mut output);
        input.drain(..consumed);
        let fed = feed(server, &output);
        while server.wants_write() {
            server.write_tls(&mut sent).expect("into memory");
        }
        match progress {
            Progress::Incomplete(one) => handshake = one,
            over => {
                input.append(&mut sent);
                return (over, input);
            }
        }
        assert!(fed.is_ok() || !sent.is_empty(), "the server has failed without an alert");
        assert!(!sent.is_empty(), "both wait");
        input.extend(sent.drain(..part.min(sent.len())));
    }
}

fn connected(progress: Progress) -> Connected {
    match progress {
        Progress::Connected(connected) => *connected,
        other => panic!("{other:?}"),
    }
}

/// Both sides write, and read what the other has written.
fn speak(connected: &mut Connected, server: &mut ServerConnection, mut input: Vec<u8>) {
    let Connected { session, tickets, .. } = connected;
    server.writer().write_all(b"pong").expect("buffered");
    while server.wants_write() {
        server.write_tls(&mut input).expect("into memory");
    }
    let mut window = Window::default();
    session.keep_tickets(true);
    assert!(matches!(session.open_all(&mut input, &mut window), Ok(Status::Incomplete { .. })));
    assert_eq!(input[window.plaintext], *b"pong");
    tickets.take_from(session);
    let mut output = Vec::new();
    session.seal_into(b"ping", &mut output).expect("open");
    assert_eq!(feed(server, &output).expect("good records"), b"ping");
}

#[test]
fn a_server_is_spoken_with_whose_answers_come_in_any_parts() {
    let identity = identity();
    for name in ["localhost", "192.0.2.7"] {
        for part in [1, 2, 3, 5, 6, 64, 500, usize::MAX] {
            let mut server = ServerConnection::new(identity.server(&version::TLS13, false)).expect("a server");
            let (progress, input) = shake(&identity.client(&settings()), name, &mut server, part);
            let mut connected = connected(progress);
            let negotiated = &connected.negotiated;
            assert_eq!(negotiated.alpn.as_deref(), Some(&b"two"[..]));
            assert_eq!((negotiated.server_name.as_deref(), negotiated.is_resumed), (Some(name), false));
            assert_eq!(negotiated.peer_certificate, PeerCertificate::of(std::slice::from_ref(&identity.certificate)));
            assert_eq!(server.server_name(), (name == "localhost").then_some(name), "an address is no name to send");
            speak(&mut connected, &mut server, input);
        }
    }
}

#[test]
fn sessions_are_resumed_where_they_are_kept() {
    let identity = identity();
    for (sessions_max, is_resumed) in [(1, true), (0, false)] {
        let config = identity.client(&ClientSettings { sessions_max, ..settings() });
        let of_server = identity.server(&version::TLS13, false);
        for round in 0..4 {
            let mut server = ServerConnection::new(Arc::clone(&of_server)).expect("a server");
            let (progress, input) = shake(&config, "localhost", &mut server, usize::MAX);
            let mut connected = connected(progress);
            assert_eq!(connected.negotiated.is_resumed, is_resumed && round > 0, "{sessions_max} {round}");
            assert!(connected.negotiated.peer_certificate.is_some(), "that of the first");
            speak(&mut connected, &mut server, input);
        }
    }
}

#[test]
fn a_ticket_that_makes_no_sense_ends_the_session() {
    let identity = identity();
    let mut of_server = Arc::unwrap_or_clone(identity.server(&version::TLS13, false));
    of_server.session_storage = Arc::new(NoServerSessionStorage {});
    let mut server = ServerConnection::new(Arc::new(of_server)).expect("a server");
    let (progress, _) = shake(&identity.client(&settings()), "localhost", &mut server, usize::MAX);
    let Connected { mut session, mut tickets, .. } = connected(progress);
    session.keep_tickets(true);
    session.handle_handshake_of_server(&[4, 0, 0, 1, 0]).expect("a ticket, as far as it is looked at");
    tickets.take_from(&mut session);
    let error = session.failure().expect("refused");
    assert_eq!((error, error.alert()), (crate::record::Error::Ticket, Some(AlertDescription::DecodeError)));
}

#[test]
fn a_server_that_asks_gets_the_certificate() {
    let identity = identity();
    let own = CertificateFiles { certificate: "cert.pem".into(), key: "key.pem".into() };
    let mut server = ServerConnection::new(identity.server(&version::TLS13, true)).expect("a server");
    let config = identity.client(&ClientSettings { certificate: Some(own), ..settings() });
    let (progress, input) = shake(&config, "localhost", &mut server, usize::MAX);
    speak(&mut connected(progress), &mut server, input);
    assert_eq!(server.peer_certificates(), Some(&[identity.certificate.clone()][..]));
}

#[test]
fn tls_1_2_is_not_spoken() {
    let identity = identity();
    let mut server = ServerConnection::new(identity.server(&version::TLS12, false)).expect("a server");
    let (progress, _) = shake(&identity.client(&settings()), "localhost", &mut server, usize::MAX);
    let Progress::Failed(error) = progress else { panic!("{progress:?}") };
    assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::ProtocolVersion).into());

    // A configuration that would allow TLS 1.2.
    let roots = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()));
    let roots = roots.with_safe_default_protocol_versions().expect("versions").with_root_certificates(identity.roots());
    let config = Config::new(roots.with_no_client_auth(), Limits::default());
    let mut of_server = Arc::unwrap_or_clone(identity.server(&version::TLS12, false));
    of_server.alpn_protocols.clear();
    let mut server = ServerConnection::new(Arc::new(of_server)).expect("a server");
    let (progress, _) = shake(&config, "localhost", &mut server, usize::MAX);
    let Progress::Failed(error) = progress else { panic!("{progress:?}") };
    assert_eq!(error, HandshakeError::CannotMove);
}

#[test]
fn settings_that_cannot_be_used_say_why() {
    let identity = identity();
    let error = |settings: ClientSettings| settings.load(identity.read()).expect_err("it cannot be used");
    let with_suite = |name: &str| ClientSettings { suites: vec![name.to_owned()], ..settings() };
    assert!(matches!(error(with_suite("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")), SettingsError::SuiteNotOfClients(_)));
    assert!(matches!(error(with_suite("none")), SettingsError::Suite { .. }));
    assert!(matches!(error(ClientSettings::new("none.pem")), SettingsError::Read { .. }));
    let no_authority = error(ClientSettings::new("key.pem")).to_string();
    assert!(no_authority.starts_with("key.pem: "), "{no_authority}");
    let twice = ClientSettings { alpn: vec!["one".to_owned(); 2], ..settings() };
    assert!(matches!(error(twice), SettingsError::ProtocolTwice(_)));
    let no_key = CertificateFiles { certificate: "cert.pem".into(), key: "none.pem".into() };
    let no_key = error(ClientSettings { certificate: Some(no_key), ..settings() }).to_string();
    assert!(no_key.starts_with("cannot read none.pem: "), "{no_key}");
}

#[test]
fn the_authorities_that_a_system_trusts_can_be_named() {
    let all = "/etc/ssl/certs/ca-certificates.crt";
    if !Path::new(all).exists() {
        println!("SKIPPED: {all} is not there");
        return;
    }
    let loaded = ClientSettings::new(all).load(crate::files::read);
    assert!(loaded.is_ok(), "{:?}", loaded.err());
}
