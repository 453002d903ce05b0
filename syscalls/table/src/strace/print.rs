//! How strace(1) writes numbers, strings and flags.

use std::fmt::Write;

use super::names::Names;

/// Bytes of a string that are shown (`strace -s`).
pub const STRING_MAX: usize = 32;

/// A quoted string, escaped as in C: what a guest hands over must not reach a terminal otherwise.
pub fn quoted(bytes: &[u8], cut: bool) -> String {
    let mut text = String::with_capacity(bytes.len() + 5);
    text.push('"');
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\r' => text.push_str("\\r"),
            0x0b => text.push_str("\\v"),
            0x0c => text.push_str("\\f"),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => {
                // Three digits where a digit follows, or it would be read as part of this.
                let digit = bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
                let _ = if digit { write!(text, "\\{other:03o}") } else { write!(text, "\\{other:o}") };
            }
        }
    }
    text.push('"');
    if cut {
        text.push_str("...");
    }
    text
}

/// An address.
pub fn pointer(addr: u64) -> String {
    if addr == 0 { "NULL".to_owned() } else { format!("{addr:#x}") }
}

/// The names of all flags that are set, then what is left.
pub fn flags(value: u64, names: &Names) -> String {
    let mut rest = value;
    let mut text = String::new();
    let mut add = |part: &str| {
        if !text.is_empty() {
            text.push('|');
        }
        text.push_str(part);
    };
    for (name, flag) in names {
        if *flag != 0 && rest & flag == *flag {
            add(name);
            rest &= !flag;
        }
    }
    if rest != 0 {
        add(&format!("{rest:#x}"));
    }
    if text.is_empty() {
        // Some sets have a name for nothing.
        return names.iter().find(|(_, flag)| *flag == 0).map_or("0", |(name, _)| name).to_owned();
    }
    text
}

/// The name of one value.
pub fn choice(value: u64, names: &Names) -> String {
    let found = names.iter().find(|(_, known)| *known == value);
    found.map_or_else(|| format!("{value:#x}"), |(name, _)| (*name).to_owned())
}

/// A value in the low bits (`mask`), flags above.
pub fn mixed(value: u64, mask: u64, values: &Names, names: &Names) -> String {
    let low = choice(value & mask, values);
    let high = value & !mask;
    if high == 0 { low } else { format!("{low}|{}", flags(high, names)) }
}

/// A set of signals: `[INT TERM]`, or its complement where that is shorter.
pub fn sigset(set: u64) -> String {
    let (set, sign) = if set.count_ones() > 42 { (!set, "~") } else { (set, "") };
    let names = (1..=64).filter(|signo| set & (1 << (signo - 1)) != 0).map(|signo| {
        let name = abi::signal::name(signo);
        name.strip_prefix("SIG").unwrap_or(&name).to_owned()
    });
    format!("{sign}[{}]", names.collect::<Vec<_>>().join(" "))
}

/// A signal number.
pub fn signal(signo: u64) -> String {
    i32::try_from(signo.cast_signed())
        .ok()
        .filter(|signo| *signo > 0)
        .map_or_else(|| format!("{}", signo.cast_signed()), abi::signal::name)
}

/// The type, special and permission bits of a file.
pub fn mode(mode: u32) -> String {
    let special = flags(u64::from(mode & 0o7000), &[("S_ISUID", 0o4000), ("S_ISGID", 0o2000), ("S_ISVTX", 0o1000)]);
    let parts = [
        (mode & 0o170_000 != 0).then(|| choice(u64::from(mode & 0o170_000), super::names::FILE_TYPES)),
        (mode & 0o7000 != 0).then_some(special),
        Some(permissions(mode & 0o777)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("|")
}

/// Permission bits: C's `%#03o`.
pub fn permissions(mode: u32) -> String {
    if mode < 0o100 { format!("{mode:03o}") } else { format!("0{mode:o}") }
}

/// A device number.
pub fn device(dev: u64) -> String {
    let major = (dev >> 8) & 0xfff | (dev >> 32) & !0xfff;
    let minor = dev & 0xff | (dev >> 12) & !0xff;
    format!("makedev({major:#x}, {minor:#x})")
}

/// A resource limit: multiples of 1024 as such, as strace has them.
pub fn limit(value: u64) -> String {
    match value {
        u64::MAX => "RLIM64_INFINITY".to_owned(),
        value if value > 1024 && value % 1024 == 0 => format!("{}*1024", value / 1024),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_in_c() {
        assert_eq!(quoted(b"a\"\\\n\x1b[0m", false), r#""a\"\\\n\33[0m""#);
        assert_eq!(quoted(b"\x007", true), r#""\0007"..."#);
        assert_eq!(quoted("\u{e9}".as_bytes(), false), r#""\303\251""#);
    }

    #[test]
    fn flags_keep_what_has_no_name() {
        let names: &Names = &[("A", 1), ("B", 6), ("C", 2)];
        assert_eq!(flags(7, names), "A|B");
        assert_eq!(flags(0x12, names), "C|0x10");
        assert_eq!(flags(0, names), "0");
        assert_eq!(mixed(0x11, 0xf, names, &[("X", 0x10)]), "A|X");
    }

    #[test]
    fn sets_of_signals_are_short() {
        assert_eq!(sigset(0), "[]");
        assert_eq!(sigset(1 << 1 | 1 << 16 | 1 << 33), "[INT CHLD RT_2]");
        assert_eq!(sigset(!0), "~[]");
        assert_eq!(sigset(!(1 << 8)), "~[KILL]");
    }

    #[test]
    fn modes_have_names() {
        assert_eq!(mode(0o100_644), "S_IFREG|0644");
        assert_eq!(mode(0o041_777), "S_IFDIR|S_ISVTX|0777");
        assert_eq!(permissions(0), "000");
        assert_eq!(permissions(0o7), "007");
        assert_eq!(permissions(0o1777), "01777");
    }
}
