use super::*;

/// RFC 8448 section 3: the secret, key and IV of the client's application data, then of the server's.
pub(crate) const TRACE: [[&str; 3]; 2] = [
    [
        "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
        "17422dda596ed5d9acd890e3c63f5051",
        "5b78923dee08579033e523d9",
    ],
    [
        "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
        "9f02283b6c9c07efc26bb9f2ac92e356",
        "cf782b88dd83549aadf1e984",
    ],
];

pub(crate) fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("a byte")).collect()
}

#[test]
fn keys_and_ivs_are_those_of_rfc_8448() {
    for [secret, key, iv] in TRACE {
        let secret = Secret::new(Suite::Aes128GcmSha256, &bytes_of(secret)).expect("a secret");
        let traffic_key = secret.traffic_key();
        assert_eq!((traffic_key.key(), &traffic_key.iv()[..]), (&bytes_of(key)[..], &bytes_of(iv)[..]));
    }
}

#[test]
fn secrets_of_another_length_are_refused() {
    for suite in Suite::TLS13 {
        for length in 0..64 {
            let secret = Secret::new(suite, &vec![7; length]);
            assert_eq!(secret.is_some(), length == suite.secret_bytes(), "{suite:?} {length}");
        }
    }
}

#[test]
fn suites_are_found_by_their_numbers() {
    for suite in Suite::TLS13.into_iter().chain(Suite::TLS12) {
        assert_eq!(Suite::of(suite.id()), Some(suite));
        assert_eq!(suite.version() == Version::Tls13, Suite::TLS13.contains(&suite));
    }
    assert_eq!(Suite::of(CipherSuite::TLS13_AES_128_CCM_SHA256), None);
}

#[test]
fn nothing_secret_is_printed() {
    let secret = Secret::new(Suite::Aes128GcmSha256, &[0xAB; 32]).expect("a secret");
    let printed = format!("{secret:?} {secret:#?} {:?}", secret.traffic_key());
    assert!(printed.contains("Aes128GcmSha256"), "{printed}");
    let key: Vec<String> = secret.traffic_key().key().iter().map(u8::to_string).collect();
    assert!(!printed.to_lowercase().contains("ab, ") && !printed.contains("171"), "{printed}");
    assert!(!printed.contains(&key.join(", ")), "{printed}");
}
