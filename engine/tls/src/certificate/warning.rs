//! Warnings about certificates that can be served nevertheless.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use der::DateTime;

use super::Identity;
use super::error::{At, ordinal};

/// How many days before a certificate expires its operator is warned. If it is valid for less than three times as long,
/// the warning comes when a third of that time is left. Automatic renewal happens earlier.
pub const EXPIRY_NOTICE_DAYS: u32 = 14;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A problem of a file that does not prevent a server from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file's name.
    pub file: PathBuf,
    /// The line in which the PEM block begins; the first is 1. `None` if the concern is about the whole file.
    pub line: Option<usize>,
    /// The concern.
    pub concern: Concern,
}

/// A concern for an operator. Positions are indices in the chain; the first, the server's certificate, is 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// A certificate has expired: clients refuse it.
    Expired {
        /// Which certificate.
        position: usize,
        /// When it expired.
        not_after: SystemTime,
    },
    /// A certificate expires soon: see [`EXPIRY_NOTICE_DAYS`].
    Expires {
        /// Which certificate.
        position: usize,
        /// When it will expire.
        not_after: SystemTime,
        /// Whole days until then.
        days: u64,
    },
    /// A certificate is not valid yet: clients refuse it. Or the clock is wrong.
    NotYetValid {
        /// Which certificate.
        position: usize,
        /// When it becomes valid.
        not_before: SystemTime,
    },
    /// The server's certificate has no subjectAltName with a host or an address: present clients accept it for no
    /// server.
    NoNames,
    /// No client gets this certificate: those before it, with a key of the same kind, have all hosts that it names.
    NeverChosen,
    /// Users who are neither the owner nor of the group of a private key's file may read or change it.
    KeyExposed {
        /// The file's permissions.
        mode: u32,
    },
}

pub(super) fn of(identity: &Identity, now: SystemTime) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |line, concern| warnings.push(Warning { file: identity.file.clone(), line: Some(line), concern });
    for (at, period) in identity.periods.iter().enumerate() {
        let (position, not_after, not_before) = (at + 1, period.not_after, period.not_before);
        match not_after.duration_since(now) {
            // It is also valid in the second that it names (RFC 5280 section 4.1.2.5).
            Err(_) => warn(period.line, Concern::Expired { position, not_after }),
            Ok(_) if not_before > now => warn(period.line, Concern::NotYetValid { position, not_before }),
            Ok(left) => {
                let third = not_after.duration_since(not_before).unwrap_or_default() / 3;
                if left < third.min(EXPIRY_NOTICE_DAYS * DAY) {
                    let days = left.as_secs() / DAY.as_secs();
                    warn(period.line, Concern::Expires { position, not_after, days });
                }
            }
        }
    }
    if identity.names.is_empty() {
        warn(identity.periods[0].line, Concern::NoNames);
    }
    warnings
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}: {}", self.file.display(), At(self.line), self.concern)
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { position, not_after } => {
                write!(formatter, "{} expired at {}: clients refuse it; renew it", The(*position), Time(*not_after))
            }
            Self::Expires { position, not_after, days } => {
                let plural = if *days == 1 { "" } else { "s" };
                write!(formatter, "{} expires in {days} day{plural}, at {}; renew it", The(*position), Time(*not_after))
            }
            Self::NotYetValid { position, not_before } => write!(
                formatter,
                "{} is not valid before {}: clients refuse it until then, or the clock is wrong",
                The(*position),
                Time(*not_before)
            ),
            Self::NoNames => formatter.write_str(
                "the certificate names no host and no address (subjectAltName); current clients refuse it",
            ),
            Self::NeverChosen => formatter.write_str(
                "no client gets this certificate: earlier ones with a key of the same kind have all hosts that it names",
            ),
            Self::KeyExposed { mode } => write!(
                formatter,
                "users other than the owner and the group may access the private key (permissions {:03o}); use `chmod o=`",
                mode & 0o777
            ),
        }
    }
}

/// "the certificate" for the server's.
struct The(usize);

impl fmt::Display for The {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => formatter.write_str("the certificate"),
            position => write!(formatter, "the {} certificate", ordinal(position)),
        }
    }
}

/// UTC, as RFC 3339 writes it.
struct Time(SystemTime);

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_system_time(self.0) {
            Ok(time) => time.fmt(formatter),
            // Certificates have no dates outside of 1970 to 9999.
            Err(_) => write!(formatter, "{:?}", self.0),
        }
    }
}
