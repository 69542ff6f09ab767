//! Users and groups that settings name, looked up on this machine.

use crate::endpoint::SocketFile;
use crate::sys::identity::{Identity, IdentityError, find_owner};

use super::{InvalidSetting, Settings};

impl Settings {
    /// Looks up user and group on this machine, and whether this process may serve as them.
    ///
    /// # Errors
    /// Names the setting, and says why not.
    pub fn check_identity(&self) -> Result<(), InvalidSetting> {
        self.identity().map(drop)
    }

    /// The identity under which workers serve; `None` if neither user nor group is set.
    ///
    /// # Errors
    /// As [`Settings::check_identity`].
    pub(crate) fn identity(&self) -> Result<Option<Identity>, InvalidSetting> {
        Identity::resolve(self.user.as_deref(), self.group.as_deref())
            .map_err(|IdentityError { setting, problem }| InvalidSetting { setting, problem })
    }

    /// Looks up on this machine to whom files of Unix sockets are to belong, and whether this process may give them away.
    ///
    /// # Errors
    /// Names the setting, and says why not.
    pub fn check_unix_owner(&self) -> Result<(), InvalidSetting> {
        self.socket_file().map(drop)
    }

    /// The mode and owner of the files of Unix sockets.
    ///
    /// # Errors
    /// As [`Settings::check_unix_owner`].
    pub(crate) fn socket_file(&self) -> Result<SocketFile, InvalidSetting> {
        let owner = self.unix_owner.as_deref().map(find_owner).transpose();
        let (user, group) =
            owner.map_err(|problem| InvalidSetting { setting: "unix_owner", problem })?.unwrap_or_default();
        Ok(SocketFile { mode: self.unix_mode, user, group })
    }
}
