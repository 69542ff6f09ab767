//! What this kernel's io_uring can do, or why it cannot be used.

use std::fs;
use std::io;

use io_uring::{IoUring, Probe};

/// Oldest kernel supported: SINGLE_ISSUER with DEFER_TASKRUN.
pub(crate) const KERNEL_MIN: (u32, u32) = (6, 1);

/// Features probed at start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Features {
    /// Submission ring without index array (6.6).
    pub(crate) no_sqarray: bool,
    /// No completion for what succeeds (5.17).
    pub(crate) skip_success: bool,
}

/// io_uring cannot be used here.
#[derive(Debug, thiserror::Error)]
#[error("io_uring cannot be used: {cause}; {cure}")]
pub struct IoUringUnavailable {
    /// What the kernel said and why.
    pub cause: String,
    /// What to do about it.
    pub cure: &'static str,
    #[source]
    source: Option<io::Error>,
}

impl IoUringUnavailable {
    /// Whether the reason is that no memory could be locked.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.source.as_ref().is_some_and(|error| error.raw_os_error() == Some(libc::ENOMEM))
    }
}

impl Features {
    /// Creates a small ring to find out.
    ///
    /// # Errors
    /// Names the cause (no io_uring, forbidden, too old a kernel) and the cure.
    pub(crate) fn probe() -> Result<Self, IoUringUnavailable> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        let ring: IoUring = builder.build(8).map_err(explain)?;
        // A filter may allow io_uring_setup and forbid io_uring_register.
        ring.submitter().register_probe(&mut Probe::new()).map_err(explain)?;
        let mut without_array = IoUring::<io_uring::squeue::Entry>::builder();
        without_array.setup_single_issuer().setup_defer_taskrun().setup_no_sqarray();
        Ok(Self {
            no_sqarray: without_array.build(8).is_ok(),
            skip_success: ring.params().is_feature_skip_cqe_on_success(),
        })
    }
}

fn explain(error: io::Error) -> IoUringUnavailable {
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    explain_with(error, setting.as_deref().map(str::trim), release.trim())
}

fn explain_with(error: io::Error, setting: Option<&str>, release: &str) -> IoUringUnavailable {
    let old = kernel_version(release).is_some_and(|version| version < KERNEL_MIN);
    let (why, cure) = match (error.raw_os_error(), setting) {
        (Some(libc::ENOSYS), _) => (
            "the kernel was built without it, or a seccomp filter hides it",
            "use Linux 6.1 or newer with CONFIG_IO_URING, or a container profile that allows io_uring_setup, \
             io_uring_enter and io_uring_register",
        ),
        (Some(libc::EPERM | libc::EACCES), Some("2")) => {
            ("kernel.io_uring_disabled is 2", "set it to 0: sysctl -w kernel.io_uring_disabled=0")
        }
        (Some(libc::EPERM | libc::EACCES), Some("1")) => (
            "kernel.io_uring_disabled is 1, and this process is neither privileged nor in the group kernel.io_uring_group",
            "set it to 0, or add the user to that group",
        ),
        (Some(libc::EPERM | libc::EACCES), _) => (
            "a seccomp filter or a security module forbids it, as container runtimes do by default",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile \
             (Docker: --security-opt seccomp=PROFILE)",
        ),
        (Some(libc::EINVAL), _) if old => ("the kernel is too old", "use Linux 6.1 or newer"),
        (Some(libc::EINVAL), _) => ("the kernel refused the ring's set-up", "use Linux 6.1 or newer"),
        (Some(libc::ENOMEM), _) => (
            "the limit of locked memory leaves no room for the ring",
            "raise the limit of locked memory: ulimit -l, or LimitMEMLOCK=",
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            ("no descriptor is free", "raise the limit of open files: ulimit -n, or LimitNOFILE=")
        }
        _ => ("the kernel refused it", "see io_uring_setup(2) for this error"),
    };
    let cause = format!("{why} ({error}, kernel {release})");
    IoUringUnavailable { cause, cure, source: Some(error) }
}

/// Major and minor of an `osrelease` text.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(errno: i32, setting: Option<&str>, release: &str) -> String {
        explain_with(io::Error::from_raw_os_error(errno), setting, release).to_string()
    }

    #[test]
    fn each_cause_has_its_cure() {
        assert!(said(libc::EPERM, Some("2"), "6.18.1").contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(said(libc::EPERM, Some("1"), "6.18.1").contains("io_uring_group"));
        assert!(said(libc::EPERM, Some("0"), "6.18.1").contains("seccomp"));
        assert!(said(libc::ENOSYS, None, "6.18.1").contains("CONFIG_IO_URING"));
        assert!(said(libc::EINVAL, None, "5.15.0-91-generic").contains("too old"));
        assert!(said(libc::ENOMEM, None, "6.1.0").contains("LimitMEMLOCK"));
    }

    #[test]
    fn versions_are_read_from_release_names() {
        assert_eq!(kernel_version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(kernel_version("6.1-rc3"), Some((6, 1)));
        assert_eq!(kernel_version("strange"), None);
    }
}
