//! Who wants to know of mappings.

use abi::SysResult;

/// Hears of mappings of a file: once for each call that makes one, and for each address space that fork(2) copies it to.
pub trait MapHook: Send + Sync {
    /// It is about to be mapped; `writes`: shared, and it may be written to by that. What isn't refused is counted as mapped.
    ///
    /// # Errors
    /// `EPERM` when seals forbid it (memfd_create(2)).
    fn map(&self, writes: bool) -> SysResult<()> {
        self.mapped(writes);
        Ok(())
    }

    /// It is mapped once more.
    fn mapped(&self, writes: bool);

    /// One of those is gone.
    fn unmapped(&self, writes: bool);
}
