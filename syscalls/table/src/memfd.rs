//! Files in memory without a name: memfd_create(2).

use abi::{Errno, SysResult, c, nr};
use task::Current;
use tmpfs::{memfd, seal};
use usermem::UserMemoryExt;

use crate::args::uint;
use crate::fd::install;
use crate::{Entry, partial};

pub const ENTRIES: &[Entry] = &[partial(nr::MEMFD_CREATE, memfd_create, "no huge pages")];

const CLOEXEC: u32 = 1;
const ALLOW_SEALING: u32 = 2;
const HUGETLB: u32 = 4;
const NOEXEC_SEAL: u32 = 8;
const EXEC: u32 = 16;
/// Size of huge pages (`MFD_HUGE_MASK << MFD_HUGE_SHIFT`).
const HUGE_SIZES: u32 = 0x3f << 26;
/// Longest name, with the NUL: `memfd:` stands before it.
const NAME_SIZE: usize = vfs::NAME_MAX - 6 + 1;

fn memfd_create(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let flags = uint(a[1]);
    let sizes = if flags & HUGETLB != 0 { HUGE_SIZES } else { 0 };
    if flags & !(CLOEXEC | ALLOW_SEALING | HUGETLB | NOEXEC_SEAL | EXEC | sizes) != 0
        || flags & EXEC != 0 && flags & NOEXEC_SEAL != 0
    {
        return Err(Errno::EINVAL);
    }
    let name =
        t.mm.read_cstr(a[0], NAME_SIZE).map_err(|errno| if errno == Errno::ENAMETOOLONG { Errno::EINVAL } else { errno })?;
    if flags & HUGETLB != 0 {
        // As a kernel without hugetlbfs has it.
        return Err(Errno::ENOSYS);
    }
    let (mode, seals) = if flags & NOEXEC_SEAL != 0 {
        (0o666, seal::EXEC)
    } else {
        (0o777, if flags & ALLOW_SEALING != 0 { 0 } else { seal::SEAL })
    };
    let file = memfd(t.credentials(), &name, c::O_RDWR, mode, seals)?;
    install(t, file, flags & CLOEXEC != 0, 0)
}
