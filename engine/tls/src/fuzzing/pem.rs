//! Any bytes as the files that an operator names.

use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use base64ct::{Base64, Encoding as _};
use rustls::{Error, InconsistentKeys, SignatureScheme};

use crate::certificate::Name;
use crate::settings::{CertificateFiles, ClientCertificates, Loaded, Settings};

const FILES: [&str; 2] = ["cert.pem", "key.pem"];

/// Whether the files can be used.
pub(super) fn run(data: &[u8]) -> bool {
    let [certificate, key] = match data {
        [0x30, 0x82, high, low, ..] => of_der(data, 4 + usize::from(u16::from_be_bytes([*high, *low]))),
        _ => match data.iter().position(|byte| *byte == 0) {
            Some(at) => [data[..at].to_vec(), data[at + 1..].to_vec()],
            None => [data.to_vec(), data.to_vec()],
        },
    };
    let read = |file: &Path| match file.to_str() {
        Some("cert.pem") => Ok(certificate.clone()),
        Some("key.pem") => Ok(key.clone()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let files = CertificateFiles { certificate: FILES[0].into(), key: FILES[1].into() };
    let mut settings = Settings { certificates: vec![files], ..Settings::default() };
    let loaded = settings.load(read, &[7; 32]);
    let is_good = loaded.is_ok();
    match loaded {
        Ok(loaded) => check(&loaded),
        Err(error) => {
            let text = error.to_string();
            assert!(FILES.iter().any(|file| text.starts_with(file)), "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
    settings.client_certificates = ClientCertificates::Required;
    settings.client_ca = Some(FILES[0].into());
    // An identity need not be an authority, and the other way round.
    let _ = settings.load(read, &[7; 32]);
    is_good
}

/// Both as PEM: mutations of base64 would hardly ever change the DER in it.
fn of_der(data: &[u8], length: usize) -> [Vec<u8>; 2] {
    let (certificate, key) = data.split_at(length.min(data.len()));
    [("CERTIFICATE", certificate), ("PRIVATE KEY", key)].map(|(label, der)| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", Base64::encode_string(der)).into_bytes()
    })
}

fn check(loaded: &Loaded) {
    let identities = &loaded.identities;
    let [identity] = identities.all() else { panic!("{identities:?}") };
    // rustls does not read certificates older than version 3.
    let mismatch = Error::InconsistentKeys(InconsistentKeys::KeyMismatch);
    assert_ne!(identity.certified_key().keys_match(), Err(mismatch));
    for days in [0, 20_000, 2_000_000] {
        for warning in identities.warnings(UNIX_EPOCH + Duration::from_secs(days * 24 * 60 * 60)) {
            assert!(warning.to_string().starts_with(FILES[0]), "{warning}");
        }
    }
    for name in identity.names() {
        assert!(!name.to_string().contains(char::is_control), "{name:?}");
        if let Name::Dns(name) = name {
            assert!(std::ptr::eq(identities.choose(Some(name), &[SignatureScheme::ED25519]), identity));
        }
    }
}
