//! The name of a program by its instructions: the first half of their SHA-1 (RFC 3174). It names, and protects nothing.

use crate::Instruction;

struct Sha1([u32; 5]);

impl Sha1 {
    fn block(&mut self, block: &[u8]) {
        let mut words = [0u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        for at in 16..80 {
            words[at] = (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = self.0;
        for (round, word) in words.iter().enumerate() {
            let (f, k) = match round {
                0..20 => (b & c | !b & d, 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        for (sum, part) in self.0.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }

    fn of(mut bytes: Vec<u8>) -> [u32; 5] {
        let mut sha = Self([0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0]);
        let bits = bytes.len() as u64 * 8;
        bytes.push(0x80);
        bytes.resize((bytes.len() + 8).next_multiple_of(64) - 8, 0);
        bytes.extend(bits.to_be_bytes());
        bytes.chunks_exact(64).for_each(|block| sha.block(block));
        sha.0
    }
}

/// The tag of a program.
pub fn of(source: &[Instruction]) -> [u8; 8] {
    let [a, b, ..] = Sha1::of(source.iter().flat_map(|instruction| instruction.to_bytes()).collect());
    (u64::from(a) << 32 | u64::from(b)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::Sha1;

    #[test]
    fn is_sha_1() {
        assert_eq!(Sha1::of(b"abc".to_vec()), [0xa999_3e36, 0x4706_816a, 0xba3e_2571, 0x7850_c26c, 0x9cd0_d89d]);
        let long = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".to_vec();
        assert_eq!(Sha1::of(long), [0x8498_3e44, 0x1c3b_d26e, 0xbaae_4aa1, 0xf951_29e5, 0xe546_70f1]);
    }
}
