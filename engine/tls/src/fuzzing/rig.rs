//! A connection with known secrets: with rustls as its server, with a session, and with an attacker in the client's
//! place who can send anything.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ExtractedSecrets, RootCertStore, ServerConfig,
    ServerConnection,
};

use crate::accept::{Config, Progress, told_secrets};
use crate::record::{Direction, Limits, Session, Source};
use crate::schedule::{Suite, TrafficKey};
use crate::settings::Version;

pub(crate) const HOST: &str = "localhost";

/// The suites of TLS 1.2 for which the certificate's key signs.
pub(crate) const SUITES_OF_TLS12: [Suite; 3] =
    [Suite::EcdheEcdsaAes128GcmSha256, Suite::EcdheEcdsaAes256GcmSha384, Suite::EcdheEcdsaChacha20Poly1305Sha256];

/// Number of suites.
const SUITES: usize = Suite::TLS13.len() + Suite::TLS12.len();

/// Selects a suite; bit 32 of the choice selects the version.
pub(super) fn suite_of(choice: u8) -> Suite {
    let suites = if choice & 32 == 0 { &Suite::TLS13 } else { &SUITES_OF_TLS12 };
    suites[usize::from(choice & !32) % suites.len()]
}

pub(crate) struct Rig {
    /// rustls, after its handshake.
    pub(crate) rustls: ServerConnection,
    /// The session in place of rustls.
    pub(crate) session: Session,
    /// The direction with which the client sends.
    pub(crate) client: Direction,
    /// The keys of the client's and the server's records.
    ends: (End, End),
}

/// A direction after the handshake.
#[derive(Clone)]
struct End(Source, u64);

impl End {
    fn direction(&self) -> Direction {
        Direction::of(self.0.clone(), self.1)
    }
}

impl Rig {
    pub(crate) fn new(suite: Suite) -> Self {
        let mut rustls = server_config(suite).rustls_alone();
        let mut client = client(&client_config(suite));
        while client.is_handshaking() || rustls.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("into memory");
            feed(&mut rustls, &bytes).expect("a handshake");
            bytes.clear();
            rustls.write_tls(&mut bytes).expect("into memory");
            client.read_tls(&mut &bytes[..]).expect("from memory");
            client.process_new_packets().expect("a handshake");
        }
        let ends = if suite.version() == Version::Tls13 {
            let (of_client, of_server) = told_secrets(suite).expect("both secrets");
            (End(Source::Secret(of_client), 0), End(Source::Secret(of_server), 0))
        } else {
            let ExtractedSecrets { tx, rx } = client.dangerous_extract_secrets().expect("both keys");
            (key(suite, &tx), key(suite, &rx))
        };
        Self::of(rustls, ends)
    }

    fn of(rustls: ServerConnection, ends: (End, End)) -> Self {
        let (client, server) = (ends.0.direction(), ends.1.direction());
        let session = Session::at(client, server, Limits::default());
        Self { rustls, session, client: ends.0.direction(), ends }
    }

    /// A new session of the same connection. The one of rustls keeps its state.
    pub(super) fn again(self) -> Self {
        Self::of(self.rustls, self.ends)
    }

    /// A session that reads what the server sends.
    pub(super) fn reader(&self) -> Session {
        let limits = Limits { idle_records_max: u8::MAX, ..Limits::default() };
        Session::at(self.ends.1.direction(), self.ends.0.direction(), limits)
    }
}

/// A direction of TLS 1.2, as rustls exports it.
fn key(suite: Suite, (sequence, keys): &(u64, ConnectionTrafficSecrets)) -> End {
    let (key, iv) = match keys {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
        _ => panic!("another AEAD"),
    };
    let traffic_key = TrafficKey::new(suite, key, iv.try_into().expect("twelve bytes")).expect("a key of the suite");
    End(Source::Key(traffic_key), *sequence)
}

