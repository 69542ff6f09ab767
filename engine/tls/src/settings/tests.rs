use std::collections::HashMap;
use std::sync::Arc;

use baton::layer::Layers as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ProtocolVersion,
    SignatureScheme,
};

use super::*;
use crate::accept::{Accepted, HandshakeError, Progress};
use crate::certificate::made::{Authority, ECDSA, RSA, params, valid_between};
use crate::certificate::{Found, Name};
use crate::fuzzing::rig::shake;
use crate::layer::Tls;
use crate::state::Negotiated;
use crate::tickets::PERIOD_SECONDS;
use crate::tickets::tests::Clock;

const SECRET: &[u8; SECRET_BYTES] = &[1; SECRET_BYTES];

/// Files that exist only here.
#[derive(Default)]
struct Files(HashMap<PathBuf, Vec<u8>>);

impl Files {
    fn put(&mut self, file: &str, contents: impl Into<Vec<u8>>) {
        self.0.insert(file.into(), contents.into());
    }

    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        self.0.get(file).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Puts a pair into `NAME.pem` and `NAME.key`.
    fn pair(&mut self, name: &str, (certificate, key): (String, String)) -> CertificateFiles {
        let files = [format!("{name}.pem"), format!("{name}.key")];
        self.put(&files[0], certificate);
        self.put(&files[1], key);
        let [certificate, key] = files.map(PathBuf::from);
        CertificateFiles { certificate, key }
    }
}

/// A server for `a.example`, its authority, and its files.
fn server() -> (Authority, Files, Settings) {
    let (root, mut files) = (Authority::root("root"), Files::default());
    let pair = files.pair("a", root.sign(&["a.example"], ECDSA));
    (root, files, Settings { certificates: vec![pair], ..Settings::default() })
}

fn load(settings: &Settings, files: &Files) -> Loaded {
    settings.load(|file| files.read(file), SECRET).expect("settings")
}

fn refused(settings: &Settings, files: &Files) -> SettingsError {
    settings.load(|file| files.read(file), SECRET).expect_err("wrong settings")
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("a certificate");
    Arc::new(roots)
}

fn client_config(authority: &Authority) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("versions");
    let mut config = config.with_root_certificates(roots(authority)).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

/// A client that keeps its tickets.
fn remembering(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

/// A client with a certificate.
fn client_config_as(authority: &Authority, (certificate, key): &(String, String)) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config =
        config.with_safe_default_protocol_versions().expect("versions").with_root_certificates(roots(authority));
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    config.with_client_auth_cert(chain, key).expect("a key")
}

/// Makes a handshake. Returns what the server has, and the client.
fn meet(
    config: &Config,
    client: &Arc<ClientConfig>,
    host: &str,
) -> (Result<Negotiated, HandshakeError>, ClientConnection) {
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("a client");
    let result = match shake(config, &mut client, usize::MAX).0 {
        Progress::Accepted(Accepted::Session(_, negotiated) | Accepted::Rustls(_, negotiated)) => Ok(negotiated),
        Progress::Failed(error) => Err(error),
        Progress::Incomplete(_) => unreachable!("it goes on until it is over"),
    };
    (result, client)
}

/// Whether each of these servers, in turn, resumes the session that the client has from the previous one.
fn resumes(client: ClientConfig, servers: &[&Config]) -> Vec<bool> {
    let client = remembering(client);
    let resumes = servers.iter().map(|server| {
        let (negotiated, client) = meet(server, &client, "a.example");
        let is_resumed = negotiated.expect("a connection").is_resumed;
        assert_eq!(client.handshake_kind() == Some(HandshakeKind::Resumed), is_resumed);
        is_resumed
    });
    resumes.collect()
}

