//! Selects the certificate that a client gets.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::{Concern, Identity, Name, Warning};

/// The identities of a server, chosen by the host that the client names (SNI).
///
/// An exact name takes precedence over a wildcard, which stands for one label. If several have the name, the first
/// whose key can sign as the client wants is chosen. So a pair of ECDSA and RSA serves all clients: list ECDSA first,
/// which costs a server least. A client that names no host, or an unknown one, gets the first identity, or another with
/// the same first name.
#[derive(Debug)]
pub struct Identities {
    all: Vec<Identity>,
    /// Indices in `all` by host, and by what follows the `*.` of a wildcard.
    exact: HashMap<Box<str>, Vec<usize>>,
    wildcard: HashMap<Box<str>, Vec<usize>>,
    /// Indices of those for clients that name no known host.
    default: Vec<usize>,
}

impl Identities {
    /// `None` if there are none: a server has at least one.
    pub fn new(all: Vec<Identity>) -> Option<Self> {
        let (mut exact, mut wildcard) =
            (HashMap::<Box<str>, Vec<usize>>::new(), HashMap::<Box<str>, Vec<usize>>::new());
        for (at, identity) in all.iter().enumerate() {
            for name in identity.names() {
                let Name::Dns(name) = name else { continue };
                let (places, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, &**name),
                };
                places.entry(name.into()).or_default().push(at);
            }
        }
        let first_name = all.first()?.names().first();
        let default =
            (0..all.len()).filter(|at| *at == 0 || first_name.is_some_and(|name| all[*at].names().contains(name)));
        let default = default.collect();
        Some(Self { all, exact, wildcard, default })
    }

    /// All of them, in their order.
    pub fn all(&self) -> &[Identity] {
        &self.all
    }

    /// The identity for a client that names this host and can verify these signatures. If no key of those with the name
    /// can sign so, the first of them: rustls then tells the client that they have no scheme in common.
    pub fn choose(&self, host: Option<&str>, schemes: &[SignatureScheme]) -> &Identity {
        let host = host.map(normal);
        let exact = host.as_deref().and_then(|host| self.exact.get(host));
        let parent = host.as_deref().and_then(|host| host.split_once('.')).map(|(_, parent)| parent);
        let wildcard = parent.and_then(|parent| self.wildcard.get(parent));
        let named = || exact.into_iter().chain(wildcard).flatten();
        let default = || self.default.iter();
        let fits = |at: &&usize| self.all[**at].certified.key.choose_scheme(schemes).is_some();
        let place = match named().next() {
            Some(first) => named().find(fits).unwrap_or(first),
            None => default().find(fits).unwrap_or(&self.default[0]),
        };
        &self.all[*place]
    }

    /// Warnings for the operator at the time `now`: see [`Identity::warnings`], and certificates that no client gets.
    pub fn warnings(&self, now: SystemTime) -> Vec<Warning> {
        (0..self.all.len()).flat_map(|at| self.warnings_of(at, now)).collect()
    }

    /// The same for one of them.
    pub(crate) fn warnings_of(&self, at: usize, now: SystemTime) -> Vec<Warning> {
        let identity = &self.all[at];
        let mut warnings = identity.warnings(now);
        if self.is_never_chosen(at) {
            let line = Some(identity.periods[0].line);
            warnings.push(Warning { file: identity.file.clone(), line, concern: Concern::NeverChosen });
        }
        warnings
    }

    fn is_never_chosen(&self, at: usize) -> bool {
        let identity = &self.all[at];
        let before = |places: &[usize]| {
            places.iter().take_while(|place| **place < at).any(|place| kind(&self.all[*place]) == kind(identity))
        };
        let is_hidden = |name: &Name| match name {
            Name::Dns(name) => match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.get(parent).is_some_and(|places| before(places)),
                None => self.exact.get(name).is_some_and(|places| before(places)),
            },
            Name::Address(_) => true,
        };
        (!self.default.contains(&at) || before(&self.default)) && identity.names().iter().all(is_hidden)
    }
}

/// The kind of a key. Two keys of the same kind sign with the same schemes.
fn kind(identity: &Identity) -> (SignatureAlgorithm, Option<SignatureScheme>) {
    let key = &identity.certified.key;
    // For ECDSA, each curve has its own scheme.
    let curves = [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
    ];
    (key.algorithm(), curves.into_iter().find(|scheme| key.choose_scheme(&[*scheme]).is_some()))
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let identity = self.choose(client_hello.server_name(), client_hello.signature_schemes());
        Some(Arc::clone(&identity.certified))
    }
}

/// In lower case, and without a dot at the end.
fn normal(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(host.to_ascii_lowercase());
    }
    Cow::Borrowed(host)
}