/// Feeds bytes to rustls, and takes the plaintext.
pub(crate) fn feed(server: &mut ServerConnection, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut plaintext = Vec::new();
    while !bytes.is_empty() {
        match server.read_tls(&mut bytes) {
            Ok(0) => break,
            Ok(_) => {}
            // Its buffer is full with an incomplete message.
            Err(error) => return Err(rustls::Error::General(error.to_string())),
        }
        let processed = server.process_new_packets();
        match io::Read::read_to_end(&mut server.reader(), &mut plaintext) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => panic!("{error}"),
            _ => {}
        }
        if let Err(error) = processed {
            return if plaintext.is_empty() { Err(error) } else { Ok(plaintext) };
        }
    }
    Ok(plaintext)
}

/// A certificate and its key, the same for all.
fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static IDENTITY: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    let (certificate, key) = IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
        (made.cert.der().clone(), made.signing_key.serialize_der())
    });
    (certificate.clone(), PrivatePkcs8KeyDer::from(key.clone()).into())
}

pub(crate) fn provider(suite: Suite) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|one| one.suite() == suite.id());
    Arc::new(provider)
}

/// A server with ALPN and without tickets, so that it sends nothing on its own.
pub(crate) fn rustls_server_config(provider: Arc<CryptoProvider>) -> ServerConfig {
    let (certificate, key) = identity();
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.expect("versions").with_no_client_auth().with_single_cert(vec![certificate], key);
    let mut config = config.expect("a certificate");
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

pub(crate) fn server_config(suite: Suite) -> &'static Config {
    static CONFIGS: [OnceLock<Config>; SUITES] = [const { OnceLock::new() }; SUITES];
    let config = &CONFIGS[suite as usize];
    config.get_or_init(|| Config::new(rustls_server_config(provider(suite)), Limits::default()))
}

pub(crate) fn rustls_client_config(provider: Arc<CryptoProvider>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(identity().0).expect("a certificate");
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = versions.expect("versions").with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Few records per key, if another key can follow.
pub(super) fn limits_of(suite: Suite) -> Limits {
    let records_per_key_max = (suite.version() == Version::Tls13).then_some(20);
    Limits { records_per_key_max, ..Limits::default() }
}

/// As [`server_config`], with tickets.
pub(super) fn server_config_with_tickets(suite: Suite) -> &'static Config {
    static CONFIGS: [OnceLock<Config>; SUITES] = [const { OnceLock::new() }; SUITES];
    CONFIGS[suite as usize].get_or_init(|| {
        let mut config = rustls_server_config(provider(suite));
        config.send_tls13_tickets = 2;
        Config::new(config, limits_of(suite))
    })
}

pub(crate) fn client_config(suite: Suite) -> Arc<ClientConfig> {
    static CONFIGS: [OnceLock<Arc<ClientConfig>>; SUITES] = [const { OnceLock::new() }; SUITES];
    Arc::clone(CONFIGS[suite as usize].get_or_init(|| Arc::new(rustls_client_config(provider(suite)))))
}

/// Feeds bytes to rustls.
pub(crate) fn tell(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut plaintext = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("from memory");
        client.process_new_packets()?;
        // What cannot be read now is read later.
        let _ = io::Read::read_to_end(&mut client.reader(), &mut plaintext);
    }
    Ok(plaintext)
}

/// Makes a handshake with a client, whose bytes arrive in parts of `part` bytes. Also returns the rest of the input.
pub(crate) fn shake(config: &Config, client: &mut ClientConnection, part: usize) -> (Progress, Vec<u8>) {
    let mut handshake = config.begin().expect("a handshake");
    let (mut input, mut sent) = (Vec::new(), Vec::new());
    loop {
        let mut output = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).expect("into memory");
        }
        assert!(!sent.is_empty(), "the client waits, and so does the server");
        while !sent.is_empty() {
            input.extend(sent.drain(..part.min(sent.len())));
            let (consumed, progress) = handshake.advance(&mut input, &mut output);
            input.drain(..consumed);
            match progress {
                Progress::Incomplete(one) => handshake = one,
                over => {
                    // The output may be an alert, for which the client then returns an error.
                    let _ = tell(client, &output);
                    input.append(&mut sent);
                    return (over, input);
                }
            }
        }
        tell(client, &output).expect("a handshake");
    }
}

pub(crate) fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from(HOST).expect("a name");
    ClientConnection::new(Arc::clone(config), name).expect("a client")
}
