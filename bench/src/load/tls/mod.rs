//! TLS 1.3 and 1.2 as a client (RFC 8446, RFC 5246), by rustls: which certificates to trust, what to offer, and one
//! session for each connection, which takes bytes and returns bytes. No I/O.

mod certificates;
mod plan;
mod session;
mod tickets;

pub(crate) use self::certificates::{Trust, read_certificates};
pub(crate) use self::plan::{TlsPlan, group, suite};
pub(crate) use self::session::{Agreed, Session, Sessions, TlsProblem};
