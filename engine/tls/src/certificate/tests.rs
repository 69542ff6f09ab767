use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::SignatureScheme;
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;

use super::made::{Authority, ECDSA, RSA, identity, params, valid_between};
use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// 2030-01-01T00:00:00Z.
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

/// The problem, and the text of the error.
fn refused(certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> (Problem, String) {
    let error = identity(certificate, key).expect_err("it is wrong");
    (error.problem.clone(), error.to_string())
}

fn lines(text: &str) -> usize {
    text.lines().count()
}

#[test]
fn a_chain_with_its_key_is_an_identity() {
    let root = Authority::root("root");
    let middle = root.intermediate("middle");
    for kind in [ECDSA, RSA, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512, &rcgen::PKCS_ED25519] {
        let (certificate, key) = middle.sign(&["Example.COM", "*.example.com", "192.0.2.1", "2001:db8::1"], kind);
        for chain in [
            certificate.clone(),
            [&*certificate, &middle.pem].concat(),
            [&*certificate, &middle.pem, &root.pem].concat(),
        ] {
            let identity = identity(&chain, &key).expect("an identity");
            let names: Vec<_> = identity.names().iter().map(ToString::to_string).collect();
            assert_eq!(names, ["example.com", "*.example.com", "192.0.2.1", "2001:db8::1"]);
            assert_eq!(identity.certified_key().cert.len(), chain.matches("BEGIN").count());
            assert!(identity.certified_key().keys_match().is_ok(), "rustls says so, too");
            assert_eq!(identity.file(), Path::new("cert.pem"));
            assert_eq!(identity.warnings(noon()), []);
        }
    }
}

#[test]
fn names_are_those_that_rustls_accepts() {
    let root = Authority::root("root");
    let (certificate, key) = root.sign(&["a.example", "*.b.example", "_dmarc.c.example", "192.0.2.1"], ECDSA);
    let identity = identity(certificate, key).expect("an identity");
    let parsed = ParsedCertificate::try_from(&identity.certified_key().cert[0]).expect("a certificate");
    for (asked, is_named) in [
        ("a.example", true),
        ("x.b.example", true),
        ("b.example", false),
        ("x.x.b.example", false),
        ("_dmarc.c.example", true),
        ("192.0.2.1", true),
        ("192.0.2.2", false),
    ] {
        let name = ServerName::try_from(asked).expect("a name");
        assert_eq!(verify_server_name(&parsed, &name).is_ok(), is_named, "{asked}");
        let is_known = identity.names().iter().any(|name| match name {
            Name::Dns(name) => name.strip_prefix("*").map_or(**name == *asked, |parent| {
                asked.strip_suffix(parent).is_some_and(|label| !label.contains('.'))
            }),
            Name::Address(address) => address.to_string() == asked,
        });
        assert_eq!(is_known, is_named, "{asked}");
    }
}

#[test]
fn cross_signed_certificates_may_follow_each_other() {
    let root = Authority::root("root");
    let (certificate, key) = root.sign(&["a.example"], ECDSA);
    // The same name and key, as from two authorities: each has signed the first.
    assert!(identity([&*certificate, &root.pem, &root.pem].concat(), key).is_ok());
}

#[test]
fn pem_is_read_as_people_leave_it() {
    let root = Authority::root("root");
    let (certificate, key) = root.sign(&["a.example"], ECDSA);
    let chain = format!("{certificate}{}", root.pem);
    let one_line = |pem: &str| {
        let (begin, rest) = pem.split_once("KEY-----\n").expect("a block");
        let (contents, end) = rest.split_once("-----END").expect("a block");
        format!("{begin}KEY-----\n{}\n-----END{end}", contents.replace('\n', ""))
    };
    for (certificate, key) in [
        (chain.clone(), key.clone()),
        (chain.replace('\n', "\r\n"), key.replace('\n', "\r\n")),
        (chain.replace('\n', "\r"), key.replace('\n', "\r")),
        (format!("\u{feff}{chain}"), format!("\u{feff}{key}")),
        (chain.trim_end().to_owned(), key.trim_end().to_owned()),
        (chain.replace('\n', "  \n\t"), key.replace('\n', " \n ")),
        (format!("subject=CN = a\n\n{chain}\nissuer: -----\n"), one_line(&key)),
        (chain.replace("CERTIFICATE", "X509 CERTIFICATE"), key.replace("KEY-----\nM", "KEY-----\nComment: mine\n\nM")),
        // In one file, in any order, with blocks of other kinds.
        (format!("{key}{chain}"), format!("{key}{chain}")),
        (
            chain.clone(),
            format!("{chain}-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{key}"),
        ),
    ] {
        let identity = identity(&certificate, &key).unwrap_or_else(|error| panic!("{error}\n{certificate}"));
        assert_eq!(identity.certified_key().cert.len(), 2);
    }
}

#[test]
fn a_file_without_what_is_wanted_is_refused() {
    let (certificate, key) = Authority::root("root").sign(&["a.example"], ECDSA);
    assert_eq!(
        refused(&certificate, ""),
        (
            Problem::NoKey(Found::Nothing),
            "key.pem: no private key in this file; it must hold a PKCS#8, SEC1 or PKCS#1 key in PEM".to_owned()
        )
    );
    assert_eq!(
        refused("no certificate\n", &key),
        (
            Problem::NoCertificate(Found::Nothing),
            "cert.pem: no certificate in this file; it must hold one in PEM (-----BEGIN CERTIFICATE-----)".to_owned()
        )
    );
    let (problem, message) = refused(&key, &certificate);
    assert_eq!(problem, Problem::NoCertificate(Found::Block("PRIVATE KEY".to_owned())));
    assert!(message.ends_with("; the file holds PRIVATE KEY"), "{message}");
    assert_eq!(refused(&certificate, &certificate).0, Problem::NoKey(Found::Block("CERTIFICATE".to_owned())));
    let der = identity(&certificate, &key).expect("an identity").certified_key().cert[0].to_vec();
    let (problem, message) = refused(der, &key);
    assert_eq!(problem, Problem::NoCertificate(Found::Der));
    assert!(message.contains("openssl x509 -inform der"), "{message}");
}

#[test]
fn a_damaged_block_is_refused_with_its_line() {
    let (certificate, key) = Authority::root("root").sign(&["a.example"], ECDSA);
    let unfinished = certificate.replace("-----END CERTIFICATE-----\n", "");
    for (certificate, key, problem, starts) in [
        (
            format!("\n{}", certificate.replacen("CERTIFICATE-----", "CERTIFICATE----", 1)),
            key.clone(),
            Problem::Pem(Damage::Begin),
            "cert.pem line 2: a BEGIN line is damaged",
        ),
        (
            unfinished.clone(),
            key.clone(),
            Problem::Pem(Damage::NoEnd("CERTIFICATE".to_owned())),
            "cert.pem line 1: the block CERTIFICATE has no END line",
        ),
        (
            format!("text\n\n{unfinished}{certificate}"),
            key.clone(),
            Problem::Pem(Damage::NoEnd("CERTIFICATE".to_owned())),
            "cert.pem line 3: the block CERTIFICATE has no END line",
        ),
        (
            certificate.replacen("CERTIFICATE-----\nM", "CERTIFICATE-----\n%", 1),
            key.clone(),
            Problem::Pem(Damage::Base64("CERTIFICATE".to_owned())),
            "cert.pem line 1: the contents of the block CERTIFICATE are damaged",
        ),
        (
            certificate.clone(),
            format!("text\n{}", key.replace("-----END", "=\n-----END")),
            Problem::Pem(Damage::Base64("PRIVATE KEY".to_owned())),
            "key.pem line 2: the contents of the block PRIVATE KEY are damaged",
        ),
        (
            certificate.clone(),
            key.replace("END PRIVATE", "END PUBLIC"),
            Problem::Pem(Damage::NoEnd("PRIVATE KEY".to_owned())),
            "key.pem line 1: the block PRIVATE KEY has no END line",
        ),
        (
            format!("{certificate}-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
            key.clone(),
            Problem::UnreadableCertificate { position: 2 },
            "cert.pem line 12: the second certificate cannot be read",
        ),
        (
            certificate.clone(),
            "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n".to_owned(),
            Problem::UnusableKey,
            "key.pem line 1: the private key cannot be used: it must be RSA of 2048 to 8192 bits",
        ),
    ] {
        let (found, message) = refused(certificate, key);
        assert_eq!(found, problem, "{message}");
        let starts = starts.replace("line 12", &format!("line {}", lines(&unfinished) + 2));
        assert!(message.starts_with(&starts), "{message}");
    }
}

#[test]
fn a_label_that_no_line_should_show_is_not_shown() {
    let (certificate, key) = Authority::root("root").sign(&["a.example"], ECDSA);
    for label in ["\u{1b}[2J", "", "Ä", &"A".repeat(65)] {
        let damaged = format!("-----BEGIN {label}-----\n-----END {label}-----\n{certificate}");
        assert_eq!(refused(damaged, &key).0, Problem::Pem(Damage::Begin));
    }
}

#[test]
fn encrypted_and_second_keys_are_refused() {
    let (certificate, key) = Authority::root("root").sign(&["a.example"], ECDSA);
    let legacy =
        key.replace("PRIVATE KEY-----\nM", "PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nM");
    for encrypted in [key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), legacy] {
        let (problem, message) = refused(&certificate, encrypted);
        assert_eq!(problem, Problem::EncryptedKey);
        assert!(message.starts_with("key.pem line 1: the private key is encrypted"), "{message}");
        assert!(message.contains("openssl pkey"), "{message}");
    }
    let (problem, message) = refused(&certificate, format!("{key}{key}"));
    assert_eq!(problem, Problem::SecondKey);
    assert!(message.starts_with(&format!("key.pem line {}: a second private key", lines(&key) + 1)), "{message}");
}

#[test]
fn certificates_that_do_not_sign_are_refused() {
    let (root, other) = (Authority::root("root"), Authority::root("root"));
    let middle = root.intermediate("middle");
    let (certificate, key) = middle.sign(&["a.example"], ECDSA);
    let second = lines(&certificate) + 1;
    // In the wrong order, of another authority by name, and of one that only has the same name.
    for chain in [[&*certificate, &root.pem, &middle.pem], [&certificate, &other.pem, ""]] {
        let (problem, message) = refused(chain.concat(), &key);
        assert_eq!(problem, Problem::DoesNotSign { position: 2 });
        assert!(
            message.starts_with(&format!("cert.pem line {second}: the second certificate does not sign the first")),
            "{message}"
        );
    }
    let (problem, message) = refused([&*certificate, &middle.pem, &other.pem].concat(), &key);
    assert_eq!(problem, Problem::DoesNotSign { position: 3 });
    assert!(message.contains(": the third certificate does not sign any before it"), "{message}");
    let long = format!("{certificate}{}", middle.pem.repeat(CHAIN_CERTIFICATES_MAX));
    assert_eq!(refused(long, &key).0, Problem::LongChain);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let root = Authority::root("root");
    let (certificate, key) = root.sign(&["a.example"], ECDSA);
    for kind in [ECDSA, RSA] {
        let (_, other) = root.sign(&["a.example"], kind);
        assert_eq!(
            refused(&certificate, other),
            (
                Problem::OtherKey { certificate: "cert.pem".into(), position: None },
                "key.pem line 1: the key does not belong to the certificate in cert.pem: are these files of different pairs?"
                    .to_owned()
            )
        );
    }
    // A chain in the wrong order.
    assert_eq!(
        refused([&*root.pem, &certificate].concat(), key),
        (
            Problem::OtherKey { certificate: "cert.pem".into(), position: Some(2) },
            "key.pem line 1: the key does not belong to the first certificate in cert.pem but to the second: the server's certificate must come first"
                .to_owned()
        )
    );
}

#[test]
fn operators_are_warned_of_dates_and_missing_names() {
    let root = Authority::root("root");
    let made = |not_before, not_after, names: &[&str]| {
        let (certificate, key) = root.sign_with(valid_between(params(names), not_before, not_after), ECDSA);
        identity(format!("{certificate}{}", root.pem), key).expect("an identity")
    };
    let one = made(noon() - 30 * DAY, noon() + 30 * DAY, &["a.example"]);
    assert_eq!((one.not_before(), one.not_after()), (noon() - 30 * DAY, noon() + 30 * DAY));
    let concerns =
        |one: &Identity, now| one.warnings(now).into_iter().map(|warning| warning.concern).collect::<Vec<_>>();
    let not_after = one.not_after();
    for (now, expected) in [
        (noon(), None),
        (noon() + 16 * DAY, None),
        (noon() + 16 * DAY + Duration::from_secs(1), Some(Concern::Expires { position: 1, not_after, days: 13 })),
        (not_after, Some(Concern::Expires { position: 1, not_after, days: 0 })),
        (not_after + Duration::from_secs(1), Some(Concern::Expired { position: 1, not_after })),
        (noon() - 31 * DAY, Some(Concern::NotYetValid { position: 1, not_before: one.not_before() })),
    ] {
        assert_eq!(concerns(&one, now), Vec::from_iter(expected), "{now:?}");
    }
    let texts: Vec<_> = [noon() - 31 * DAY, noon() + 28 * DAY + DAY / 2, noon() + 31 * DAY]
        .map(|now| one.warnings(now)[0].to_string())
        .to_vec();
    assert_eq!(
        texts,
        [
            "cert.pem line 1: the certificate is not valid before 2029-12-02T00:00:00Z: clients refuse it until then, or the clock is wrong",
            "cert.pem line 1: the certificate expires in 1 day, at 2030-01-31T00:00:00Z; renew it",
            "cert.pem line 1: the certificate expired at 2030-01-31T00:00:00Z: clients refuse it; renew it",
        ]
    );
    // A certificate that is valid for six days is renewed every few days.
    let short = made(noon(), noon() + 6 * DAY, &["a.example"]);
    assert_eq!(concerns(&short, noon() + 4 * DAY), []);
    let expected = Concern::Expires { position: 1, not_after: noon() + 6 * DAY, days: 1 };
    assert_eq!(concerns(&short, noon() + 4 * DAY + Duration::from_secs(1)), [expected]);
    // The issuer's, too: rcgen's roots are valid until 4096.
    let far = UNIX_EPOCH + Duration::from_secs(80_000_000_000);
    let of_issuer = one.warnings(far).pop().expect("a warning");
    assert!(matches!(of_issuer.concern, Concern::Expired { position: 2, .. }), "{of_issuer}");
    assert!(of_issuer.to_string().contains(": the second certificate expired at 4096-"), "{of_issuer}");
    let nameless = made(noon() - 30 * DAY, noon() + 30 * DAY, &[]);
    assert_eq!(concerns(&nameless, noon()), [Concern::NoNames]);
}

const ALL_SCHEMES: &[SignatureScheme] =
    &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519];