#[test]
fn clients_get_the_certificate_of_the_host_that_they_name() {
    let (root, mut files, mut settings) = server();
    settings.certificates.push(files.pair("b", root.sign(&["*.b.example"], RSA)));
    let loaded = load(&settings, &files);
    assert_eq!(loaded.warnings, []);
    let client = Arc::new(client_config(&root));
    for (host, name) in [("a.example", "a.example"), ("x.B.example", "*.b.example")] {
        let (negotiated, client) = meet(&loaded.config, &client, host);
        assert_eq!(negotiated.expect("a connection").server_name.as_deref(), Some(&*host.to_lowercase()));
        let served = &client.peer_certificates().expect("a certificate")[0];
        let expected = loaded.identities.all().iter().find(|one| one.names() == [Name::Dns(name.into())]);
        assert_eq!(*served, expected.expect("one of them").certified_key().cert[0]);
    }
}

/// A client that can only verify signatures of some schemes.
#[derive(Debug)]
struct Only(Arc<WebPkiServerVerifier>, SignatureScheme);

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![self.1]
    }
}

#[test]
fn of_an_ecdsa_and_an_rsa_certificate_clients_get_the_one_that_they_can_verify() {
    let (root, mut files, mut settings) = server();
    settings.certificates.push(files.pair("rsa", root.sign(&["a.example"], RSA)));
    let loaded = load(&settings, &files);
    for (scheme, place) in [
        (SignatureScheme::ECDSA_NISTP256_SHA256, Some(0)),
        (SignatureScheme::RSA_PSS_SHA256, Some(1)),
        (SignatureScheme::ED25519, None),
    ] {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots(&root), Arc::new(aws_lc_rs::default_provider()));
        let mut client = client_config(&root);
        let verifier = Only(verifier.build().expect("a verifier"), scheme);
        client.dangerous().set_certificate_verifier(Arc::new(verifier));
        let (negotiated, mut client) = meet(&loaded.config, &Arc::new(client), "a.example");
        if let Some(place) = place {
            negotiated.expect("a connection");
            let served = &client.peer_certificates().expect("a certificate")[0];
            assert_eq!(*served, loaded.identities.all()[place].certified_key().cert[0]);
        } else {
            assert_eq!(
                negotiated,
                Err(rustls::PeerIncompatible::NoSignatureSchemesInCommon)
                    .map_err(|why| rustls::Error::from(why).into())
            );
            let told = client.process_new_packets().expect_err("an alert");
            assert_eq!(told, rustls::Error::AlertReceived(AlertDescription::HandshakeFailure));
        }
    }
}

#[test]
fn clients_show_certificates_where_they_are_asked_for() {
    let (root, mut files, mut settings) = server();
    let (ours, others) = (Authority::root("clients"), Authority::root("others"));
    files.put("ca.pem", format!("{}{}", Authority::root("more clients").pem, ours.pem));
    settings.client_ca = Some("ca.pem".into());
    let known = client_config_as(&root, &ours.sign(&["client"], ECDSA));
    let stranger = client_config_as(&root, &others.sign(&["client"], ECDSA));
    let nobody = client_config(&root);
    let [known, stranger, nobody] = [known, stranger, nobody].map(Arc::new);
    for wanted in [ClientCertificates::Optional, ClientCertificates::Required] {
        settings.client_certificates = wanted;
        let loaded = load(&settings, &files);
        let negotiated = meet(&loaded.config, &known, "a.example").0.expect("a connection");
        assert_eq!(negotiated.peer_certificate.expect("it has shown one").chain_length, 1);
        let (refused, mut client) = meet(&loaded.config, &stranger, "a.example");
        assert!(matches!(refused, Err(HandshakeError::Rustls(rustls::Error::InvalidCertificate(_)))), "{refused:?}");
        assert!(matches!(client.process_new_packets(), Err(rustls::Error::AlertReceived(_))));
        let (without, mut client) = meet(&loaded.config, &nobody, "a.example");
        if wanted == ClientCertificates::Optional {
            assert_eq!(without.expect("a connection").peer_certificate, None);
        } else {
            assert_eq!(without.expect_err("a certificate is wanted"), rustls::Error::NoCertificatesPresented.into());
            let told = client.process_new_packets().expect_err("an alert");
            assert_eq!(told, rustls::Error::AlertReceived(AlertDescription::CertificateRequired));
        }
    }
    settings.client_certificates = ClientCertificates::Off;
    settings.client_ca = None;
    let negotiated = meet(&load(&settings, &files).config, &known, "a.example").0.expect("a connection");
    assert_eq!(negotiated.peer_certificate, None);
}

