//! Options of level `SOL_TCP` (tcp(7)).

use abi::{Errno, SysResult, c};
use auth::Capability;
use socket::{Caller, OptionValue, word, word_of};

use super::{Tcp, TcpState, age};

/// Numbers of linux/tcp.h that the libc crate lacks or keeps to itself.
const TCP_TIMESTAMP: i32 = 24;
const TCP_NOTSENT_LOWAT: i32 = 25;
const TCP_CC_INFO: i32 = 26;
const TCP_SAVE_SYN: i32 = 27;
const TCP_SAVED_SYN: i32 = 28;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_ULP: i32 = 31;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const TCP_INQ: i32 = 36;
const TCP_TX_DELAY: i32 = 37;

/// Congestion controls that there are; between sockets here nothing is ever congested.
const CONTROLS: [&str; 2] = ["cubic", "reno"];
/// Longest name of one.
const MAX_CONTROL: usize = 16;
/// `tcp_fin_timeout`, and the most that `TCP_LINGER2` can ask for, in seconds.
const FIN_TIMEOUT: i32 = 60;
const MAX_LINGER2: i32 = 120;
/// Longest segment: the loopback interface's 65536 bytes and the headers; and what is assumed before there is a connection.
const LOOPBACK_SEGMENT: i32 = 65483;
const UNKNOWN_SEGMENT: i32 = 536;
/// `SOCK_MIN_RCVBUF` / 2
const MIN_CLAMP: i32 = 1152;

/// Values of options.
#[derive(Clone, Debug)]
pub(crate) struct TcpOptions {
    no_delay: bool,
    cork: bool,
    max_segment: i32,
    keep_idle: i32,
    keep_interval: i32,
    keep_count: i32,
    syn_count: i32,
    /// Seconds; 0: the default, negative: none.
    pub linger2: i32,
    defer_accept: i32,
    window_clamp: i32,
    quick_ack: bool,
    control: usize,
    user_timeout: i32,
    not_sent_low: u32,
    flags: u32,
    tx_delay: i32,
    fast_open: i32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            no_delay: false,
            cork: false,
            max_segment: 0,
            keep_idle: 7200,
            keep_interval: 75,
            keep_count: 9,
            syn_count: 6,
            linger2: 0,
            defer_accept: 0,
            window_clamp: 65536,
            quick_ack: true,
            control: 0,
            user_timeout: 0,
            not_sent_low: 0,
            flags: 0,
            tx_delay: 0,
            fast_open: 0,
        }
    }
}

impl TcpOptions {
    /// How long an end without a process waits for the other to close.
    pub fn fin_wait_ns(&self) -> u64 {
        let seconds = if self.linger2 == 0 { FIN_TIMEOUT } else { self.linger2 };
        u64::try_from(seconds).unwrap_or(0) * 1_000_000_000
    }
}

/// Options that do nothing here but be remembered, as bits.
fn kept(name: i32) -> Option<u32> {
    let all =
        [c::TCP_THIN_LINEAR_TIMEOUTS, c::TCP_THIN_DUPACK, TCP_SAVE_SYN, TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE, TCP_INQ];
    all.iter().position(|known| *known == name).map(|at| 1 << at)
}

fn within(value: i32, range: std::ops::RangeInclusive<i32>) -> SysResult<i32> {
    if range.contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
}

