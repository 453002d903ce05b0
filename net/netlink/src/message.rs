//! Messages and attributes (netlink(3)).

use abi::{Errno, SysResult, c};

/// Bytes of a `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Bytes of a `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// Bytes that one datagram of a dump has at most, as Linux makes them for readers of that room.
const CHUNK: usize = 16384;

/// A request's header, and what comes after it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: i32,
    pub sequence: u32,
    pub payload: &'a [u8],
    /// The whole message, for errors that show it.
    pub whole: &'a [u8],
}

impl Request<'_> {
    pub fn has(&self, flag: i32) -> bool {
        self.flags & flag != 0
    }

    pub fn dumps(&self) -> bool {
        self.flags & c::NLM_F_DUMP == c::NLM_F_DUMP
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}

/// A word of a structure; 0 beyond its end.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// A byte of a structure; 0 beyond its end.
pub fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Takes the first message off `bytes`; `None` when there is none (any more) or it is broken.
pub fn next<'a>(bytes: &mut &'a [u8]) -> Option<Request<'a>> {
    let len = usize::try_from(u32_at(bytes, 0)).ok().filter(|len| (HEADER..=bytes.len()).contains(len))?;
    let whole = bytes.get(..len)?;
    *bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some(Request {
        kind: u16_at(whole, 4),
        flags: u16_at(whole, 6).into(),
        sequence: u32_at(whole, 8),
        payload: whole.get(HEADER..)?,
        whole,
    })
}

/// Attributes by type: the last of each counts.
pub struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    /// Reads attributes; what is broken at the end is ignored, as Linux does where it isn't strict.
    pub fn parse(mut bytes: &'a [u8]) -> Self {
        let mut all = Vec::new();
        while let Some(len) = Some(usize::from(u16_at(bytes, 0))).filter(|len| (ATTRIBUTE..=bytes.len()).contains(len)) {
            // The flags for nested ones and byte order aren't part of the type.
            all.push((u16_at(bytes, 2) & 0x3fff, bytes.get(ATTRIBUTE..len).unwrap_or_default()));
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Self(all)
    }

    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().rev().find(|(known, _)| *known == kind).map(|(_, data)| *data)
    }

    /// # Errors
    /// `EINVAL` when it is shorter than a word.
    pub fn u32(&self, kind: u16) -> SysResult<Option<u32>> {
        match self.get(kind) {
            None => Ok(None),
            Some(data) if data.len() < 4 => Err(Errno::EINVAL),
            Some(data) => Ok(Some(u32_at(data, 0))),
        }
    }

    /// Text up to a NUL.
    ///
    /// # Errors
    /// `EINVAL` when it isn't UTF-8.
    pub fn text(&self, kind: u16) -> SysResult<Option<&'a str>> {
        let Some(data) = self.get(kind) else { return Ok(None) };
        let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).map(Some).map_err(|_| Errno::EINVAL)
    }
}

/// Makes one message.
pub struct Builder(Vec<u8>);

impl Builder {
    pub fn new(kind: u16, flags: i32, sequence: u32, port: u32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&(flags as u16).to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&port.to_le_bytes());
        Self(bytes)
    }

    /// A part of an answer to `request`.
    pub fn answer(kind: u16, request: &Request<'_>, port: u32) -> Self {
        Self::new(kind, if request.dumps() { c::NLM_F_MULTI } else { 0 }, request.sequence, port)
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn attribute(mut self, kind: u16, data: &[u8]) -> Self {
        let len = u16::try_from(ATTRIBUTE + data.len()).unwrap_or(u16::MAX);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(&kind.to_le_bytes());
        self.0.extend_from_slice(data.get(..usize::from(len) - ATTRIBUTE).unwrap_or(data));
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn word(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_le_bytes())
    }

    pub fn byte(self, kind: u16, value: u8) -> Self {
        self.attribute(kind, &[value])
    }

    pub fn text(self, kind: u16, text: &str) -> Self {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Attributes inside of one.
    pub fn nested(self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let Self(content) = inner(Self(Vec::new()));
        self.attribute(kind, &content)
    }

    pub fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.get_mut(..4).unwrap_or_default().copy_from_slice(&len.to_le_bytes());
        self.0
    }
}

/// Collects the messages of an answer into datagrams.
#[derive(Default)]
pub struct Datagrams(Vec<Vec<u8>>);

impl Datagrams {
    pub fn add(&mut self, message: &[u8]) {
        match self.0.last_mut() {
            Some(last) if last.len() + message.len() <= CHUNK => {
                last.resize(last.len().next_multiple_of(4), 0);
                last.extend_from_slice(message);
            }
            _ => self.0.push(message.to_vec()),
        }
    }

    pub fn finish(self) -> Vec<Vec<u8>> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read() {
        let built =
            Builder::new(7, 5, 3, 9).raw(&[1, 2, 3, 4]).text(3, "lo").nested(4, |inner| inner.word(1, 77).byte(2, 5)).finish();
        let bytes = [built.clone(), built].concat();
        let mut rest = bytes.as_slice();
        let first = next(&mut rest).unwrap();
        assert_eq!((first.kind, first.flags, first.sequence), (7, 5, 3));
        let attributes = Attributes::parse(&first.payload[4..]);
        assert_eq!(attributes.text(3), Ok(Some("lo")));
        let inner = Attributes::parse(attributes.get(4).unwrap());
        assert_eq!((inner.u32(1), inner.get(2), inner.u32(2)), (Ok(Some(77)), Some(&[5][..]), Err(Errno::EINVAL)));
        assert!(next(&mut rest).is_some() && next(&mut rest).is_none());
    }

    #[test]
    fn broken_messages_end_it() {
        for bytes in [&[][..], &[1; 15], &[17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0; 16]] {
            assert!(next(&mut &*bytes).is_none(), "{bytes:?}");
        }
        assert_eq!(Attributes::parse(&[3, 0, 1, 0]).0.len(), 0);
        assert_eq!(Attributes::parse(&[9, 0, 1, 0, 1, 2, 3, 4]).0.len(), 0);
    }
}