#[test]
fn a_session_resumes_at_any_server_with_the_secret_and_at_no_other() {
    let (root, mut files, settings) = server();
    let [first, second] = [(); 2].map(|()| load(&settings, &files).config);
    assert_eq!(resumes(client_config(&root), &[&first, &second, &first, &first]), [false, true, true, true]);
    let other = settings.load(|file| files.read(file), &[2; SECRET_BYTES]).expect("settings").config;
    assert_eq!(resumes(client_config(&root), &[&first, &other, &other]), [false, false, true]);
    let without = load(&Settings { tickets: false, ..settings.clone() }, &files).config;
    assert_eq!(resumes(client_config(&root), &[&first, &without, &without]), [false, false, false]);
    // A new certificate changes nothing.
    files.pair("a", root.sign(&["a.example"], RSA));
    assert_eq!(resumes(client_config(&root), &[&first, &load(&settings, &files).config]), [false, true]);
}

#[test]
fn tickets_of_tls_1_2_do_not_follow_from_the_private_key() {
    let (root, files, settings) = server();
    let by_key = || settings.load_by_key(|file| files.read(file)).expect("settings").config;
    // Another process with the same key, and another secret of its own.
    let key = files.read(&settings.certificates[0].key).expect("a key");
    let clock = Arc::new(DefaultTimeProvider);
    let elsewhere = settings.load_with(clock, |file| files.read(file), &secret_of(&key), Some(&[9; SECRET_BYTES]));
    let elsewhere = elsewhere.expect("settings").config;
    for (versions, resumed) in [(&version::TLS12, [false, true, false]), (&version::TLS13, [false, true, true])] {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_protocol_versions(&[versions]).expect("a version");
        let client = config.with_root_certificates(roots(&root)).with_no_client_auth();
        assert_eq!(resumes(client, &[&by_key(), &by_key(), &elsewhere]), resumed, "{:?}", versions.version);
    }
}

#[test]
fn a_session_of_tls_1_2_resumes_too() {
    let (root, files, settings) = server();
    let settings = Settings { version_min: Version::Tls12, ..settings };
    let [first, second] = [(); 2].map(|()| load(&settings, &files).config);
    let client = || {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_protocol_versions(&[&version::TLS12]).expect("a version");
        config.with_root_certificates(roots(&root)).with_no_client_auth()
    };
    assert_eq!(resumes(client(), &[&first, &second, &first]), [false, true, true]);
    let without = load(&Settings { tickets: false, ..settings.clone() }, &files).config;
    assert_eq!(resumes(client(), &[&first, &without, &without]), [false, false, false]);
}

#[test]
fn tickets_are_known_for_two_periods() {
    let (root, files, settings) = server();
    // The present day, since the client has no other clock.
    let now = UnixTime::now().as_secs();
    let start = now - now % PERIOD_SECONDS;
    let clock = Clock::at(start);
    let load = || settings.load_at(Arc::clone(&clock) as _, |file| files.read(file), SECRET).expect("settings").config;
    let (client, server) = (remembering(client_config(&root)), load());
    for (seconds, is_resumed) in [
        (0, false),
        (PERIOD_SECONDS, true),
        (2 * PERIOD_SECONDS, true),
        (4 * PERIOD_SECONDS, false),
        (6 * PERIOD_SECONDS - 1, true),
        // The clock goes back: the ticket's period has not begun.
        (4 * PERIOD_SECONDS, false),
    ] {
        clock.set(start + seconds);
        let resumes = |server| meet(server, &client, "a.example").0.expect("a connection").is_resumed;
        assert_eq!(resumes(&server), is_resumed, "{seconds}");
        assert!(resumes(&load()), "{seconds}: it has a new ticket");
    }
}

