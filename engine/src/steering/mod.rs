//! Which listener of a group gets new connections: the steering program, the guard, and the choice of the tier by what
//! the kernel lets this process load.

mod guard;
mod program;

pub(crate) use self::guard::Guard;
pub(crate) use self::program::{Steering, detach};
use crate::config::Handover;
use crate::handover::Tier;

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
