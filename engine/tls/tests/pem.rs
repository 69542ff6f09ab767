//! Files that OpenSSL writes: every form of certificates and keys, with text before the blocks and CRLF.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use baton_tls::certificate::{Concern, Found, Identity, Pem, Problem};
use baton_tls::files;
use baton_tls::settings::{CertificateFiles, Settings};
use rustls::SignatureAlgorithm;

/// A folder in which openssl creates files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("SKIPPED: openssl is not installed");
            return None;
        }
        Some(Self(tempfile::tempdir().expect("a folder")))
    }

    /// Runs openssl with the words of `command`.
    fn openssl(&self, command: &str) {
        let run =
            Command::new("openssl").args(command.split_whitespace()).current_dir(&self.0).stdin(Stdio::null()).output();
        let run = run.expect("openssl");
        assert!(run.status.success(), "openssl {command}: {}", String::from_utf8_lossy(&run.stderr));
    }

    /// A self-signed certificate in `cert.pem`, with text before it, for the key in `key.pem`.
    fn self_signed(&self) {
        self.openssl("req -x509 -new -key key.pem -subj /CN=a.example -addext subjectAltName=DNS:a.example -days 30 -text -out cert.pem");
    }

    fn identity(&self, certificate: &str, key: &str) -> Result<Identity, (String, Option<usize>, Problem)> {
        let [certificate_bytes, key_bytes] =
            [certificate, key].map(|file| files::read(&self.0.path().join(file)).expect(file));
        let certificate = Pem { file: Path::new(certificate), bytes: &certificate_bytes };
        let key = Pem { file: Path::new(key), bytes: &key_bytes };
        Identity::from_pem(certificate, key)
            .map_err(|error| (error.file.display().to_string(), error.line, error.problem))
    }
}

#[test]
fn keys_of_every_form_are_read() {
    let Some(folder) = Folder::new() else { return };
    for (command, algorithm) in [
        ("genrsa -out key.pem 2048", SignatureAlgorithm::RSA),
        ("genrsa -traditional -out key.pem 2048", SignatureAlgorithm::RSA),
        ("genpkey -algorithm ed25519 -out key.pem", SignatureAlgorithm::ED25519),
        ("genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-256 -out key.pem", SignatureAlgorithm::ECDSA),
        // With the curve's parameters in a separate block.
        ("ecparam -name prime256v1 -genkey -out key.pem", SignatureAlgorithm::ECDSA),
        ("ecparam -name secp384r1 -genkey -noout -out key.pem", SignatureAlgorithm::ECDSA),
        ("ecparam -name secp521r1 -genkey -noout -out key.pem", SignatureAlgorithm::ECDSA),
    ] {
        folder.openssl(command);
        folder.self_signed();
        let identity = folder.identity("cert.pem", "key.pem").unwrap_or_else(|error| panic!("{command}: {error:?}"));
        assert_eq!(identity.certified_key().key.algorithm(), algorithm, "{command}");
        assert_eq!(identity.names().iter().map(ToString::to_string).collect::<Vec<_>>(), ["a.example"]);
        let text = fs::read_to_string(folder.0.path().join("cert.pem")).expect("a file");
        assert!(text.starts_with("Certificate:"), "it begins with text");
        // As a program for Windows writes it, and both in one file.
        let both = fs::read_to_string(folder.0.path().join("key.pem")).expect("a file") + &text;
        fs::write(folder.0.path().join("both.pem"), both.replace('\n', "\r\n")).expect("written");
        let again = folder.identity("both.pem", "both.pem").unwrap_or_else(|error| panic!("{command}: {error:?}"));
        assert_eq!(again.certified_key().cert, identity.certified_key().cert);
    }
}