#[test]
fn where_clients_show_certificates_no_ticket_spares_them_that() {
    let (root, mut files, settings) = server();
    let authority = Authority::root("clients");
    files.put("ca.pem", authority.pem.clone());
    let plain = load(&settings, &files).config;
    let asks = |client_certificates| {
        let settings = Settings { client_certificates, client_ca: Some("ca.pem".into()), ..settings.clone() };
        load(&settings, &files).config
    };
    for wanted in [ClientCertificates::Optional, ClientCertificates::Required] {
        let asks = asks(wanted);
        let known = || client_config_as(&root, &authority.sign(&["client"], ECDSA));
        assert_eq!(resumes(known(), &[&asks, &asks]), [false, false]);
        assert_eq!(resumes(known(), &[&plain, &asks, &plain]), [false, false, true]);
    }
    // A ticket of a listener that asks for no certificates is not valid at one that does.
    let client = remembering(client_config(&root));
    meet(&plain, &client, "a.example").0.expect("a connection");
    let refused = meet(&asks(ClientCertificates::Required), &client, "a.example").0;
    assert_eq!(refused, Err(rustls::Error::NoCertificatesPresented.into()));
}

/// The reason why clients that show certificates get no tickets.
#[test]
fn rustls_asks_nobody_who_resumes_for_a_certificate() {
    let (root, files, settings) = server();
    let identities = load(&settings, &files).identities;
    let ticketer = Arc::new(Tickets::new(SECRET, Arc::new(DefaultTimeProvider)));
    let config = || ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&root), Arc::new(aws_lc_rs::default_provider()));
    let configs = [
        config().with_safe_default_protocol_versions().expect("versions").with_no_client_auth(),
        config()
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier")),
    ];
    let [plain, asks] = configs.map(|config| {
        let mut config = config.with_cert_resolver(Arc::clone(&identities) as _);
        config.ticketer = Arc::clone(&ticketer) as _;
        Config::new(config, Limits::default())
    });
    assert_eq!(resumes(client_config(&root), &[&plain, &asks]), [false, true]);
}

#[test]
fn a_ticket_that_nobody_knows_is_no_error() {
    let (root, files, settings) = server();
    /// Sends clients tickets that no server can read.
    #[derive(Debug)]
    struct Garbage(usize);

    impl rustls::server::ProducesTickets for Garbage {
        fn enabled(&self) -> bool {
            true
        }

        fn lifetime(&self) -> u32 {
            3600
        }

        fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
            Some(vec![7; self.0])
        }

        fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
            None
        }
    }
    let ours = load(&settings, &files);
    for length in [1, 15, 16, 28, 43, 44, 45, 1000, 16_000] {
        let garbage = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let garbage = garbage.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let mut garbage = garbage.with_cert_resolver(Arc::clone(&ours.identities) as _);
        garbage.ticketer = Arc::new(Garbage(length));
        let garbage = Config::new(garbage, Limits::default());
        assert_eq!(resumes(client_config(&root), &[&garbage, &ours.config, &ours.config]), [false, false, true]);
    }
}

