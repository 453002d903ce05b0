//! Contents of regular files.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use abi::{Errno, SysResult};
use rangemap::{Piece, RangeMap};
use rustix::fs::{FallocateFlags, SeekFrom};
use sync::Mutex;
use usermem::{Access, HostFile, IoBuf, MapHook, Segment};
use vfs::{Attr, FileOps, Inode, Writers};

use crate::memfd::seal;
use crate::node::Node;
use crate::superblock::{BLOCK, Super};

/// Largest file (`MAX_LFS_FILESIZE`).
const MAX_SIZE: u64 = i64::MAX as u64;
/// Largest file that is kept without the host.
const SMALL: u64 = 16 << 10;

/// A file that has been read or written so often is copied from and to by way of a window on it: the first uses of a page cost more then
/// than a call to the host, all others less.
const HOT: u32 = 16;
/// The largest piece for which that pays.
const MAX_COPY: usize = 64 << 10;
/// Files with windows at most: the host limits the mappings of a process.
const MAX_HOT: usize = 8192;
static HOT_FILES: AtomicUsize = AtomicUsize::new(0);

/// Blocks that are there.
#[derive(Clone, Debug)]
struct Present;

impl Piece for Present {
    fn advance(&mut self, _: u64) {}

    fn continues(&self, _: u64, _: &Self) -> bool {
        true
    }
}

#[derive(Default)]
struct Data {
    /// All bytes, as long as there is no file.
    small: Vec<u8>,
    present: RangeMap<Present>,
}

/// What a regular file holds.
pub struct Content {
    fs: Arc<Super>,
    /// Changed with `data` locked.
    size: AtomicU64,
    /// Blocks that are there. Changed with `data` locked.
    blocks: AtomicU64,
    data: Mutex<Data>,
    /// Where the bytes are, once there are too many or somebody maps them.
    file: OnceLock<Arc<HostFile>>,
    /// It has been mapped: blocks may come without our doing.
    mapped: AtomicBool,
    /// Reads and writes, up to [`HOT`]; one more when it counts among [`HOT_FILES`].
    uses: AtomicU32,
    pub writers: Writers,
    /// `F_SEAL_*`. Changed with `data` locked.
    seals: AtomicU32,
    /// Mappings by which it may be written to, where that is counted: of what can be sealed.
    writable_maps: AtomicU64,
}

