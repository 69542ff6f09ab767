//! What a worker gives up once it has its sockets and rings: rights, and the system calls that its code may make.

use std::io;
use std::path::PathBuf;

use nix::unistd::geteuid;

use super::StartError;
use crate::config::Sandbox;
use crate::sys::capabilities::{Capabilities, gain_none_but, keep_only};
use crate::sys::identity::Identity;
use crate::sys::landlock;
use crate::sys::ring::Operations;
use crate::sys::system_calls;
use crate::types::SystemCalls;

/// The operations that the ring of a worker will perform.
pub(super) fn operations(sandbox: Sandbox, calls: SystemCalls) -> Operations {
    match calls {
        _ if sandbox == Sandbox::Off => Operations::Any,
        SystemCalls::Any => Operations::Any,
        SystemCalls::Usual => Operations::Connections,
        SystemCalls::ServeOnly => Operations::AcceptedConnections,
    }
}

/// What a process can do with names of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// Whatever its user can.
    AsUser,
    /// It can create and remove none.
    Denied,
}

/// Gives up everything else, for good. After this the process may run the protocol's own code.
///
/// # Errors
/// If it could not become its user, if a capability is left, or if [`Sandbox::On`] cannot be ensured: the process must
/// not serve then.
pub(super) fn enter(
    sandbox: Sandbox,
    calls: SystemCalls,
    readable: &[PathBuf],
    identity: Option<&Identity>,
    slot: usize,
) -> Result<Files, StartError> {
    let privileges = |source| StartError::System { what: "giving up privileges", source };
    if let Some(identity) = identity {
        identity.assume().map_err(privileges)?;
    }
    if sandbox == Sandbox::Off || (sandbox == Sandbox::Auto && calls == SystemCalls::Any) {
        return Ok(Files::AsUser);
    }
    if identity.is_none() {
        let kept = if calls == SystemCalls::ServeOnly { Capabilities::NONE } else { Capabilities::USUAL };
        gain_none_but(kept).and_then(|()| keep_only(kept)).map_err(privileges)?;
    }
    let confined = match calls {
        SystemCalls::Any => Err(io::Error::other("the protocol needs all system calls")),
        SystemCalls::ServeOnly | SystemCalls::Usual => {
            let reads_files = calls == SystemCalls::ServeOnly && !readable.is_empty();
            match landlock::enter_domain(calls, readable) {
                Ok(()) => {}
                // Nothing else confines it to its folders.
                Err(source) if reads_files && sandbox == Sandbox::On => return Err(StartError::Landlock { source }),
                Err(error) if reads_files => {
                    tracing::warn!(
                        slot,
                        "sandbox: this worker has no Landlock domain, so it can open any file of its user: {error}"
                    );
                }
                // Not all kernels have Landlock: the seccomp filter applies without it.
                Err(error) => tracing::debug!(slot, "sandbox: this worker has no Landlock domain: {error}"),
            }
            system_calls::allow_only(calls, reads_files)
        }
    };
    match confined {
        Err(source) if sandbox == Sandbox::On => Err(StartError::Sandbox { source }),
        Err(error) => {
            tracing::warn!(slot, "sandbox: this worker serves without a filter of its system calls: {error}");
            Ok(Files::AsUser)
        }
        Ok(()) => {
            tracing::debug!(slot, user = geteuid().as_raw(), ?calls, "sandbox: entered");
            Ok(if calls == SystemCalls::ServeOnly { Files::Denied } else { Files::AsUser })
        }
    }
}