/// From files that are named after the first name and the kind of key.
fn identities(root: &Authority, of: &[(&[&str], &'static rcgen::SignatureAlgorithm)]) -> Identities {
    let all = of.iter().enumerate().map(|(at, (names, kind))| {
        let (certificate, key) = root.sign(names, kind);
        let file = format!("{at}.pem");
        let pem = |bytes| Pem { file: Path::new(&file), bytes };
        Identity::from_pem(pem(certificate.as_bytes()), pem(key.as_bytes())).expect("an identity")
    });
    Identities::new(all.collect()).expect("one at least")
}

fn chosen(identities: &Identities, host: &str, schemes: &[SignatureScheme]) -> String {
    let host = (!host.is_empty()).then_some(host);
    identities.choose(host, schemes).file().display().to_string()
}

#[test]
fn a_client_gets_the_certificate_of_the_host_that_it_names() {
    let root = Authority::root("root");
    let identities = identities(
        &root,
        &[
            (&["default.example", "*.wild.example"], ECDSA),
            (&["a.example", "192.0.2.1"], ECDSA),
            (&["exact.wild.example", "*.a.example"], ECDSA),
        ],
    );
    for (host, file) in [
        ("a.example", "1.pem"),
        ("A.Example.", "1.pem"),
        ("exact.wild.example", "2.pem"),
        ("EXACT.wild.example", "2.pem"),
        ("other.wild.example", "0.pem"),
        ("x.a.example", "2.pem"),
        ("default.example", "0.pem"),
        // The first one, for unknown names.
        ("", "0.pem"),
        ("x.x.a.example", "0.pem"),
        ("wild.example", "0.pem"),
        ("example", "0.pem"),
        ("192.0.2.1", "0.pem"),
        (".", "0.pem"),
        ("..", "0.pem"),
        (".a.example", "2.pem"),
    ] {
        assert_eq!(chosen(&identities, host, ALL_SCHEMES), file, "{host}");
    }
    assert!(Identities::new(Vec::new()).is_none());
}

#[test]
fn of_two_kinds_of_keys_a_client_gets_one_that_it_can_verify() {
    let root = Authority::root("root");
    let identities = identities(
        &root,
        &[
            (&["a.example"], ECDSA),
            (&["a.example"], RSA),
            (&["b.example", "x.c.example"], RSA),
            (&["b.example", "*.c.example"], ECDSA),
        ],
    );
    let (of_rsa, of_ecdsa) = ([SignatureScheme::RSA_PSS_SHA256], [SignatureScheme::ECDSA_NISTP256_SHA256]);
    for (host, schemes, file) in [
        ("a.example", ALL_SCHEMES, "0.pem"),
        ("a.example", &of_rsa, "1.pem"),
        ("b.example", ALL_SCHEMES, "2.pem"),
        ("b.example", &of_ecdsa, "3.pem"),
        // The exact name first, and then the wildcard, if its key suits the client better.
        ("x.c.example", ALL_SCHEMES, "2.pem"),
        ("x.c.example", &of_ecdsa, "3.pem"),
        // The default is a pair, too.
        ("", &of_ecdsa, "0.pem"),
        ("", &of_rsa, "1.pem"),
        // rustls reports the problem to the client.
        ("b.example", &[SignatureScheme::ED25519], "2.pem"),
        ("", &[], "0.pem"),
    ] {
        assert_eq!(chosen(&identities, host, schemes), file, "{host} {schemes:?}");
    }
}

#[test]
fn operators_are_warned_of_certificates_that_no_client_gets() {
    let root = Authority::root("root");
    let hidden = |of: &[(&[&str], &'static rcgen::SignatureAlgorithm)]| {
        let warnings = identities(&root, of).warnings(noon());
        let hidden = warnings.into_iter().filter(|warning| warning.concern == Concern::NeverChosen);
        hidden.map(|warning| warning.file.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        hidden(&[(&["a.example"], ECDSA), (&["a.example"], RSA), (&["b.example", "a.example"], ECDSA)]),
        [""; 0]
    );
    assert_eq!(
        hidden(&[(&["a.example", "b.example"], ECDSA), (&["b.example"], ECDSA), (&["*.b.example"], ECDSA)]),
        ["1.pem"]
    );
    // Only the first is for clients that name no host.
    assert_eq!(hidden(&[(&["192.0.2.1"], ECDSA), (&["192.0.2.1"], RSA), (&["192.0.2.1"], ECDSA)]), ["2.pem"]);
    assert_eq!(hidden(&[(&["a.example"], ECDSA), (&[], RSA)]), ["1.pem"]);
}
