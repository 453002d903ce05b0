//! Extended attributes of groups (xattr(7)), in which managers note what a group is for.

use std::collections::BTreeMap;

use abi::{Errno, SysResult, c};

/// Attributes of a group and its files, and bytes of their values, at most (`KERNFS_MAX_USER_XATTRS`, `KERNFS_USER_XATTR_SIZE_LIMIT`).
const MAX_COUNT: usize = 128;
const MAX_BYTES: usize = 128 << 10;

/// The name of a group's file, none for its directory, and the attribute's.
type Key = (&'static str, Box<[u8]>);

/// Those of a group and its files.
#[derive(Default)]
pub struct Attributes(BTreeMap<Key, Box<[u8]>>);

impl Attributes {
    /// # Errors
    /// `ENODATA`
    pub fn get(&self, file: &'static str, name: &[u8]) -> SysResult<Vec<u8>> {
        self.0.get(&(file, name.into())).map(|value| value.to_vec()).ok_or(Errno::ENODATA)
    }

    /// # Errors
    /// `EEXIST`, `ENODATA` as `flags` (`XATTR_*`) have it; `ENOSPC`.
    pub fn set(&mut self, file: &'static str, name: &[u8], value: &[u8], flags: i32) -> SysResult<()> {
        let key = (file, name.into());
        let old = self.0.get(&key).map(|value| value.len());
        match old {
            Some(_) if flags & c::XATTR_CREATE != 0 => return Err(Errno::EEXIST),
            None if flags & c::XATTR_REPLACE != 0 => return Err(Errno::ENODATA),
            None if self.0.len() >= MAX_COUNT => return Err(Errno::ENOSPC),
            _ => {}
        }
        let used: usize = self.0.values().map(|value| value.len()).sum();
        if used - old.unwrap_or(0) + value.len() > MAX_BYTES {
            return Err(Errno::ENOSPC);
        }
        self.0.insert(key, value.into());
        Ok(())
    }

    /// # Errors
    /// `ENODATA`
    pub fn remove(&mut self, file: &'static str, name: &[u8]) -> SysResult<()> {
        self.0.remove(&(file, name.into())).map(drop).ok_or(Errno::ENODATA)
    }

    pub fn list(&self, file: &'static str) -> Vec<Vec<u8>> {
        self.0.keys().filter(|(of, _)| *of == file).map(|(_, name)| name.to_vec()).collect()
    }
}
