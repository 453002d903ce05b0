//! Readiness (poll(2)).

bitflags::bitflags! {
    /// Readiness of a file, with the values of poll(2) and epoll(7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PollEvents: u32 {
        const IN = 0x1;
        const PRI = 0x2;
        const OUT = 0x4;
        const ERR = 0x8;
        const HUP = 0x10;
        const NVAL = 0x20;
        const RDNORM = 0x40;
        const RDBAND = 0x80;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const MSG = 0x400;
        const RDHUP = 0x2000;
    }
}

impl PollEvents {
    /// What a reader waits for.
    pub const READABLE: Self = Self::IN.union(Self::RDNORM);
    /// What a writer waits for.
    pub const WRITABLE: Self = Self::OUT.union(Self::WRNORM);
}
