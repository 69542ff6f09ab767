//! The user and group of workers. The master looks them up, and each worker assumes them once it has everything that
//! needs privilege.

use std::io;

use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgroups, getresgid, getresuid, initgroups, setgroups, setresgid,
    setresuid,
};

use super::capabilities::{Capabilities, gain_none_but, keep_only};

/// Why this process cannot serve as the named user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityError {
    /// `user` or `group`.
    pub(crate) setting: &'static str,
    pub(crate) problem: String,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// For the groups of which the user is a member; `None` if only the group was given.
    user: Option<(String, Uid)>,
    group: Gid,
}

impl Identity {
    /// Looks both up. Without `group`, the user's own group applies. `None` if neither is given.
    ///
    /// # Errors
    /// Names the setting if the name does not exist, or if this process may not become it.
    pub(crate) fn resolve(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, IdentityError> {
        let invalid = |setting| move |problem| IdentityError { setting, problem };
        let user = user.map(find_user).transpose().map_err(invalid("user"))?;
        let group = group.map(find_group).transpose().map_err(invalid("group"))?;
        let (gid, setting) = match (&user, group) {
            (None, None) => return Ok(None),
            (Some(user), None) => (user.gid, "user"),
            (Some(_), Some(gid)) => (gid, "user"),
            (None, Some(gid)) => (gid, "group"),
        };
        let is_other = user.as_ref().is_some_and(|user| user.uid != geteuid()) || gid != getegid();
        if is_other && !geteuid().is_root() {
            let problem =
                "only root may serve as another user or group; start the server as root, or remove the setting";
            return Err(invalid(setting)(problem.to_owned()));
        }
        Ok(Some(Self { user: user.map(|user| (user.name, user.uid)), group: gid }))
    }

    /// The user's number; `None` if only the group was given.
    pub(crate) fn user(&self) -> Option<Uid> {
        self.user.as_ref().map(|(_, uid)| *uid)
    }

    /// Becomes this identity for good: no way back, no capability, no privilege by exec.
    ///
    /// # Errors
    /// As setresuid(2) and similar calls, and if a capability is left. The process must not continue then.
    pub(crate) fn assume(&self) -> io::Result<()> {
        gain_none_but(Capabilities::NONE)?;
        if geteuid().is_root() {
            match &self.user {
                Some((name, _)) => {
                    let name = std::ffi::CString::new(name.as_str())?;
                    initgroups(&name, self.group)?;
                }
                None => setgroups(&[self.group])?,
            }
        }
        setresgid(self.group, self.group, self.group)?;
        if let Some((_, uid)) = self.user {
            setresuid(uid, uid, uid)?;
        }
        keep_only(Capabilities::NONE)?;
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        let (users, groups) = (getresuid()?, getresgid()?);
        let is_user = |uid: Uid| [users.real, users.effective, users.saved].iter().all(|one| *one == uid);
        let is_group = [groups.real, groups.effective, groups.saved].iter().all(|one| *one == self.group);
        let has_root = !self.group.eq(&Gid::from_raw(0)) && getgroups()?.contains(&Gid::from_raw(0));
        if self.user.as_ref().is_some_and(|(_, uid)| !is_user(*uid)) || !is_group || has_root {
            return Err(io::Error::other("the process could not completely become its user and group"));
        }
        Ok(())
    }
}

fn find_user(name: &str) -> Result<User, String> {
    let by_number = || name.parse().ok().and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten());
    let found = User::from_name(name).map_err(|error| format!("looking up user {name:?}: {error}"))?;
    found.or_else(by_number).ok_or_else(|| format!("there is no user {name:?} on this machine"))
}

fn find_group(name: &str) -> Result<Gid, String> {
    let by_number = || name.parse().ok().and_then(|gid| Group::from_gid(Gid::from_raw(gid)).ok().flatten());
    let found = Group::from_name(name).map_err(|error| format!("looking up group {name:?}: {error}"))?;
    let found = found.or_else(by_number).ok_or_else(|| format!("there is no group {name:?} on this machine"))?;
    Ok(found.gid)
}

/// The numbers of `user`, `user:group` or `:group`.
///
/// # Errors
/// If the name does not exist, or this process may not give it a file.
pub(crate) fn find_owner(text: &str) -> Result<(Option<u32>, Option<u32>), String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if group.is_some_and(str::is_empty) || (user.is_empty() && group.is_none()) {
        return Err(format!("{text:?} is not user, user:group or :group"));
    }
    let user = (!user.is_empty()).then(|| find_user(user)).transpose()?.map(|user| user.uid);
    let group = group.map(find_group).transpose()?;
    let is_member = |group| group == getegid() || getgroups().is_ok_and(|groups| groups.contains(&group));
    if !geteuid().is_root()
        && (user.is_some_and(|user| user != geteuid()) || group.is_some_and(|group| !is_member(group)))
    {
        return Err(format!("only root may give files to {text:?}; start the server as root, or remove the setting"));
    }
    Ok((user.map(Uid::as_raw), group.map(Gid::as_raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_looked_up_and_unknown_ones_named() {
        let resolve = Identity::resolve;
        assert_eq!(resolve(None, None), Ok(None));
        if geteuid().is_root() {
            assert_eq!(resolve(Some("root"), None), resolve(Some("0"), Some("0")));
        } else {
            assert!(resolve(Some("root"), None).expect_err("not root").problem.contains("only root"));
        }
        let unknown = resolve(Some("nobody of this name"), None).expect_err("unknown");
        assert!(unknown.problem.contains("\"nobody of this name\""), "{unknown:?}");
        assert_eq!(resolve(None, Some("no group of this name")).expect_err("unknown").setting, "group");
    }

    #[test]
    fn owners_are_a_user_a_group_or_both() {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        for (text, owner) in [
            (format!("{user}"), (Some(user), None)),
            (format!("{user}:{group}"), (Some(user), Some(group))),
            (format!(":{group}"), (None, Some(group))),
        ] {
            assert_eq!(find_owner(&text), Ok(owner), "{text}");
        }
        for wrong in ["", ":", "root:", "no user of this name", ":no group of this name", "root:root:root"] {
            assert!(find_owner(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(find_owner("nobody").is_ok(), geteuid().is_root());
    }
}