#[test]
fn versions_suites_and_protocols_are_those_of_the_settings() {
    let (root, files, settings) = server();
    let old = || {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_protocol_versions(&[&version::TLS12]).expect("a version");
        Arc::new(config.with_root_certificates(roots(&root)).with_no_client_auth())
    };
    let settings_1_3 = Settings { version_min: Version::Tls13, ..settings.clone() };
    let refused = meet(&load(&settings_1_3, &files).config, &old(), "a.example").0;
    assert!(matches!(refused, Err(HandshakeError::Rustls(rustls::Error::PeerIncompatible(_)))), "{refused:?}");
    let settings_1_2 = Settings { version_min: Version::Tls12, ..settings.clone() };
    let (negotiated, client) = meet(&load(&settings_1_2, &files).config, &old(), "a.example");
    assert_eq!(negotiated.expect("a connection").version, Version::Tls12);
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let mut new = client_config(&root);
    new.alpn_protocols = vec![b"http/1.0".to_vec(), b"http/1.1".to_vec()];
    let new = Arc::new(new);
    let settings = Settings {
        suites: vec!["TLS_CHACHA20_POLY1305_SHA256".to_owned()],
        alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ..settings_1_2
    };
    let (negotiated, client) = meet(&load(&settings, &files).config, &new, "a.example");
    assert_eq!(negotiated.expect("a connection").alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let suite = client.negotiated_cipher_suite().expect("a suite").suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    for name in suite_names() {
        let one = Settings { suites: vec![name.clone()], alpn: Vec::new(), ..settings.clone() };
        load(&one, &files);
    }
}

#[test]
fn wrong_settings_are_refused_with_what_to_do() {
    let (_, mut files, settings) = server();
    files.put("empty.pem", "");
    files.put("broken.pem", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
    let settings = Settings { version_min: Version::Tls12, ..settings };
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        refused(&settings, &files).to_string()
    };
    let text = with(&|settings| settings.certificates.clear());
    assert_eq!(text, "certificates is empty: name a certificate and its private key");
    let text = with(&|settings| settings.certificates[0].key = "none.key".into());
    assert_eq!(text, "cannot read none.key: entity not found");
    let text = with(&|settings| settings.client_certificates = ClientCertificates::Required);
    assert!(text.starts_with("client_certificates is required, but client_ca is missing"), "{text}");
    let text = with(&|settings| settings.client_ca = Some("a.pem".into()));
    assert!(text.starts_with("client_ca is given, but client_certificates is off"), "{text}");
    for (protocols, starts) in [
        (vec![String::new()], "alpn: a protocol has 1 to 255 bytes, unlike \"\""),
        (vec!["a".repeat(256)], "alpn: a protocol has 1 to 255 bytes"),
        (vec!["h2".to_owned(), "h2".to_owned()], "alpn: \"h2\" is there twice"),
    ] {
        let text = with(&|settings| settings.alpn.clone_from(&protocols));
        assert!(text.starts_with(starts), "{text}");
    }
    let suites = |suites: &[&str], version_min| {
        let suites: Vec<String> = suites.iter().map(ToString::to_string).collect();
        with(&|settings| (settings.suites, settings.version_min) = (suites.clone(), version_min))
    };
    let text = suites(&["TLS_AES_128_CBC_SHA"], Version::Tls12);
    assert!(
        text.starts_with("suites: \"TLS_AES_128_CBC_SHA\" is unknown; there are TLS_AES_256_GCM_SHA384, "),
        "{text}"
    );
    let text = suites(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], Version::Tls13);
    assert!(text.contains("is of TLS 1.2, but version_min is 1.3"), "{text}");
    let text = suites(&["TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"], Version::Tls13);
    assert!(text.contains("TLS_AES_128_GCM_SHA256 is there twice"), "{text}");

    let with_ca = |file: &str| {
        let settings = Settings {
            client_certificates: ClientCertificates::Optional,
            client_ca: Some(file.into()),
            ..settings.clone()
        };
        match refused(&settings, &files) {
            SettingsError::Certificate(error) => (error.line, error.problem),
            other => panic!("{other}"),
        }
    };
    assert_eq!(with_ca("empty.pem"), (None, Problem::NoCertificate(Found::Nothing)));
    assert_eq!(with_ca("a.key"), (None, Problem::NoCertificate(Found::Block("PRIVATE KEY".to_owned()))));
    assert_eq!(with_ca("broken.pem"), (Some(1), Problem::UnreadableCertificate { position: 1 }));
}

#[test]
fn operators_are_warned_when_settings_are_loaded() {
    let (root, mut files, mut settings) = server();
    let now = UnixTime::now().as_secs();
    let (before, after) = (system_time(now - 1000), system_time(now - 100));
    settings
        .certificates
        .push(files.pair("b", root.sign_with(valid_between(params(&["b.example"]), before, after), ECDSA)));
    let warnings = load(&settings, &files).warnings;
    let [Warning { file, line: Some(1), concern: Concern::Expired { position: 1, not_after } }] = &*warnings else {
        panic!("{warnings:?}")
    };
    assert_eq!((&**file, *not_after), (Path::new("b.pem"), after));
    // Without a clock there are no warnings.
    let loaded = settings.load_at(Clock::at(u64::MAX), |file| files.read(file), SECRET).expect("settings");
    assert_eq!(loaded.warnings, []);
}

