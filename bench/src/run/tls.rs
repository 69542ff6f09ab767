//! The part of the command line that concerns TLS.

use std::path::PathBuf;

use clap::Args;
use rustls::pki_types::ServerName;

use super::arguments::ProtocolName;
use super::target::Target;
use crate::load::{TlsPlan, Trust, group, read_certificates, suite};

/// The ALPN name of HTTP/1.1.
const HTTP_1_1: &[u8] = b"http/1.1";

#[derive(Debug, Args)]
#[command(next_help_heading = "With TLS (https://, wss://, tls://)")]
pub(crate) struct TlsArguments {
    /// Trust the certificates in this PEM file: the server's own (its dates are then ignored), or those of its issuers.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    cacert: Option<PathBuf>,
    /// Accept any certificate.
    #[arg(long, short = 'k')]
    insecure: bool,
    /// Send this name to the server (SNI) and expect it in the certificate; default is the target's host.
    #[arg(long, value_name = "NAME")]
    servername: Option<String>,
    /// Resume earlier sessions by ticket in new connections.
    #[arg(long, overrides_with = "no_resume")]
    resume: bool,
    /// Make a full handshake in each connection: the default.
    #[arg(long, overrides_with = "resume")]
    no_resume: bool,
    /// Offer this cipher suite only, such as TLS_AES_128_GCM_SHA256; repeatable. Suites of TLS 1.2 alone make it TLS 1.2.
    #[arg(long = "suite", value_name = "NAME")]
    suites: Vec<String>,
    /// Offer this group of key exchange only, such as X25519; repeatable.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// Offer this protocol by ALPN; repeatable. Default: http/1.1 for http and ws, none for others.
    #[arg(long = "alpn", value_name = "NAME")]
    alpn: Vec<String>,
    /// Offer no protocol by ALPN.
    #[arg(long, conflicts_with = "alpn")]
    no_alpn: bool,
}

impl TlsArguments {
    /// The TLS settings for a target, if it uses TLS.
    pub(super) fn plan(&self, target: &Target, protocol: ProtocolName) -> Result<Option<TlsPlan>, String> {
        if !target.is_secure {
            return match self.used() {
                None => Ok(None),
                Some(flag) => Err(format!("{flag} is about TLS; name the target https://, wss:// or tls://")),
            };
        }
        let trust = match &self.cacert {
            Some(path) => read_certificates(path).map_err(|problem| format!("--cacert {problem}"))?,
            None if self.insecure => Trust::Anybody,
            None => {
                return Err(
                    "which certificate may the server have? Give its own or its issuers' with --cacert FILE (PEM), or \
                     accept any with --insecure"
                        .to_owned(),
                );
            }
        };
        let mut plan = TlsPlan::new(trust, self.name(target)?);
        plan.resumes = self.resume;
        let wrong = |flag: &str, name: &str, problem: String| format!("{flag} {name}: {problem}");
        let suites = self.suites.iter().map(|name| suite(name).map_err(|problem| wrong("--suite", name, problem)));
        plan.suites = suites.collect::<Result<_, _>>()?;
        let groups = self.groups.iter().map(|name| group(name).map_err(|problem| wrong("--group", name, problem)));
        plan.groups = groups.collect::<Result<_, _>>()?;
        if let Some(name) = self.alpn.iter().find(|name| !(1..=255).contains(&name.len())) {
            return Err(format!("--alpn {name:?}: a name has 1 to 255 bytes; --no-alpn offers none"));
        }
        plan.alpn = self.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        if plan.alpn.is_empty() && !self.no_alpn && matches!(protocol, ProtocolName::Http | ProtocolName::Ws) {
            plan.alpn = vec![HTTP_1_1.to_vec()];
        }
        Ok(Some(plan))
    }

    fn name(&self, target: &Target) -> Result<ServerName<'static>, String> {
        let (name, hint) = match &self.servername {
            Some(name) => (name, "--servername"),
            None => (&target.host, "give one with --servername; the target's host"),
        };
        ServerName::try_from(name.clone())
            .map_err(|_| format!("{hint} {name:?} is neither a DNS name nor an IP address"))
    }

    /// A flag that was used.
    fn used(&self) -> Option<&'static str> {
        let flags = [
            ("--cacert", self.cacert.is_some()),
            ("--insecure", self.insecure),
            ("--servername", self.servername.is_some()),
            ("--resume", self.resume),
            ("--no-resume", self.no_resume),
            ("--suite", !self.suites.is_empty()),
            ("--group", !self.groups.is_empty()),
            ("--alpn", !self.alpn.is_empty()),
            ("--no-alpn", self.no_alpn),
        ];
        flags.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
    }
}
