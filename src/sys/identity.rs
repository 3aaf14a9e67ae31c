//! Whose a process is: its user and its groups, looked up before the process is started. Between fork and exec nothing
//! can be looked up.

use std::ffi::CString;
use std::fmt;
use std::io;

use nix::libc;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// Whose a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Real, effective and saved.
    pub uid: u32,
    /// Real, effective and saved.
    pub gid: u32,
    /// All supplementary groups; those of this process are not inherited.
    pub groups: Vec<u32>,
}

/// Somebody who cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// Neither a name nor a number of a user.
    #[error("there is no such user; give a name that the system knows (`getent passwd`) or a number")]
    User,
    /// Neither a name nor a number of a group.
    #[error("there is no such group; give a name that the system knows (`getent group`) or a number")]
    Group,
    /// The system could not say.
    #[error("it cannot be looked up: {0}")]
    Lookup(#[from] io::Error),
}

impl Identity {
    /// A user by name or number: with the primary group and the supplementary groups that the system has for it. A
    /// number that the system does not know stands for a user whose only group has the same number.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of_user(user: &str) -> Result<Self, Unknown> {
        let known = match (User::from_name(user).map_err(io::Error::from)?, id(user)) {
            (None, Some(uid)) => User::from_uid(Uid::from_raw(uid)).map_err(io::Error::from)?,
            (known, _) => known,
        };
        match (known, id(user)) {
            (Some(known), _) => {
                let groups = groups_of(&known.name, known.gid.as_raw())?;
                Ok(Self { uid: known.uid.as_raw(), gid: known.gid.as_raw(), groups })
            }
            (None, Some(uid)) => Ok(Self { uid, gid: uid, groups: vec![uid] }),
            (None, None) => Err(Unknown::User),
        }
    }

    /// Whoever this process is, without its supplementary groups.
    pub fn own() -> Self {
        let gid = Gid::effective().as_raw();
        Self { uid: Uid::effective().as_raw(), gid, groups: vec![gid] }
    }

    /// The same user with another primary group, by name or number. It takes the place of the old one among the
    /// supplementary groups too.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn with_group(mut self, group: &str) -> Result<Self, Unknown> {
        let gid = match Group::from_name(group).map_err(io::Error::from)? {
            Some(known) => known.gid.as_raw(),
            None => id(group).ok_or(Unknown::Group)?,
        };
        self.groups.retain(|other| *other != self.gid && *other != gid);
        self.groups.insert(0, gid);
        self.gid = gid;
        Ok(self)
    }

    /// Makes this process that user's, for good. For the child between fork and exec: it makes three system calls and
    /// allocates nothing. They are made without the C library, which would have to tell the threads of the parent.
    ///
    /// # Errors
    /// `EPERM` without the privilege, `EINVAL` for a number that the user namespace does not map. Source: setgroups(2),
    /// setgid(2), setuid(2).
    pub(super) fn assume(&self) -> io::Result<()> {
        // The user last: without its privilege the groups could not be changed any more.
        // SAFETY: the pointer and the length are those of a slice that outlives the call; the rest are integers.
        let assumed = unsafe {
            libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) == 0
                && libc::syscall(libc::SYS_setgid, self.gid) == 0
                && libc::syscall(libc::SYS_setuid, self.uid) == 0
        };
        if assumed { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid={} gid={}", self.uid, self.gid)
    }
}

/// The highest number means "unchanged" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn groups_of(name: &str, gid: u32) -> io::Result<Vec<u32>> {
    let name = CString::new(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(getgrouplist(&name, Gid::from_raw(gid))?.into_iter().map(Gid::as_raw).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let root = Identity::of_user("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(Identity::of_user("0").unwrap(), root);
    }

    #[test]
    fn a_number_that_nobody_has_is_a_user_with_a_group_of_its_own() {
        let nobody_has_it = 3_123_456_789;
        let found = Identity::of_user("3123456789").unwrap();
        assert_eq!(found, Identity { uid: nobody_has_it, gid: nobody_has_it, groups: vec![nobody_has_it] });
    }

    #[test]
    fn a_group_takes_the_place_of_the_primary_one() {
        let user = Identity { uid: 7, gid: 7, groups: vec![7, 20, 30] };
        let moved = user.with_group("30").unwrap();
        assert_eq!(moved, Identity { uid: 7, gid: 30, groups: vec![30, 20] });
    }

    #[test]
    fn who_does_not_exist_is_unknown() {
        for user in ["no-such-user", "", "-1", "4294967295", "4294967296"] {
            assert!(matches!(Identity::of_user(user), Err(Unknown::User)), "{user}");
        }
        for group in ["no-such-group", "", "4294967295"] {
            assert!(matches!(Identity::own().with_group(group), Err(Unknown::Group)), "{group}");
        }
    }
}
