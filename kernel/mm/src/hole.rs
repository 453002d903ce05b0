//! Holes in code: five bytes that nobody executes, or whose value makes no difference to who does.

/// Bytes of a near jump.
const LEN: usize = 5;
/// `nopw 0(%rax,%rax)`, by which compilers align code. Its last five bytes only say which address it doesn't look at: whatever they are, it
/// does nothing, so it matters neither who comes through it nor how far a write has got.
const PADDING: [u8; 8] = [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
/// `int3`, by which linkers and the Go toolchain fill the space up to the next function.
const INT3: u8 = 0xcc;
/// Functions begin at multiples of this.
const ALIGNMENT: usize = 16;

/// The hole nearest to `from` that a short jump which ends there reaches: where in `code` it is, and the jump's displacement.
pub fn near(code: &[u8], from: usize) -> Option<(usize, u8)> {
    let window = from.saturating_sub(128)..code.len().min(from + 128);
    let reach = |at: usize| i8::try_from(at.checked_signed_diff(from)?).ok();
    let candidates = window.filter(|at| is_hole(code, *at)).filter_map(|at| Some((at, reach(at)?)));
    candidates.min_by_key(|(_, distance)| distance.unsigned_abs()).map(|(at, distance)| (at, distance.cast_unsigned()))
}

fn is_hole(code: &[u8], at: usize) -> bool {
    let padding = || at >= 3 && code.get(at - 3..at + LEN) == Some(&PADDING);
    padding() || is_gap(code, at)
}

/// Whether a run of `int3` begins at `at` that lasts up to where a function can begin.
fn is_gap(code: &[u8], at: usize) -> bool {
    let run = code.iter().skip(at).take(ALIGNMENT).take_while(|byte| **byte == INT3).count();
    let Some(before) = at.checked_sub(1).and_then(|before| code.get(before)) else { return false };
    // Constants look like this too: 0xcccccccccccccccd divides by five, and a whole register full is eight bytes.
    run >= LEN && run != 8 && (at + run).is_multiple_of(ALIGNMENT) && *before != INT3 && *before != INT3 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut code = vec![0x90; 512];
        code[at..at + bytes.len()].copy_from_slice(bytes);
        code
    }

    #[test]
    fn padding_within_reach_is_found() {
        assert_eq!(near(&code(200, &PADDING), 100), Some((203, 103)));
        assert_eq!(near(&code(10, &PADDING), 130), Some((13, (-117i8).cast_unsigned())));
        assert_eq!(near(&code(300, &PADDING), 100), None);
        assert_eq!(near(&code(200, &PADDING[..7]), 100), None);
    }

    #[test]
    fn gaps_between_functions_are_found_and_constants_are_not() {
        assert_eq!(near(&code(90, &[INT3; 6]), 106), Some((90, (-16i8).cast_unsigned())));
        assert_eq!(near(&code(92, &[INT3; 4]), 106), None);
        // Not up to a function's start; 0xcccccccccccccccd; a register full.
        assert_eq!(near(&code(89, &[INT3; 6]), 106), None);
        assert_eq!(near(&code(88, &[0xcd, INT3, INT3, INT3, INT3, INT3, INT3, INT3]), 106), None);
        assert_eq!(near(&code(88, &[INT3; 8]), 106), None);
    }
}