#[test]
fn operators_are_warned_of_keys_that_everybody_may_read() {
    let (_, _, mut settings) = server();
    settings.certificates.push(CertificateFiles { certificate: "b.pem".into(), key: "b.key".into() });
    for (mode, is_exposed) in
        [(0o100_600, false), (0o640, false), (0o660, false), (0o644, true), (0o602, true), (0o601, false)]
    {
        let warnings = settings.exposed_keys(|file| match file.to_str() {
            Some("b.key") => Ok(mode),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        });
        let expected = Warning { file: "b.key".into(), line: None, concern: Concern::KeyExposed { mode } };
        assert_eq!(warnings, Vec::from_iter(is_exposed.then_some(expected)), "{mode:o}");
    }
    let text = settings.exposed_keys(|_| Ok(0o100_644))[0].to_string();
    assert_eq!(
        text,
        "a.key: users other than the owner and the group may access the private key (permissions 644); use `chmod o=`"
    );
}

#[test]
fn words_of_a_configuration_are_read_and_written() {
    for word in ["off", "optional", "required"] {
        assert_eq!(word.parse::<ClientCertificates>().map(|one| one.to_string()), Ok(word.to_owned()));
    }
    for word in ["1.2", "1.3"] {
        assert_eq!(word.parse::<Version>().map(|one| one.to_string()), Ok(word.to_owned()));
    }
    let error = "yes".parse::<ClientCertificates>().expect_err("no such word");
    assert_eq!(error.to_string(), "must be off, optional or required, not \"yes\"");
    assert_eq!("1.1".parse::<Version>().expect_err("too old").to_string(), "must be 1.2 or 1.3, not \"1.1\"");
}

#[test]
fn a_layer_tells_of_its_certificates() {
    let day = Duration::from_secs(24 * 60 * 60);
    let now = UNIX_EPOCH + Duration::from_secs(1_893_456_000);
    let (root, mut files) = (Authority::root("root"), Files::default());
    let mut pair = |name: &str, names: &[&str], not_after| {
        let (certificate, key) = root.sign_with(valid_between(params(names), now - 80 * day, not_after), ECDSA);
        files.pair(name, (format!("{certificate}{}", root.pem), key))
    };
    let many: Vec<String> = (0..300).map(|number| format!("{number}.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let certificates = vec![
        pair("good", &["a.example", "192.0.2.1"], now + 20 * day),
        pair("late", &["b.example"], now - day),
        pair("many", &many, now + 40 * day),
        pair("same", &["a.example"], now + 40 * day),
    ];
    let tls = Tls::from(load(&Settings { certificates, ..Settings::default() }, &files));
    let all = tls.certificates(now);
    assert_eq!(all[0].names, ["a.example", "192.0.2.1"]);
    assert_eq!(all[2].names.len(), 100);
    let day_s = 24 * 60 * 60;
    let in_s: Vec<i64> = all.iter().map(|one| one.expires_in_s).collect();
    assert_eq!(in_s, [20 * day_s, -day_s, 40 * day_s, 40 * day_s]);
    assert_eq!(all[1].expires_at_s, 1_893_456_000 - 24 * 60 * 60);
    let warnings: Vec<&[String]> = all.iter().map(|one| &one.warnings[..]).collect();
    assert_eq!(warnings[0], [] as [String; 0]);
    assert_eq!(
        warnings[1],
        ["late.pem line 1: the certificate expired at 2029-12-31T00:00:00Z: clients refuse it; renew it"]
    );
    assert_eq!(warnings[2], [] as [String; 0]);
    assert!(warnings[3][0].starts_with("same.pem line 1: no client gets this certificate"), "{warnings:?}");
    assert_eq!(tls.certificates(now + 7 * day)[0].warnings.len(), 1);
}
