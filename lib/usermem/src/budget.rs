//! How much memory the sandbox may use. There is one sandbox in a process, so this is kept for the process.
//!
//! Two counts: what has been *granted* to address spaces (frames that programs may touch without asking) and what is in *use* (pages that the
//! host has for our memory files). While no more is granted than allowed, nobody need look at what is in use; beyond that, grants are small
//! and made only while what is in use leaves room.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::{Errno, SysResult};
use sync::Mutex;

use crate::HostFile;

static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
static GRANTED: AtomicU64 = AtomicU64::new(0);
static FILES: Mutex<BTreeMap<u64, Weak<HostFile>>> = Mutex::new(BTreeMap::new());

/// What is left of the limit to what the host counts besides, the sentry and page tables: an eighth, but no more than this. Who goes when memory is
/// up is for this kernel to say: the host would rather end the sentry.
const MAX_RESERVE: u64 = 16 << 20;
/// Grants beyond the limit are of this size at most.
pub const SMALL_GRANT: u64 = 64 << 10;

/// Sets the limit in bytes.
pub fn set_limit(bytes: u64) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// The limit in bytes; `u64::MAX` when there is none.
#[must_use]
pub fn limit() -> u64 {
    LIMIT.load(Ordering::Relaxed)
}

/// What programs may use of it.
fn usable() -> u64 {
    let limit = limit();
    limit - (limit / 8).min(MAX_RESERVE)
}

/// Memory and swap of the machine, in bytes.
#[must_use]
pub fn machine() -> u64 {
    static TOTAL: OnceLock<u64> = OnceLock::new();
    *TOTAL.get_or_init(|| {
        let info = rustix::system::sysinfo();
        let unit = u64::from(info.mem_unit);
        (info.totalram as u64).saturating_add(info.totalswap as u64).saturating_mul(unit)
    })
}

/// Memory of the sandbox in bytes: all of it, and what is free. The machine's, unless there is a limit.
#[must_use]
pub fn total_and_free() -> (u64, u64) {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    let (total, free) = ((info.totalram as u64).saturating_mul(unit), (info.freeram as u64).saturating_mul(unit));
    let limit = limit();
    if limit >= total { (total, free) } else { (limit, limit.saturating_sub(in_use()).min(free)) }
}

/// Whether only small grants are made.
#[must_use]
pub fn is_tight() -> bool {
    GRANTED.load(Ordering::Relaxed) >= usable()
}

/// Asks for memory.
///
/// # Errors
/// `ENOMEM`
pub fn grant(bytes: u64) -> SysResult<()> {
    let granted = GRANTED.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
    let limit = usable();
    if granted <= limit || bytes <= SMALL_GRANT && in_use().saturating_add(bytes) <= limit {
        return Ok(());
    }
    give_back(bytes);
    Err(Errno::ENOMEM)
}

/// Gives back what was granted.
pub fn give_back(bytes: u64) {
    GRANTED.fetch_sub(bytes, Ordering::Relaxed);
}

/// Bytes that the host has for our memory files.
#[must_use]
pub fn in_use() -> u64 {
    let files: Vec<Arc<HostFile>> = FILES.lock().values().filter_map(Weak::upgrade).collect();
    files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes_present()))
}

pub(crate) fn register(file: &Arc<HostFile>) {
    FILES.lock().insert(file.id(), Arc::downgrade(file));
}

pub(crate) fn forget(id: u64) {
    FILES.lock().remove(&id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_what_is_in_use_decides() {
        let file = HostFile::memory("test", 1 << 20).unwrap();
        let before = in_use();
        rustix::io::pwrite(file.as_fd(), &[1; 8192], 0).unwrap();
        assert_eq!(in_use() - before, 8192);
        set_limit(8 << 17);
        grant(7 << 17).unwrap();
        assert!(is_tight());
        assert_eq!(grant(1 << 20), Err(Errno::ENOMEM));
        grant(SMALL_GRANT).unwrap();
        rustix::fs::fallocate(file.as_fd(), rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
        assert_eq!(grant(SMALL_GRANT), Err(Errno::ENOMEM));
        give_back((7 << 17) + SMALL_GRANT);
        set_limit(u64::MAX);
    }
}