#[test]
fn keys_that_no_server_can_read_are_named() {
    let Some(folder) = Folder::new() else { return };
    folder.openssl("ecparam -name prime256v1 -genkey -noout -out key.pem");
    folder.self_signed();
    folder.openssl("pkcs8 -topk8 -in key.pem -passout pass:secret -out encrypted.pem");
    folder.openssl("ec -in key.pem -aes256 -passout pass:secret -out encrypted_sec1.pem");
    folder.openssl("pkey -in key.pem -outform der -out key.der");
    folder.openssl("pkey -in key.pem -pubout -out public.pem");
    folder.openssl("genrsa -out short.pem 1024");
    folder.openssl("ecparam -name secp256k1 -genkey -noout -out curve.pem");
    for (key, line, problem) in [
        ("encrypted.pem", Some(1), Problem::EncryptedKey),
        ("encrypted_sec1.pem", Some(1), Problem::EncryptedKey),
        ("key.der", None, Problem::NoKey(Found::Der)),
        ("public.pem", None, Problem::NoKey(Found::Block("PUBLIC KEY".to_owned()))),
        ("short.pem", Some(1), Problem::UnusableKey),
        ("curve.pem", Some(1), Problem::UnusableKey),
    ] {
        let error = folder.identity("cert.pem", key).expect_err(key);
        assert_eq!(error, (key.to_owned(), line, problem));
    }
    folder.openssl("x509 -in cert.pem -outform der -out cert.der");
    let error = folder.identity("cert.der", "key.pem").expect_err("it is DER");
    assert_eq!(error, ("cert.der".to_owned(), None, Problem::NoCertificate(Found::Der)));
}

#[test]
fn a_chain_with_the_text_of_openssl_has_the_lines_of_its_file() {
    let Some(folder) = Folder::new() else { return };
    folder.openssl("ecparam -name prime256v1 -genkey -noout -out ca.key");
    folder.openssl("req -x509 -new -key ca.key -subj /CN=root -days 30 -text -out ca.pem");
    folder.openssl(
        "req -x509 -new -newkey rsa:2048 -nodes -keyout other.key -subj /CN=root -days 30 -text -out other.pem",
    );
    folder.openssl("genrsa -out key.pem 2048");
    folder.openssl("req -new -key key.pem -subj /CN=a.example -out request.pem");
    // Without extensions this is X.509 of version 1, which names no host.
    folder.openssl("x509 -req -in request.pem -CA ca.pem -CAkey ca.key -days 30 -text -out leaf.pem");
    let read = |file: &str| fs::read_to_string(folder.0.path().join(file)).expect(file);
    let chain = read("leaf.pem") + &read("ca.pem");
    fs::write(folder.0.path().join("chain.pem"), &chain).expect("written");
    let identity = folder.identity("chain.pem", "key.pem").expect("an identity");
    assert_eq!(identity.names(), []);
    let concerns: Vec<_> =
        identity.warnings(identity.not_before()).into_iter().map(|warning| warning.concern).collect();
    assert_eq!(concerns, [Concern::NoNames]);

    // An issuer whose curve nothing here can verify: clients must decide about it.
    folder.openssl("ecparam -name secp256k1 -genkey -noout -out odd.key");
    folder.openssl("req -x509 -new -key odd.key -subj /CN=root -days 30 -out odd.pem");
    folder.openssl("x509 -req -in request.pem -CA odd.pem -CAkey odd.key -days 30 -out odd_leaf.pem");
    fs::write(folder.0.path().join("odd_chain.pem"), read("odd_leaf.pem") + &read("odd.pem")).expect("written");
    folder.identity("odd_chain.pem", "key.pem").expect("an identity");

    let wrong = read("leaf.pem") + &read("other.pem");
    fs::write(folder.0.path().join("wrong.pem"), &wrong).expect("written");
    let is_begin = |line: &&str| line.starts_with("-----BEGIN ");
    let line = wrong.lines().enumerate().filter(|(_, line)| is_begin(line)).nth(1).expect("a second").0 + 1;
    let error = folder.identity("wrong.pem", "key.pem").expect_err("it is another root");
    assert_eq!(error, ("wrong.pem".to_owned(), Some(line), Problem::DoesNotSign { position: 2 }));
}

#[test]
fn settings_are_loaded_from_the_disk() {
    let Some(folder) = Folder::new() else { return };
    folder.openssl("ecparam -name prime256v1 -genkey -noout -out key.pem");
    folder.self_signed();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|file| folder.0.path().join(file));
    let settings = Settings { certificates: vec![CertificateFiles { certificate, key }], ..Settings::default() };
    let loaded = settings.load(files::read, &[7; 32]).expect("settings");
    assert_eq!(loaded.warnings, []);
    assert!(loaded.config.begin().is_ok());
    // OpenSSL lets only the owner read keys.
    assert_eq!(settings.exposed_keys(files::mode), []);
}
