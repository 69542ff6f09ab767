//! The listener group: who gets new connections, and what becomes of those that wait when a listener goes.
//!
//! Three tiers keep connections from being lost when listeners are replaced; see [`Tier`]. The best one that works here
//! is chosen at start, unless the operator chose.

pub(crate) mod connections;
mod guard;
mod steering;
pub(crate) mod worker_state;

use std::fmt;

pub(crate) use self::guard::Guard;
pub(crate) use self::steering::{Steering, detach};
use crate::config::Handover;

/// How listeners are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Steered by a program of this generation: attaching the next generation's parks all listeners of the last.
    Ebpf,
    /// Listen sockets are inherited and never closed while anybody may still connect to them.
    Adopt,
    /// Listeners are closed, and the kernel moves what waits to others where it may. Loses a connection now and then.
    Migrate,
}

impl Tier {
    /// What chooses it.
    pub(crate) fn wanted(name: &str) -> Option<Handover> {
        match name {
            "ebpf" => Some(Handover::Ebpf),
            "adopt" => Some(Handover::Adopt),
            "migrate" => Some(Handover::Migrate),
            _ => None,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::Adopt => "adopt",
            Self::Migrate => "migrate",
        })
    }
}

/// The tier in use, and why.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) tier: Tier,
    pub(crate) reason: String,
}

/// Chooses the tier.
///
/// # Errors
/// A sentence where the tier asked for does not work here.
pub(crate) fn choose(wanted: Handover) -> Result<Chosen, String> {
    let chosen = |tier, reason: String| Ok(Chosen { tier, reason });
    match wanted {
        Handover::Adopt => chosen(Tier::Adopt, "asked for".to_owned()),
        Handover::Migrate => match std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req") {
            Ok(text) if text.trim() == "1" => {
                chosen(Tier::Migrate, "asked for; about 1 connection in 100 replacements may be lost".to_owned())
            }
            _ => chosen(
                Tier::Migrate,
                "asked for, but net.ipv4.tcp_migrate_req is not 1: whoever waits at a closing listener is lost"
                    .to_owned(),
            ),
        },
        Handover::Ebpf => match Steering::load(1) {
            Ok(_) => chosen(Tier::Ebpf, "asked for".to_owned()),
            Err(error) => Err(format!(
                "handover = \"ebpf\" needs CAP_BPF and CAP_NET_ADMIN and a kernel from 5.14 on ({error}); give them, or \
                 choose \"auto\""
            )),
        },
        Handover::Auto => match Steering::load(1) {
            Ok(_) => chosen(Tier::Ebpf, "eBPF may be loaded".to_owned()),
            Err(error) => chosen(Tier::Adopt, format!("eBPF may not be loaded here ({error})")),
        },
    }
}
