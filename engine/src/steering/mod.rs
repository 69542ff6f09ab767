//! Which listener of a group gets new connections: the steering program, the loads that it reads, the guard, and the
//! choice of the tier by what the kernel lets this process load.

mod assembler;
mod guard;
mod loads;
mod program;
#[cfg(test)]
mod tests;

pub(crate) use self::guard::Guard;
pub(crate) use self::loads::{LoadPage, Loads, Span};
pub(crate) use self::program::{Balance, Others, Steering, detach};
use crate::config::Handover;
use crate::handover::Tier;

/// The tier in use, and the reason.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) tier: Tier,
    pub(crate) reason: String,
}

/// Chooses the tier.
///
/// # Errors
/// A sentence if the requested tier does not work here.
pub(crate) fn choose(wanted: Handover) -> Result<Chosen, String> {
    let chosen = |tier, reason: String| Ok(Chosen { tier, reason });
    match wanted {
        Handover::Adopt => chosen(Tier::Adopt, "asked for".to_owned()),
        Handover::Ebpf => match Steering::load(1, &Balance::default()) {
            Ok(_) => chosen(Tier::Ebpf, "asked for".to_owned()),
            Err(error) => Err(format!(
                "handover = \"ebpf\" needs CAP_BPF, CAP_NET_ADMIN and Linux 5.14 or newer ({error}); provide these, or \
                 choose \"auto\""
            )),
        },
        Handover::Auto => match Steering::load(1, &Balance::default()) {
            Ok(_) => chosen(Tier::Ebpf, "this server may load eBPF programs".to_owned()),
            Err(error) => chosen(Tier::Adopt, format!("this server may not load eBPF programs ({error})")),
        },
    }
}
