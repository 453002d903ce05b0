//! Finds symbols of the host's vDSO.

fn word(image: &[u8], at: usize, len: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes.get_mut(..len)?.copy_from_slice(image.get(at..at.checked_add(len)?)?);
    Some(u64::from_le_bytes(bytes))
}

/// The value of a dynamic symbol of a 64-bit ELF image.
pub fn symbol(image: &[u8], name: &str) -> Option<u64> {
    let sections = word(image, 0x28, 8)? as usize;
    let (size, count) = (word(image, 0x3a, 2)? as usize, word(image, 0x3c, 2)? as usize);
    for i in 0..count {
        let header = sections + i * size;
        // SHT_DYNSYM
        if word(image, header + 4, 4)? != 11 {
            continue;
        }
        let (at, len) = (word(image, header + 0x18, 8)? as usize, word(image, header + 0x20, 8)? as usize);
        let strings = word(image, sections + word(image, header + 0x28, 4)? as usize * size + 0x18, 8)? as usize;
        for entry in (at..at + len).step_by(24) {
            let text = image.get(strings + word(image, entry, 4)? as usize..)?;
            if text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0) {
                return word(image, entry + 8, 8);
            }
        }
    }
    None
}
