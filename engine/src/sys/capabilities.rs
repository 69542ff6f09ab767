//! Capabilities of the calling thread (capabilities(7)): reads them, and gives them up for good.

use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl;

/// The version of capget(2): sets of 64 bits, in two halves (kernel 2.6.26).
const VERSION: u32 = 0x2008_0522;

/// Capabilities by number, each a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    pub(crate) const NONE: Self = Self(0);

    /// Capabilities that a program of root may use on files, users, limits and ports, without power over other
    /// processes or the kernel: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID, NET_BIND_SERVICE,
    /// IPC_LOCK, SYS_NICE, SYS_RESOURCE and LEASE (linux/capability.h).
    pub(crate) const USUAL: Self = {
        const NUMBERS: [u32; 12] = [0, 1, 2, 3, 4, 6, 7, 10, 14, 23, 24, 28];
        let (mut bits, mut index) = (0, 0);
        while index < NUMBERS.len() {
            bits |= 1 << NUMBERS[index];
            index += 1;
        }
        Self(bits)
    };

    fn has(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`: one half of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capabilities that the thread has, and those that it could pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sets {
    effective: Capabilities,
    permitted: Capabilities,
    inheritable: Capabilities,
}

impl Sets {
    fn read() -> io::Result<Self> {
        let mut header = Header { version: VERSION, pid: 0 };
        let mut halves = [Half::default(); 2];
        // SAFETY: capget(2) reads the header and, in this version, writes two halves.
        Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) })?;
        let whole =
            |part: fn(&Half) -> u32| Capabilities(u64::from(part(&halves[0])) | u64::from(part(&halves[1])) << 32);
        Ok(Self {
            effective: whole(|half| half.effective),
            permitted: whole(|half| half.permitted),
            inheritable: whole(|half| half.inheritable),
        })
    }

    fn write(self) -> io::Result<()> {
        let mut header = Header { version: VERSION, pid: 0 };
        let half = |shift: u32| Half {
            effective: (self.effective.0 >> shift) as u32,
            permitted: (self.permitted.0 >> shift) as u32,
            inheritable: (self.inheritable.0 >> shift) as u32,
        };
        let halves = [half(0), half(32)];
        // SAFETY: capset(2) reads the header and, in this version, two halves.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) })?;
        Ok(())
    }
}

/// Ensures that no program which this thread executes, or a thread or process that it starts, gains a privilege.
/// Removes from what they could gain (the bounding set) all except `kept`. Call it before changing the user, since that
/// takes the right to do so.
///
/// Without that right (CAP_SETPCAP), the bounding set stays. This has no effect, since it only bounds what a program
/// gains.
///
/// # Errors
/// As prctl(2).
pub(crate) fn gain_none_but(kept: Capabilities) -> io::Result<()> {
    prctl::set_no_new_privs()?;
    for number in numbers().filter(|number| !kept.has(*number)) {
        // SAFETY: PR_CAPBSET_DROP takes an integer.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) }) {
            Ok(_) => {}
            Err(Errno::EPERM) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Keeps only `kept` of this thread's capabilities, and passes nothing on. A change of the user need not have done so:
/// it leaves the inheritable set, and under SECBIT_NO_SETUID_FIXUP, which a process inherits, all of them
/// (capabilities(7)).
///
/// # Errors
/// As capset(2) and prctl(2); and if more is left nevertheless. The process must not continue then.
pub(crate) fn keep_only(kept: Capabilities) -> io::Result<()> {
    let and = |one: Capabilities| Capabilities(one.0 & kept.0);
    let now = Sets::read()?;
    let wanted = Sets { effective: and(now.effective), permitted: and(now.permitted), inheritable: Capabilities::NONE };
    // SAFETY: PR_CAP_AMBIENT_CLEAR_ALL takes no pointer.
    Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    if now != wanted {
        wanted.write()?;
    }
    let (left, ambient) = (Sets::read()?, ambient()?);
    if left != wanted || ambient != Capabilities::NONE {
        let Sets { effective, permitted, inheritable } = left;
        return Err(io::Error::other(format!(
            "capabilities are left: effective {effective}, permitted {permitted}, inheritable {inheritable}, ambient {ambient}"
        )));
    }
    Ok(())
}

/// The ambient set: capabilities that programs get although their file grants none.
fn ambient() -> io::Result<Capabilities> {
    let mut bits = 0;
    for number in numbers() {
        // SAFETY: PR_CAP_AMBIENT_IS_SET takes an integer.
        let is_set = Errno::result(unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET, libc::c_ulong::from(number), 0, 0)
        })?;
        bits |= u64::from(is_set == 1) << number;
    }
    Ok(Capabilities(bits))
}

/// All capabilities that this kernel knows.
fn numbers() -> impl Iterator<Item = u32> {
    // SAFETY: PR_CAPBSET_READ takes an integer, and fails for a number that is not a capability.
    (0..u64::BITS)
        .take_while(|number| unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(*number), 0, 0, 0) >= 0 })
}
