//! Sets of registers (`PTRACE_GETREGSET`).

use abi::{Errno, SysResult};

use super::Stop;
use super::regs::{set_word, words};

/// Where `struct _fpx_sw_bytes` lies in the XSAVE image, the features in it, and its end.
const SW_BYTES: usize = 464;
const SW_FEATURES: usize = SW_BYTES + 8;
/// The legacy area, and with the XSAVE header, whose first word says which features the image holds.
const LEGACY: usize = 512;
/// What the legacy area holds: x87 and SSE.
const LEGACY_FEATURES: u64 = 3;

/// A set of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegSet {
    /// `NT_PRSTATUS`: `struct user_regs_struct`
    General,
    /// `NT_PRFPREG`: `struct user_fpregs_struct`
    Float,
    /// `NT_X86_XSTATE`
    Extended,
}

impl RegSet {
    /// By the type of its note in core files.
    ///
    /// # Errors
    /// `EINVAL` when there is none.
    pub fn of_note(kind: u64) -> SysResult<Self> {
        match kind {
            1 => Ok(Self::General),
            2 => Ok(Self::Float),
            0x202 => Ok(Self::Extended),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Bytes of one element: sizes must be a multiple of it.
    #[must_use]
    pub fn unit(self) -> usize {
        if self == Self::Float { 4 } else { 8 }
    }

    pub(super) fn read(self, stop: &Stop) -> SysResult<Vec<u8>> {
        match self {
            Self::General => Ok(words(&stop.regs).iter().flat_map(|word| word.to_le_bytes()).collect()),
            Self::Float => float(&stop.fp),
            Self::Extended => extended(&stop.fp),
        }
    }

    pub(super) fn write(self, stop: &mut Stop, bytes: &[u8]) -> SysResult<()> {
        match self {
            Self::General => {
                for (index, word) in bytes.chunks_exact(8).enumerate() {
                    let word = u64::from_le_bytes(word.try_into().map_err(|_| Errno::EINVAL)?);
                    set_word(&mut stop.regs, index, word)?;
                }
                Ok(())
            }
            Self::Float => set_float(stop, bytes),
            Self::Extended => set_extended(stop, bytes),
        }
    }
}

/// The legacy area of an image, without what is the host's in it.
pub(crate) fn float(image: &[u8]) -> SysResult<Vec<u8>> {
    let mut legacy = image.get(..LEGACY).ok_or(Errno::ENODEV)?.to_vec();
    legacy.get_mut(SW_BYTES..).unwrap_or_default().fill(0);
    Ok(legacy)
}

/// An image as debuggers want it: the features that there are stand in the legacy area.
pub(crate) fn extended(image: &[u8]) -> SysResult<Vec<u8>> {
    let mut all = image.to_vec();
    let features: [u8; 8] = image.get(SW_FEATURES..).and_then(|bytes| bytes.first_chunk()).copied().ok_or(Errno::ENODEV)?;
    all.get_mut(SW_BYTES..LEGACY).unwrap_or_default().fill(0);
    all.get_mut(SW_BYTES..SW_BYTES + 8).unwrap_or_default().copy_from_slice(&features);
    Ok(all)
}

/// The features that an image says it holds.
fn features(image: &[u8]) -> u64 {
    image.get(LEGACY..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Whether the CPU would load the control word for SSE.
fn check_mxcsr(old: &[u8], new: &[u8]) -> SysResult<()> {
    let word = |image: &[u8], at: usize| {
        image.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let mask = Some(word(old, 28)).filter(|mask| *mask != 0).unwrap_or(0xffbf);
    if word(new, 24) & !mask == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn set_float(stop: &mut Stop, bytes: &[u8]) -> SysResult<()> {
    let mut image = stop.fp.clone();
    let len = bytes.len().min(SW_BYTES);
    let place = image.get_mut(..len).ok_or(Errno::ENODEV)?;
    place.copy_from_slice(bytes.get(..len).unwrap_or_default());
    check_mxcsr(&stop.fp, &image)?;
    let held = features(&image) | LEGACY_FEATURES;
    image.get_mut(LEGACY..LEGACY + 8).ok_or(Errno::ENODEV)?.copy_from_slice(&held.to_le_bytes());
    (stop.fp, stop.fp_changed) = (image, true);
    Ok(())
}

fn set_extended(stop: &mut Stop, bytes: &[u8]) -> SysResult<()> {
    // Only all of it can be set.
    if bytes.len() != stop.fp.len() {
        return Err(Errno::EFAULT);
    }
    let known = stop.fp.get(SW_FEATURES..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let clean = bytes.get(LEGACY + 8..LEGACY + 64).is_some_and(|header| header.iter().all(|byte| *byte == 0));
    if features(bytes) & !known != 0 || !clean {
        return Err(Errno::EINVAL);
    }
    check_mxcsr(&stop.fp, bytes)?;
    let mut image = bytes.to_vec();
    let own = stop.fp.get(SW_BYTES..LEGACY).unwrap_or_default();
    image.get_mut(SW_BYTES..LEGACY).unwrap_or_default().copy_from_slice(own);
    (stop.fp, stop.fp_changed) = (image, true);
    Ok(())
}
