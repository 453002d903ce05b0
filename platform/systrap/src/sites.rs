//! Call sites: how often each is used, and what a rewritten one jumps to.
//!
//! The C library and its like make calls by `mov $number, %eax; syscall`. The first of the two is five bytes, as many as a jump has: it is
//! replaced by a jump to a trampoline, which runs it, loads the return address and goes on to the stub's fast entry. The `syscall` stays
//! where it is, for who jumps to it and for restarts.

use platform::TRAMPOLINE_LEN;
use stub::layout::TEXT;

/// Uses after which rewriting pays: a notification costs some microseconds more than the fast path, a rewrite some tens.
const HOT: u16 = 16;
/// Sites that are counted at a time.
const SITES: usize = 128;

/// Counts uses of call sites: each has a choice of two entries, and takes the place of the less used one.
pub struct Sites([(u64, u16); SITES]);

impl Default for Sites {
    fn default() -> Self {
        Self([(0, 0); SITES])
    }
}

/// The first of the two entries where a site is counted.
fn index(rip: u64) -> usize {
    ((rip ^ rip >> 7 ^ rip >> 14) as usize % SITES) & !1
}

impl Sites {
    /// Counts a call that returns to `rip`; whether the site is due for rewriting (told again only after as many uses).
    pub fn count(&mut self, rip: u64) -> bool {
        let at = index(rip);
        let Some([first, second]) = self.0.get_mut(at..at + 2) else { return false };
        let (entry, other) =
            if first.0 == rip || second.0 != rip && first.1 <= second.1 { (first, second) } else { (second, first) };
        if entry.0 != rip {
            *entry = (rip, 0);
            // Who isn't used any more must not keep its place for ever.
            other.1 = other.1.saturating_sub(1);
        }
        entry.1 += 1;
        let hot = entry.1 == HOT;
        if hot {
            entry.1 = 0;
        }
        hot
    }
}

/// A trampoline that will stand at `at`, for a call after `instruction` that returns to `back`; `None` when it is too far away.
pub fn trampoline(at: u64, instruction: [u8; 5], back: u64, fast_entry: u64) -> Option<[u8; TRAMPOLINE_LEN]> {
    let mut code = [0xcc; TRAMPOLINE_LEN];
    // The instruction; lea rcx, [rip + (back - here)]; jmp [rip + 0]; address
    let distance = i32::try_from(back.wrapping_sub(at + 12).cast_signed()).ok()?;
    let parts: [&[u8]; 5] = [
        &instruction,
        &[0x48, 0x8d, 0x0d],
        &distance.to_le_bytes(),
        &[0xff, 0x25, 0, 0, 0, 0],
        &(TEXT + fast_entry).to_le_bytes(),
    ];
    code.iter_mut().zip(parts.concat()).for_each(|(to, from)| *to = from);
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_become_hot_and_do_so_again() {
        let mut sites = Sites::default();
        let told: Vec<_> = (1..=40).filter(|_| sites.count(0x1234)).collect();
        assert_eq!(told, [16, 32]);
        // Two that share entries don't disturb each other.
        let mut sites = Sites::default();
        let rivals: Vec<u64> = (0x2000..).filter(|rip| index(*rip) == index(0x1234)).take(2).collect();
        let told: usize = (0..40).map(|_| rivals.iter().filter(|rip| sites.count(**rip)).count()).sum();
        assert_eq!(told, 4);
    }

    #[test]
    fn trampolines_reach_two_gigabytes() {
        let code = trampoline(0x1000_0000, [0xb8, 39, 0, 0, 0], 0x1000_2007, 0x48).unwrap();
        assert_eq!(code[..5], [0xb8, 39, 0, 0, 0]);
        assert_eq!(i32::from_le_bytes(code[8..12].try_into().unwrap()), 0x2007 - 12);
        assert_eq!(u64::from_le_bytes(code[18..26].try_into().unwrap()), TEXT + 0x48);
        assert!(trampoline(0x1000, [0x90; 5], 0x1_0000_0000, 0x48).is_none());
    }
}
