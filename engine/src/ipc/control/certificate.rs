//! What certificates a server has, and how long they are good.

use serde::{Deserialize, Serialize};

/// A certificate that clients get, as the [layer](crate::layer::Layers::certificates) of its listeners tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateStatus {
    /// Where the server listens with it.
    pub addresses: Vec<String>,
    /// The hosts and addresses that it is for: the first hundred.
    pub names: Vec<String>,
    /// When it expires, or that one of its issuers' which does first, seconds since 1970.
    pub expires_at_s: u64,
    /// Seconds until then; negative where it has expired.
    pub expires_in_s: i64,
    /// What the operator should do something about, such as that it expires soon: sentences.
    pub warnings: Vec<String>,
}