impl Tcp {
    pub(super) fn tcp_option(&self, name: i32, room: usize) -> SysResult<OptionValue> {
        let options = self.options.lock().clone();
        let connected = matches!(self.tcp_state(), TcpState::Established | TcpState::CloseWait | TcpState::FinWait2);
        if let Some(bit) = kept(name) {
            return Ok(word((options.flags & bit != 0).into()));
        }
        let value = match name {
            c::TCP_NODELAY => options.no_delay.into(),
            c::TCP_CORK => options.cork.into(),
            c::TCP_MAXSEG if connected => LOOPBACK_SEGMENT,
            c::TCP_MAXSEG if options.max_segment != 0 => options.max_segment,
            c::TCP_MAXSEG => UNKNOWN_SEGMENT,
            c::TCP_KEEPIDLE => options.keep_idle,
            c::TCP_KEEPINTVL => options.keep_interval,
            c::TCP_KEEPCNT => options.keep_count,
            c::TCP_SYNCNT => options.syn_count,
            c::TCP_LINGER2 if options.linger2 < 0 => -1,
            c::TCP_LINGER2 if options.linger2 == 0 => FIN_TIMEOUT,
            c::TCP_LINGER2 => options.linger2,
            c::TCP_DEFER_ACCEPT => options.defer_accept,
            c::TCP_WINDOW_CLAMP => options.window_clamp,
            c::TCP_QUICKACK => options.quick_ack.into(),
            c::TCP_USER_TIMEOUT => options.user_timeout,
            TCP_NOTSENT_LOWAT => options.not_sent_low.cast_signed(),
            TCP_TX_DELAY => options.tx_delay,
            c::TCP_FASTOPEN => options.fast_open,
            c::TCP_REPAIR => 0,
            TCP_TIMESTAMP => (sync::monotonic_ns() / 1_000_000) as u32 as i32,
            c::TCP_CONGESTION => {
                let mut bytes = CONTROLS.get(options.control).unwrap_or(&"cubic").as_bytes().to_vec();
                bytes.resize(MAX_CONTROL, 0);
                bytes.truncate(room);
                return Ok(bytes.into());
            }
            c::TCP_INFO => return Ok(self.info(&options, connected).into()),
            TCP_CC_INFO => return Ok(OptionValue::new()),
            TCP_SAVED_SYN | TCP_ULP => return Ok(OptionValue::new()),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(word(value))
    }

    /// `struct tcp_info`
    fn info(&self, options: &TcpOptions, connected: bool) -> Vec<u8> {
        let mut bytes = vec![0; 248];
        let state = self.tcp_state() as u8;
        // Timestamps, SACK, window scaling; both scales 7.
        let head = [state, 0, 0, 0, 0, if connected { 7 } else { 0 }, if connected { 0x77 } else { 0 }, 0];
        let segment = if connected { LOOPBACK_SEGMENT.cast_unsigned() } else { UNKNOWN_SEGMENT.cast_unsigned() };
        let age = self.connection().map_or(0, |connection| u32::try_from(age(&connection) / 1_000_000).unwrap_or(u32::MAX));
        let (unread, unsent) = self.queues();
        let (receive, backlog) = match &*self.listening.lock() {
            Some(listening) => listening.sizes(),
            None => (0, 0),
        };
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let words: [u32; 24] = [
            // rto, ato, snd_mss, rcv_mss
            if connected { 204_000 } else { 1_000_000 },
            if connected { 40_000 } else { 0 },
            segment,
            segment,
            // unacked and sacked are what a listening socket has waiting, and may have
            number(receive),
            number(backlog),
            0,
            0,
            0,
            // last_data_sent, last_ack_sent, last_data_recv, last_ack_recv
            age,
            0,
            age,
            age,
            // pmtu, rcv_ssthresh, rtt, rttvar
            if connected { 65535 } else { 0 },
            65495,
            if connected { 25 } else { 0 },
            if connected { 12 } else { 250_000 },
            // snd_ssthresh, snd_cwnd, advmss, reordering
            i32::MAX.cast_unsigned(),
            10,
            segment,
            3,
            // rcv_rtt, rcv_space, total_retrans
            0,
            65495,
            0,
        ];
        let content = head.into_iter().chain(words.into_iter().flat_map(u32::to_le_bytes));
        bytes.iter_mut().zip(content).for_each(|(place, byte)| *place = byte);
        // notsent_bytes
        let place = bytes.get_mut(144..148).unwrap_or_default();
        place.iter_mut().zip(number(unsent).to_le_bytes()).for_each(|(place, byte)| *place = byte);
        let _ = (unread, options);
        bytes
    }

    pub(super) fn set_tcp_option(&self, caller: &dyn Caller, name: i32, value: &[u8]) -> SysResult<()> {
        if name == c::TCP_CONGESTION {
            let text = value.get(..value.len().min(MAX_CONTROL - 1)).filter(|text| !text.is_empty()).ok_or(Errno::EINVAL)?;
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let known = CONTROLS.iter().position(|control| control.as_bytes() == text).ok_or(Errno::ENOENT)?;
            self.options.lock().control = known;
            return Ok(());
        }
        if name == TCP_ULP {
            return Err(Errno::ENOENT);
        }
        let number = word_of(value)?;
        let on = number != 0;
        if let Some(bit) = kept(name) {
            within(number, 0..=if name == TCP_SAVE_SYN { 2 } else { 1 })?;
            let mut options = self.options.lock();
            options.flags = if on { options.flags | bit } else { options.flags & !bit };
            return Ok(());
        }
        let state = self.tcp_state();
        let mut options = self.options.lock();
        match name {
            c::TCP_NODELAY => options.no_delay = on,
            c::TCP_CORK => options.cork = on,
            c::TCP_MAXSEG => {
                // `TCP_MIN_MSS` and `MAX_TCP_WINDOW`
                options.max_segment = if number == 0 { 0 } else { within(number, 88..=32767)? };
            }
            c::TCP_KEEPIDLE => options.keep_idle = within(number, 1..=32767)?,
            c::TCP_KEEPINTVL => options.keep_interval = within(number, 1..=32767)?,
            c::TCP_KEEPCNT => options.keep_count = within(number, 1..=127)?,
            c::TCP_SYNCNT => options.syn_count = within(number, 1..=127)?,
            c::TCP_LINGER2 => {
                options.linger2 = match number {
                    ..0 => -1,
                    number if number > MAX_LINGER2 => MAX_LINGER2,
                    number => number,
                };
            }
            c::TCP_DEFER_ACCEPT => options.defer_accept = number.clamp(0, 128),
            c::TCP_WINDOW_CLAMP => {
                if number == 0 && state != TcpState::Close {
                    return Err(Errno::EINVAL);
                }
                options.window_clamp = if number == 0 { 0 } else { number.max(MIN_CLAMP) };
            }
            c::TCP_QUICKACK => options.quick_ack = on,
            c::TCP_USER_TIMEOUT => options.user_timeout = within(number, 0..=i32::MAX)?,
            TCP_NOTSENT_LOWAT => options.not_sent_low = number.cast_unsigned(),
            TCP_TX_DELAY => options.tx_delay = number,
            c::TCP_FASTOPEN if number < 0 || !matches!(state, TcpState::Close | TcpState::Listen) => return Err(Errno::EINVAL),
            c::TCP_FASTOPEN => options.fast_open = number,
            c::TCP_REPAIR if !caller.capable(Capability::NET_ADMIN) => return Err(Errno::EPERM),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
}
