//! Extended attributes of groups (xattr(7)), in which managers note what a group is for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, SysResult, c};

/// Attributes of a group and its files, and bytes of their values, at most (`KERNFS_MAX_USER_XATTRS`, `KERNFS_USER_XATTR_SIZE_LIMIT`).
const MAX_COUNT: usize = 128;
const MAX_BYTES: usize = 128 << 10;

/// Bytes of all groups' names and values, at most: it is the sentry's memory.
const MAX_TOTAL: usize = 16 << 20;
static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// The name of a group's file, none for its directory, and the attribute's.
type Key = (&'static str, Box<[u8]>);

/// Those of a group and its files.
#[derive(Default)]
pub struct Attributes(BTreeMap<Key, Box<[u8]>>);

/// Bytes that an attribute takes.
fn cost(key: &Key, value: &[u8]) -> usize {
    key.1.len() + value.len()
}

impl Drop for Attributes {
    fn drop(&mut self) {
        TOTAL.fetch_sub(self.0.iter().map(|(key, value)| cost(key, value)).sum(), Ordering::Relaxed);
    }
}

impl Attributes {
    /// # Errors
    /// `ENODATA`
    pub fn get(&self, file: &'static str, name: &[u8]) -> SysResult<Vec<u8>> {
        self.0.get(&(file, name.into())).map(|value| value.to_vec()).ok_or(Errno::ENODATA)
    }

    /// # Errors
    /// `EEXIST`, `ENODATA` as `flags` (`XATTR_*`) have it; `ENOSPC`.
    pub fn set(&mut self, file: &'static str, name: &[u8], value: &[u8], flags: i32) -> SysResult<()> {
        let key: Key = (file, name.into());
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
        let (more, less) = (cost(&key, value), old.map_or(0, |old| key.1.len() + old));
        if TOTAL.fetch_add(more, Ordering::Relaxed) + more > MAX_TOTAL + less {
            TOTAL.fetch_sub(more, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        TOTAL.fetch_sub(less, Ordering::Relaxed);
        self.0.insert(key, value.into());
        Ok(())
    }

    /// # Errors
    /// `ENODATA`
    pub fn remove(&mut self, file: &'static str, name: &[u8]) -> SysResult<()> {
        let (key, value) = self.0.remove_entry(&(file, name.into())).ok_or(Errno::ENODATA)?;
        TOTAL.fetch_sub(cost(&key, &value), Ordering::Relaxed);
        Ok(())
    }

    pub fn list(&self, file: &'static str) -> Vec<Vec<u8>> {
        self.0.keys().filter(|(of, _)| *of == file).map(|(_, name)| name.to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_groups_together_have_a_limit_and_give_back() {
        let value = vec![0; 64 << 10];
        let mut groups = Vec::new();
        let refused = loop {
            let mut new = Attributes::default();
            if let Err(errno) = new.set("", b"user.a", &value, 0) {
                break errno;
            }
            groups.push(new);
        };
        assert_eq!((refused, groups.len()), (Errno::ENOSPC, MAX_TOTAL / (value.len() + 6)));
        // One in place of another takes no more; a shorter one gives back, and so do those that go.
        assert_eq!(groups[0].set("", b"user.a", &value, c::XATTR_REPLACE), Ok(()));
        assert_eq!(groups[0].remove("", b"user.a"), Ok(()));
        assert_eq!(groups[0].set("", b"user.a", &value, c::XATTR_CREATE), Ok(()));
        assert_eq!(groups[1].set("", b"user.a", b"", 0), Ok(()));
        groups.clear();
        assert_eq!(TOTAL.load(Ordering::Relaxed), 0);
    }
}
