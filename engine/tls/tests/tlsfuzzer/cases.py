"""Which scripts run, against which server, and what fails in them, with the reason."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fails:
    """Conversations that fail, as a regular expression of the whole name, and what the error says."""

    conversations: str
    error: str
    reason: str
    # Where a script takes a random sample.
    is_rare: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    script: str
    server: str = "rsa"
    arguments: tuple = ()
    fails: tuple = ()


REFUSED = "Alert(fatal, handshake_failure)"
INSTEAD = "does not match received"
HELLO = "Handshake(server_hello"
CLOSED = "Unexpected closure from peer"

NO_GROUP = "x448, secp521r1, FFDHE: groups that are not offered"
NO_SUITE = "AES-CCM: not offered"
NO_TLS_1_2 = "TLS 1.2 and older are not served"
NO_TICKET = "no ticket without psk_key_exchange_modes (RFC 8446 section 4.2.9)"
SILENT = "rustls closes without an alert"
LATE = "rustls sends ServerHello first, then handshake_failure"
FINISHED_LENGTH = "rustls answers a Finished of another length with decrypt_error, not decode_error"
KNOWN_EXTENSIONS = "extensions that rustls knows and the script does not: empty or random, they cannot be decoded"

SCHEMES = (
    "ecdsa_secp384r1_sha384 ecdsa_secp256r1_sha256 ecdsa_secp521r1_sha512 ed25519 rsa_pss_rsae_sha512 "
    "rsa_pss_rsae_sha384 rsa_pss_rsae_sha256 rsa_pkcs1_sha512 rsa_pkcs1_sha384 rsa_pkcs1_sha256 mldsa44 mldsa65 mldsa87"
)

# A certificate's key has one curve, and TLS 1.3 one scheme for it.
CANNOT_SIGN = (
    Fails("Test with ecdsa_(brainpool|secp).*|ed448 only", REFUSED, "the server's key is of another kind"),
    Fails("Test with ecdsa_sha.*|ecdsa_.* only", HELLO, LATE),
)
OF_ANOTHER_KEY = (
    Fails(
        "check ecdsa_secp.* signature is refused",
        f'"illegal_parameter" {INSTEAD} "decrypt_error"',
        "a scheme that was offered, with a key of another kind, does not verify: decrypt_error (RFC 8446 section 4.4.3)",
    ),
)


def client(kind):
    return ("-k", f"FOLDER/client-{kind}.key", "-c", f"FOLDER/client-{kind}.pem", "-s", SCHEMES)


CASES = (
    Case("0rtt-garbage", fails=(Fails(".*downgrade to TLS 1.2.*", "protocol_version", NO_TLS_1_2),)),
    Case("ccs"),
    Case("certificate-request", "clients", (*client("rsa"), "-E", "47:CR key_share:SH supported_versions:SH")),
    Case("certificate-verify", "clients", client("rsa")),
    Case("connection-abort", fails=(Fails("After NewSessionTicket", "ApplicationData", NO_TICKET),)),
    Case("conversation"),
    Case("conversation", "ecdsa"),
    Case("conversation", "ed25519"),
    Case("count-tickets"),
    Case(
        "crfg-curves",
        fails=(
            Fails(".*x448.*", "handshake_failure", NO_GROUP),
            Fails(
                "empty (x25519|x448) key share",
                f'"illegal_parameter" {INSTEAD} "decode_error"',
                "an empty key_exchange cannot be decoded (RFC 8446 section 4.2.8)",
            ),
        ),
    ),
    Case("dhe-shared-secret-padding", fails=(Fails(".*(ffdhe|x448|secp521r1).*", REFUSED, NO_GROUP, True),)),
    Case("ecdhe-curves", fails=(Fails(".*(x448|secp521r1).*", "handshake_failure", NO_GROUP),)),
    Case("ecdsa-in-certificate-verify", "clients", client("ecdsa"), OF_ANOTHER_KEY),
    Case("ecdsa-in-certificate-verify", "clients", client("ecdsa384"), OF_ANOTHER_KEY),
    Case("ecdsa-support", "ecdsa", fails=CANNOT_SIGN),
    Case("ecdsa-support", "ecdsa384", fails=CANNOT_SIGN),
    Case("eddsa", "ed25519", fails=CANNOT_SIGN),
    Case("eddsa-in-certificate-verify", "clients", client("ed25519"), OF_ANOTHER_KEY),
    Case(
        "empty-alert",
        fails=(
            Fails(
                ".*using handshake keys",
                f'"unexpected_message" {INSTEAD} "decode_error"',
                "rustls answers an empty alert during the handshake with decode_error (RFC 8446 section 5.4)",
            ),
        ),
    ),
    Case("finished", fails=(Fails("(padding|truncation).*", f'"decode_error" {INSTEAD} "decrypt_error"', FINISHED_LENGTH, True),)),
    Case(
        "finished-plaintext",
        fails=(
            Fails(
                "Unencrypted Finished message",
                f'"unexpected_message" {INSTEAD} "bad_record_mac"',
                "rustls tries to open a record that is not encrypted",
            ),
        ),
    ),
    Case("hrr"),
    Case("invalid-ciphers"),
    Case(
        "keyshare-omitted",
        fails=(
            Fails(
                "key_share extension omitted",
                f'"missing_extension" {INSTEAD} "handshake_failure"',
                "rustls says handshake_failure (RFC 8446 section 9.2: missing_extension)",
            ),
        ),
    ),
    # One KeyUpdate answers any number of requests (RFC 8446 section 4.6.3).
    Case("keyupdate", arguments=("--coalescing",)),
    Case("large-number-of-extensions", fails=(Fails(".*ids in range.*", "decode_error", KNOWN_EXTENSIONS, True),)),
    Case(
        "legacy-version",
        fails=(
            Fails(
                "version .*",
                HELLO,
                "legacy_version is ignored (RFC 8446 section 4.2.1); that 3.0 must be refused (appendix D.5) rustls does not do",
            ),
        ),
    ),
    Case("lengths", "echo", ("-n", "100")),
    Case("mlkem", arguments=("--kems", "x25519mlkem768")),
    Case(
        "multiple-ccs-messages",
        fails=(
            Fails(".*CCS.*", "Timeout", "rustls drops two change_cipher_spec, which RFC 8446 section 5 allows"),
        ),
    ),
    Case("no-unknown-groups", arguments=("--groups", "x25519,secp256r1,secp384r1,x25519mlkem768")),
    Case("nociphers"),
    Case("pkcs-signature", fails=(Fails("rsa_pkcs1.*", HELLO, LATE),)),
    Case(
        "record-layer-limits",
        fails=(
            Fails("max size payload .* of Finished msg.*", f'"decode_error" {INSTEAD} "decrypt_error"', FINISHED_LENGTH),
            Fails(
                "too big ClientHello msg.*",
                HELLO,
                "rustls takes records of up to 2^14 + 2048 bytes while nothing is encrypted (RFC 8446 section 5.1: 2^14)",
            ),
        ),
    ),
    Case("record-padding"),
    Case("rsa-signatures", fails=(Fails(".*rsa_pss_pss.*", HELLO, LATE),)),
    Case("serverhello-random", arguments=("--repeat", "8"), fails=(Fails(".*(ffdhe|x448|secp521r1).*", REFUSED, NO_GROUP),)),
    Case(
        "session-resumption",
        fails=(
            Fails(".*TLS 1.2.*", REFUSED, NO_TLS_1_2),
            Fails("session resumption - PSK_ONLY", "ApplicationData", "no ticket for psk_ke alone (RFC 8446 section 4.2.9)"),
        ),
    ),
    Case(
        "shuffled-extentions",
        fails=(
            Fails("HRR reversed order.*", HELLO, "no server must compare the second ClientHello (RFC 8446 section 4.1.2)"),
            Fails("HRR reversed order.*", "decode_error", KNOWN_EXTENSIONS),
        ),
    ),
    Case(
        "signature-algorithms",
        fails=(
            Fails(".*32715.*", CLOSED, f"a ClientHello of more than 64 KiB: {SILENT}", True),
            Fails("only (legacy|undefined) sigalgs", HELLO, LATE, True),
        ),
    ),
    Case("symetric-ciphers", fails=(Fails(".*_CCM_.*", REFUSED, NO_SUITE),)),
    Case("unencrypted-alert"),
    Case("unrecognised-groups", fails=(Fails(".*ffdhe2048.*", REFUSED, NO_GROUP),)),
    Case("version-negotiation", fails=(Fails(r"fallback .*|TLS 1\.\d in client hello legacy field", "protocol_version", NO_TLS_1_2),)),
    Case("zero-content-type", fails=(Fails(".*during handshake", CLOSED, SILENT),)),
    Case("zero-length-data", fails=(Fails(".*interleaved in handshake", CLOSED, SILENT),)),
)
