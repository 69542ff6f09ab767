//! What a client offers and which certificates it trusts, and rustls's configuration for that.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, ALL_KX_GROUPS, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::certificates::Trust;
use super::tickets::Tickets;

/// The TLS settings of a load's connections.
#[derive(Clone, Debug)]
pub(crate) struct TlsPlan {
    pub(crate) trust: Trust,
    /// The server's name: sent to it (SNI) unless it is an address, and required in its certificate.
    pub(crate) server_name: ServerName<'static>,
    /// New connections resume sessions of earlier ones.
    pub(crate) resumes: bool,
    /// Cipher suites; if empty, those of rustls. The versions follow from them.
    pub(crate) suites: Vec<SupportedCipherSuite>,
    /// Groups of key exchange; if empty, those of rustls.
    pub(crate) groups: Vec<&'static dyn SupportedKxGroup>,
    /// Protocols offered by ALPN (RFC 7301); if empty, the extension is not sent.
    pub(crate) alpn: Vec<Vec<u8>>,
}

impl TlsPlan {
    pub(crate) fn new(trust: Trust, server_name: ServerName<'static>) -> Self {
        Self { trust, server_name, resumes: false, suites: Vec::new(), groups: Vec::new(), alpn: Vec::new() }
    }

    /// rustls's configuration for these settings, which keeps this many sessions to resume.
    ///
    /// # Errors
    /// If rustls does not support them.
    pub(crate) fn config(&self, sessions_max: usize) -> Result<ClientConfig, String> {
        let mut provider = default_provider();
        if !self.suites.is_empty() {
            provider.cipher_suites = self.suites.clone();
        }
        if !self.groups.is_empty() {
            provider.kx_groups = self.groups.clone();
        }
        let has =
            |version: &SupportedProtocolVersion| provider.cipher_suites.iter().any(|suite| suite.version() == version);
        let versions: Vec<_> = [&TLS13, &TLS12].into_iter().filter(|version| has(version)).collect();
        let provider: Arc<CryptoProvider> = provider.into();
        let verifier = self.trust.verifier(&provider)?;
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let config = config.map_err(|error| error.to_string())?.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = self.alpn.clone();
        config.resumption = match self.resumes {
            true => Resumption::store(Arc::new(Tickets::new(sessions_max))),
            false => Resumption::disabled(),
        };
        Ok(config)
    }
}

/// The name of a cipher suite in IANA's list.
pub(super) fn suite_name(suite: CipherSuite) -> String {
    suite.as_str().map_or_else(|| format!("{suite:?}"), |name| name.replacen("TLS13_", "TLS_", 1))
}

/// The cipher suite of this name in IANA's list.
///
/// # Errors
/// Lists the supported ones.
pub(crate) fn suite(name: &str) -> Result<SupportedCipherSuite, String> {
    let named = |suite: &&SupportedCipherSuite| suite_name(suite.suite()).eq_ignore_ascii_case(name);
    ALL_CIPHER_SUITES.iter().find(named).copied().ok_or_else(|| {
        let names: Vec<String> = ALL_CIPHER_SUITES.iter().map(|suite| suite_name(suite.suite())).collect();
        format!("no such suite; there are {}", names.join(", "))
    })
}

/// The group of key exchange of this name in IANA's list.
///
/// # Errors
/// Lists the supported ones.
pub(crate) fn group(name: &str) -> Result<&'static dyn SupportedKxGroup, String> {
    let named = |group: &&&dyn SupportedKxGroup| group_name(**group).eq_ignore_ascii_case(name);
    ALL_KX_GROUPS.iter().find(named).copied().ok_or_else(|| {
        let names: Vec<String> = ALL_KX_GROUPS.iter().map(|group| group_name(*group)).collect();
        format!("no such group; there are {}", names.join(", "))
    })
}

pub(super) fn group_name(group: &dyn SupportedKxGroup) -> String {
    format!("{:?}", group.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_and_groups_are_known_by_the_names_of_iana() {
        assert_eq!(
            suite("TLS_AES_128_GCM_SHA256").map(|suite| suite.suite()),
            Ok(CipherSuite::TLS13_AES_128_GCM_SHA256)
        );
        let older = suite("tls_ecdhe_rsa_with_aes_128_gcm_sha256").expect("known");
        assert_eq!(older.version(), &TLS12);
        assert!(suite("RC4").expect_err("unknown").contains("TLS_CHACHA20_POLY1305_SHA256"));
        for name in ["X25519", "secp256r1", "X25519MLKEM768"] {
            assert!(group(name).is_ok_and(|group| group_name(group).eq_ignore_ascii_case(name)), "{name}");
        }
        assert!(group("brainpool").expect_err("unknown").contains("X25519"));
    }

    #[test]
    fn versions_are_those_of_the_suites() {
        let mut plan = TlsPlan::new(Trust::Anybody, "localhost".try_into().expect("a name"));
        assert!(plan.config(1).is_ok());
        plan.suites = vec![suite("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256").expect("known")];
        assert!(plan.config(1).is_ok());
    }
}