impl Drop for Content {
    fn drop(&mut self) {
        self.fs.free_blocks(*self.blocks.get_mut());
        if *self.uses.get_mut() > HOT {
            HOT_FILES.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Content {
    /// What `seals` say can't be done with it from the start (`F_SEAL_*`).
    pub fn new(fs: &Arc<Super>, seals: u32) -> Self {
        Self {
            fs: fs.clone(),
            size: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            data: Mutex::default(),
            file: OnceLock::new(),
            mapped: AtomicBool::new(false),
            uses: AtomicU32::new(0),
            writers: Writers::default(),
            seals: AtomicU32::new(seals),
            writable_maps: AtomicU64::new(0),
        }
    }

    pub fn seals(&self) -> u32 {
        self.seals.load(Ordering::Acquire)
    }

    fn has_seal(&self, seals: u32) -> bool {
        self.seals() & seals != 0
    }

    fn add_seals(&self, mut seals: u32, executable: bool) -> SysResult<()> {
        let _data = self.data.lock();
        let now = self.seals();
        if now & seal::SEAL != 0 {
            return Err(Errno::EPERM);
        }
        if seals & seal::EXEC != 0 && executable {
            // What is run must stay what it is.
            seals |= seal::SHRINK | seal::GROW | seal::WRITE | seal::FUTURE_WRITE;
        }
        if seals & seal::WRITE != 0 && now & seal::WRITE == 0 && self.writable_maps.load(Ordering::Acquire) > 0 {
            return Err(Errno::EBUSY);
        }
        self.seals.store(now | seals, Ordering::Release);
        Ok(())
    }

    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// In units of 512 bytes.
    pub fn blocks(&self) -> u64 {
        if self.mapped.load(Ordering::Relaxed)
            && let Some(file) = self.file.get()
        {
            return rustix::fs::fstat(file.as_fd()).map_or(0, |stat| stat.st_blocks.cast_unsigned());
        }
        self.blocks.load(Ordering::Relaxed).saturating_mul(BLOCK / 512)
    }

    /// The window on a piece of the file, if it is worth one.
    fn window(&self, file: &Arc<HostFile>, offset: u64, len: usize) -> Option<Segment> {
        let uses = self.uses.load(Ordering::Relaxed);
        if uses <= HOT {
            let more = uses < HOT || HOT_FILES.load(Ordering::Relaxed) < MAX_HOT;
            if more && self.uses.compare_exchange(uses, uses + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() && uses == HOT {
                HOT_FILES.fetch_add(1, Ordering::Relaxed);
            }
            return None;
        }
        if len > MAX_COPY { None } else { file.segment(offset, len as u64).ok() }
    }

    /// Moves the bytes to a file of the host.
    fn to_file(&self, data: &mut Data) -> SysResult<&Arc<HostFile>> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = HostFile::memory("tmpfs", self.size())?;
        let mut done = 0;
        while let Some(rest) = data.small.get(done..).filter(|rest| !rest.is_empty()) {
            done += rustix::io::pwrite(file.as_fd(), rest, done as u64)?;
        }
        data.small = Vec::new();
        Ok(self.file.get_or_init(|| file))
    }

    /// Blocks of a range of bytes.
    fn range(offset: u64, end: u64) -> std::ops::Range<u64> {
        offset / BLOCK..end.div_ceil(BLOCK)
    }

    /// Makes room for the bytes from `offset` to `end`; returns how far there is room.
    fn reserve(&self, data: &mut Data, offset: u64, end: u64) -> SysResult<u64> {
        let range = Self::range(offset, end);
        let mut at = range.start;
        while at < range.end {
            let (found, next) = match data.present.next(at) {
                Some((found, _)) if found.start <= at => {
                    at = found.end;
                    continue;
                }
                Some((found, _)) => (found.start.min(range.end), found.end),
                None => (range.end, range.end),
            };
            let got = self.fs.take_blocks(found - at);
            if got > 0 {
                data.present.insert(at..at + got, Present);
                self.blocks.fetch_add(got, Ordering::Relaxed);
            }
            if got < found - at {
                let room = (at + got).saturating_mul(BLOCK);
                return if room > offset { Ok(room) } else { Err(Errno::ENOSPC) };
            }
            at = next;
        }
        Ok(end)
    }

    /// Gives the whole blocks of a range of bytes back.
    fn release(&self, data: &mut Data, blocks: std::ops::Range<u64>) {
        let gone: u64 = data.present.remove(blocks).iter().map(|(range, _)| range.end - range.start).sum();
        self.blocks.fetch_sub(gone, Ordering::Relaxed);
        self.fs.free_blocks(gone);
    }

    pub fn truncate(&self, size: u64) -> SysResult<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let mut data = self.data.lock();
        let forbidden = match size.cmp(&self.size()) {
            std::cmp::Ordering::Less => seal::SHRINK,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => seal::GROW,
        };
        if self.has_seal(forbidden) {
            return Err(Errno::EPERM);
        }
        if self.file.get().is_none() && size <= SMALL {
            // A piece that comes back reads as zeros.
            data.small.resize(usize::try_from(size).map_err(|_| Errno::EFBIG)?, 0);
        } else {
            let file = self.to_file(&mut data)?;
            rustix::fs::ftruncate(file.as_fd(), size)?;
        }
        if size < self.size() {
            self.release(&mut data, size.div_ceil(BLOCK)..u64::MAX);
        }
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// Writes at `offset`, with `data` locked.
    fn write(&self, data: &mut Data, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        if self.has_seal(seal::WRITE | seal::FUTURE_WRITE) {
            return Err(Errno::EPERM);
        }
        let size = self.size();
        if self.has_seal(seal::GROW) && offset.saturating_add(buf.remaining() as u64) > size {
            // Page by page, up to the one that would make it larger.
            let whole = usermem::page_down(size).checked_sub(offset).filter(|whole| *whole > 0).ok_or(Errno::EPERM)?;
            buf.limit(usize::try_from(whole).unwrap_or(usize::MAX));
        }
        let room = MAX_SIZE.checked_sub(offset).filter(|room| *room > 0).ok_or(Errno::EFBIG)?;
        buf.limit(usize::try_from(room).unwrap_or(usize::MAX));
        let end = self.reserve(data, offset, offset + buf.remaining() as u64)?;
        buf.limit(usize::try_from(end - offset).unwrap_or(usize::MAX));
        let total = if self.file.get().is_none() && end <= SMALL {
            Self::write_small(data, buf, offset, size)?
        } else {
            let file = self.to_file(data)?;
            self.write_file(file, buf, offset, size)?
        };
        self.size.store(size.max(offset + total as u64), Ordering::Release);
        Ok(total)
    }

    fn write_small(data: &mut Data, buf: &mut IoBuf<'_>, offset: u64, size: u64) -> SysResult<usize> {
        let start = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let end = start + buf.remaining();
        if end > data.small.len() {
            data.small.resize(end, 0);
        }
        let result = buf.copy_in(data.small.get_mut(start..end).unwrap_or_default());
        // What couldn't be copied isn't there.
        let reached = result.map_or(0, |count| start + count).max(usize::try_from(size).unwrap_or(0));
        data.small.truncate(reached);
        result
    }

    fn write_file(&self, file: &Arc<HostFile>, buf: &mut IoBuf<'_>, offset: u64, size: u64) -> SysResult<usize> {
        let mut total = 0;
        // Inside of what there is.
        if offset + buf.remaining() as u64 <= size
            && let Some(window) = self.window(file, offset, buf.remaining())
        {
            total = buf.copy_window(Access::Read, window).unwrap_or(0);
        }
        while buf.remaining() > 0 {
            let at = offset + total as u64;
            let write = &mut |segments: &[Segment]| usermem::pwritev(file.as_fd(), segments, at);
            match buf.host_io(Access::Read, write) {
                Ok(0) => break,
                Ok(count) => total += count,
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        if self.file.get().is_none() {
            let data = self.data.lock();
            if self.file.get().is_none() {
                let rest = usize::try_from(offset).ok().and_then(|at| data.small.get(at..)).unwrap_or_default();
                let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
                return if part.is_empty() { Ok(0) } else { buf.copy_out(part) };
            }
        }
        let Some(file) = self.file.get() else { return Err(Errno::EIO) };
        let room = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = buf.remaining().min(room);
        let mut total = 0;
        if want > 0
            && let Some(window) = self.window(file, offset, want)
        {
            total = buf.copy_window(Access::Write, window.truncated(want)).unwrap_or(0);
        }
        while total < want {
            let at = offset + total as u64;
            match buf.host_io(Access::Write, &mut |segments| usermem::preadv(file.as_fd(), segments, at)) {
                Ok(0) => break,
                Ok(count) => total += count,
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> SysResult<()> {
        // What Linux's own tmpfs knows.
        let flags = FallocateFlags::from_bits(mode.cast_unsigned()).ok_or(Errno::EOPNOTSUPP)?;
        let end = offset.checked_add(len).filter(|end| *end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let mut data = self.data.lock();
        if flags == FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE {
            if self.has_seal(seal::WRITE | seal::FUTURE_WRITE) {
                return Err(Errno::EPERM);
            }
            let file = self.to_file(&mut data)?;
            rustix::fs::fallocate(file.as_fd(), flags, offset, len)?;
            self.release(&mut data, offset.div_ceil(BLOCK)..(end / BLOCK).max(offset.div_ceil(BLOCK)));
            return Ok(());
        }
        if !flags.is_empty() && flags != FallocateFlags::KEEP_SIZE {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.has_seal(seal::GROW) && end > self.size() {
            return Err(Errno::EPERM);
        }
        // The host would rather kill than refuse.
        let info = rustix::system::sysinfo();
        if len > info.freeram.saturating_mul(info.mem_unit.into()) {
            return Err(Errno::ENOSPC);
        }
        let before: Vec<_> = data.present.within(Self::range(offset, end)).into_iter().map(|(range, _)| range).collect();
        let reached = self.reserve(&mut data, offset, end).unwrap_or(0);
        let grown = reached >= end;
        if grown {
            let file = self.to_file(&mut data)?;
            rustix::fs::fallocate(file.as_fd(), flags, offset, len)?;
            if flags.is_empty() {
                self.size.fetch_max(end, Ordering::AcqRel);
            }
            return Ok(());
        }
        // All or nothing: what has been taken goes back.
        let mut at = Self::range(offset, end).start;
        for range in before {
            self.release(&mut data, at..range.start);
            at = range.end;
        }
        self.release(&mut data, at..Self::range(offset, end).end.max(at));
        Err(Errno::ENOSPC)
    }
}

/// Of what can be sealed: the mappings that write are counted.
impl MapHook for Node {
    fn map(&self, writes: bool) -> SysResult<()> {
        let content = self.content()?;
        let _data = content.data.lock();
        if writes && content.has_seal(seal::WRITE | seal::FUTURE_WRITE) {
            return Err(Errno::EPERM);
        }
        self.mapped(writes);
        Ok(())
    }

    fn mapped(&self, writes: bool) {
        if let Ok(content) = self.content() {
            content.writable_maps.fetch_add(writes.into(), Ordering::AcqRel);
        }
    }

    fn unmapped(&self, writes: bool) {
        if let Ok(content) = self.content() {
            content.writable_maps.fetch_sub(writes.into(), Ordering::AcqRel);
        }
    }
}

impl FileOps for Node {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        self.content()?.read(buf, offset)
    }

    fn write(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let content = self.content()?;
        let count = content.write(&mut content.data.lock(), buf, offset)?;
        self.modified();
        Ok(count)
    }

    fn append(&self, buf: &mut IoBuf<'_>, limit: u64) -> SysResult<(usize, u64)> {
        let content = self.content()?;
        let mut data = content.data.lock();
        let end = content.size();
        if buf.remaining() > 0 && end >= limit {
            return Err(Errno::EFBIG);
        }
        buf.limit(usize::try_from(limit.saturating_sub(end)).unwrap_or(usize::MAX));
        let count = content.write(&mut data, buf, end)?;
        drop(data);
        self.modified();
        Ok((count, end + count as u64))
    }

    fn is_regular(&self) -> bool {
        true
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> SysResult<()> {
        self.content()?.allocate(mode, offset, len)?;
        self.modified();
        Ok(())
    }

    fn seek_data(&self, offset: u64, size: u64, hole: bool) -> SysResult<u64> {
        let content = self.content()?;
        if content.mapped.load(Ordering::Relaxed)
            && let Some(file) = content.file.get()
        {
            let from = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
            return Ok(rustix::fs::seek(file.as_fd(), from)?);
        }
        let data = content.data.lock();
        let block = offset / BLOCK;
        if hole {
            let end = data.present.get(block).map_or(offset, |(found, _)| found.end.saturating_mul(BLOCK));
            return Ok(end.min(size));
        }
        let start = data.present.next(block).map(|(found, _)| found.start.saturating_mul(BLOCK).max(offset));
        start.filter(|start| *start < size).ok_or(Errno::ENXIO)
    }

    fn host_file(&self) -> SysResult<Arc<HostFile>> {
        let content = self.content()?;
        content.mapped.store(true, Ordering::Relaxed);
        content.to_file(&mut content.data.lock()).cloned()
    }

    fn map_hook(self: Arc<Self>) -> Option<Arc<dyn MapHook>> {
        // What can't be sealed any more, as most files can't, needs no count.
        let seals = self.content().ok()?.seals();
        if seals & seal::SEAL == 0 || seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 { Some(self) } else { None }
    }

    fn seals(&self) -> SysResult<u32> {
        Ok(self.content().map_err(|_| Errno::EINVAL)?.seals())
    }

    fn add_seals(&self, seals: u32) -> SysResult<()> {
        self.content().map_err(|_| Errno::EINVAL)?.add_seals(seals, self.is_executable())
    }

    fn fsync(&self) -> SysResult<()> {
        Ok(())
    }

    fn attr(&self) -> Option<Attr> {
        Inode::attr(self).ok()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
