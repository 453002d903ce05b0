//! One guest thread: the conversation between its stub thread and its sentry thread.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, SysResult};
use platform::{Context, Exit, Interrupter, Prot, RseqArea, UserRegs};
use stub::layout::{
    ACTION_EXIT, ACTION_FULL, ACTION_HOST, ACTION_MORE, ACTION_SET_FS, Ctx, Header, IDENT_CALLS, KIND_FAST, KIND_FULL, KIND_MORE,
    KIND_SIGNAL, OP_CLOSE_RAW, OP_CPU_TIME, OP_RSEQ, Op, RING_NR, SIGINTERRUPT, STATE_GUEST, STATE_PARKED, STATE_RING, TEXT,
    TEXT_SIZE,
};
use sync::Mutex;

use crate::aspace::Space;
use crate::frame::{Frame, TRAP_FLAG, Trap};
use crate::process::Process;
use crate::sites::Sites;
use crate::spin::Spin;
use crate::{host, zygote};

/// Not in the libc crate.
const RSEQ_FLAG_UNREGISTER: u32 = 1;

/// Where the stub thread stands while the sentry works for it.
#[derive(Clone, Copy)]
enum Stopped {
    /// In its signal handler.
    Frame(Frame),
    /// In the fast path of a patched site.
    Fast,
    /// In a system call that the listener has told of.
    Notified(u64),
    /// Not any more.
    Gone,
}

/// What came from the stub.
enum Event {
    Signal(Frame, Trap, i32, i32, u64),
    Fast,
    More,
    Notified(host::Notification),
    Dead,
}

struct Bell {
    pid: i32,
    tid: i32,
    process: Arc<Process>,
    slot: u64,
    /// Held while the slot is written to: it may go to another thread afterwards.
    answers: Mutex<()>,
    /// The sentry thread is inside `switch`.
    running: AtomicBool,
    /// An interrupt is owed.
    wanted: AtomicBool,
    gone: AtomicBool,
}

impl Interrupter for Bell {
    fn interrupt(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        if self.running.load(Ordering::SeqCst) && !self.gone.load(Ordering::SeqCst) {
            host::tgkill(self.pid, self.tid, SIGINTERRUPT);
        }
    }

    fn set_answer(&self, nr: u64, value: Option<u64>) {
        let Some(index) = IDENT_CALLS.iter().position(|call| *call == nr) else { return };
        let _guard = self.answers.lock();
        if self.gone.load(Ordering::SeqCst) {
            return;
        }
        let ctx = self.process.slots.ctx(self.slot);
        match value {
            Some(value) => {
                if let Some(word) = ctx.ident.get(index) {
                    word.store(value, Ordering::Relaxed);
                }
                ctx.ident_mask.fetch_or(1 << index, Ordering::Release);
            }
            None => {
                ctx.ident_mask.fetch_and(!(1 << index), Ordering::Release);
            }
        }
    }
}

/// A guest thread.
pub struct GuestContext {
    space: Arc<Space>,
    slot: u64,
    listener: OwnedFd,
    bell: Arc<Bell>,
    header: Header,
    stopped: Stopped,
    /// The frame that the fast path makes.
    own_frame: Option<Frame>,
    /// The stub waits in this notification for the state word to change.
    ring: Option<u64>,
    /// The state word was set to `STATE_PARKED` and the stub has not rung since.
    parked: bool,
    /// FS base that the stub has.
    fs_base: u64,
    /// A batch of operations is on its way.
    batch: bool,
    /// A restartable sequence to be registered before the guest runs again.
    rseq: Option<Op>,
    sites: Box<Sites>,
    spin: Spin,
    /// The CPU that this thread was on when the session began.
    home: Option<usize>,
    /// What the stub was told last.
    rounds: (u32, u32),
}

impl GuestContext {
    pub fn new(space: Arc<Space>, regs: &UserRegs, fp: Option<&[u8]>) -> SysResult<Self> {
        let process = space.process.clone();
        let slot = process.take_slot()?;
        let ctx = process.slots.ctx(slot);
        let started = process.start_thread(slot).and_then(|tid| {
            process.wait_word(&ctx.hello, 1)?;
            let number = ctx.listener.load(Ordering::Relaxed);
            Ok((tid, number, host::pidfd_getfd(&process.pidfd, number).map_err(|_| Errno::EAGAIN)?))
        });
        let (tid, number, listener) = match started {
            Ok(started) => started,
            Err(errno) => {
                process.release_slot(slot);
                return Err(errno);
            }
        };
        host::notif_sync_wake_up(&listener, true);
        let bell = Bell {
            pid: process.pid,
            tid,
            process: process.clone(),
            slot,
            answers: Mutex::default(),
            running: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        };
        let mut context = Self {
            space,
            slot,
            listener,
            bell: Arc::new(bell),
            header: zygote::header(),
            stopped: Stopped::Gone,
            own_frame: None,
            ring: None,
            parked: true,
            fs_base: 0,
            batch: false,
            rseq: None,
            sites: Box::default(),
            spin: Spin::default(),
            home: None,
            rounds: (0, 0),
        };
        let mut initial = UserRegs::default();
        match context.wait(&mut initial) {
            Event::Signal(frame, ..) if initial.rip == TEXT + context.header.hello_ud2 => {
                context.stopped = Stopped::Frame(frame);
                context.own_frame = frame.of_fast_path(&process.slots);
            }
            _ => {
                process.kill();
                return Err(Errno::EAGAIN);
            }
        }
        // The stub's own copy of the listener is in the way of nobody, but guests must find no descriptor.
        if !context.run_op(Op { code: OP_CLOSE_RAW, addr: u64::from(number.cast_unsigned()), ..Op::default() }) {
            return Err(Errno::EAGAIN);
        }
        if let Some(image) = fp {
            context.set_fp(image)?;
        }
        if let Stopped::Frame(frame) = context.stopped {
            frame.write(&process.slots, regs);
        }
        Ok(context)
    }

    /// Has the stub, stopped in a frame, run one operation at once. False when it is gone or didn't.
    fn run_op(&mut self, op: Op) -> bool {
        let ctx = self.ctx();
        // SAFETY: the first entry of the array, which is shared memory that only raw accesses touch.
        unsafe { ctx.ops.as_ptr().cast_mut().write_volatile(op) };
        ctx.nops.store(1, Ordering::Release);
        ctx.action.store(ACTION_MORE, Ordering::Release);
        self.answer();
        let done = matches!(self.wait(&mut UserRegs::default()), Event::More);
        if !done {
            self.stopped = Stopped::Gone;
            self.space.process.kill();
        }
        done
    }

    fn ctx(&self) -> &Ctx {
        self.space.process.slots.ctx(self.slot)
    }

    /// Lets a stub go on that waits at the state word.
    fn answer(&mut self) {
        if !self.spin.in_session() {
            self.spin.plan();
            self.tell_rounds();
        }
        let old = self.ctx().state.swap(STATE_GUEST, Ordering::SeqCst);
        if old == STATE_RING && self.ring.is_none() {
            // It sleeps: this took too long for most sessions.
            if self.spin.survives_ring() {
                self.keep_apart();
            } else {
                self.end_session();
            }
            self.ring = self.receive().map(|notification| notification.id);
        }
        if let Some(id) = self.ring.take() {
            // A target that is gone is found out at the next receive.
            let _ = host::notif_send(&self.listener, id, 0);
        }
    }

    /// The next notification; `None` when the thread is gone.
    fn receive(&self) -> Option<host::Notification> {
        loop {
            match host::notif_recv(&self.listener) {
                Ok(notification) => return Some(notification),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                // Withdrawn by a signal; or nobody is left.
                Err(Errno::ENOENT) => {
                    let mut poll = libc::pollfd { fd: self.listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                    // SAFETY: one local entry.
                    unsafe { libc::poll(&raw mut poll, 1, 0) };
                    if poll.revents & libc::POLLHUP != 0 {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }

    /// Tells the stub how long to look for answers.
    fn tell_rounds(&mut self) {
        let rounds = self.spin.stub_rounds();
        if rounds != self.rounds {
            self.rounds = rounds;
            self.ctx().rounds.store(rounds.0, Ordering::Relaxed);
            self.ctx().looks.store(rounds.1, Ordering::Relaxed);
        }
    }

    /// From now on sentry and stub are on two CPUs and spin.
    fn begin_session(&mut self) {
        self.home = host::cpu();
        // Left to itself the scheduler wakes the stub here, where we spin.
        host::move_away(self.bell.tid, self.home);
        host::notif_sync_wake_up(&self.listener, false);
        self.tell_rounds();
    }

    /// The session goes on though both may have slept: wherever the host lets this thread run now, the stub is kept away from there.
    fn keep_apart(&mut self) {
        let here = host::cpu();
        if here != self.home {
            self.home = here;
            host::move_away(self.bell.tid, here);
        }
    }

    /// From now on they share a CPU and sleep.
    fn end_session(&mut self) {
        if self.spin.in_session() {
            self.spin.end();
            self.tell_rounds();
            host::move_freely(self.bell.tid);
            host::notif_sync_wake_up(&self.listener, true);
        }
    }

    /// Spins for the next request; false when it is time to sleep.
    fn request_comes(&mut self) -> bool {
        let state = &self.space.process.slots.ctx(self.slot).state;
        // Only a request, or its ring, makes it odd.
        let there = || state.load(Ordering::Acquire) & 1 != 0;
        for _ in 0..self.spin.looks() {
            if there() {
                return !self.spin.crowded();
            }
            std::hint::spin_loop();
        }
        self.spin.wait_on(there)
    }

    /// Waits for what the stub thread does next.
    fn wait(&mut self, regs: &mut UserRegs) -> Event {
        let mut there = false;
        if !self.parked {
            if self.spin.in_session() {
                if !self.request_comes() {
                    self.end_session();
                }
            } else {
                let state = &self.ctx().state;
                there = self.spin.look(|| state.load(Ordering::Acquire) & 1 != 0);
            }
        }
        let state = &self.ctx().state;
        // Who has found PARKED rings, whatever the word says by now.
        self.parked |= !there && state.compare_exchange(STATE_GUEST, STATE_PARKED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if self.parked {
            let Some(notification) = self.receive() else { return Event::Dead };
            let in_stub = (TEXT..TEXT + TEXT_SIZE).contains(&notification.ip);
            if !in_stub || notification.nr != RING_NR as i32 {
                self.spin.came_notified();
                return Event::Notified(notification);
            }
            self.parked = false;
            self.ring = Some(notification.id);
        }
        self.spin.came();
        match self.ctx().kind.load(Ordering::Acquire) {
            KIND_FAST => Event::Fast,
            KIND_MORE => Event::More,
            KIND_FULL => self.full_frame(regs),
            KIND_SIGNAL => self.signal(regs),
            _ => Event::Dead,
        }
    }

    /// The fast path has made a frame: asked for, or because an interrupt has come meanwhile.
    fn full_frame(&mut self, regs: &mut UserRegs) -> Event {
        let Some(frame) = self.own_frame else { return Event::Dead };
        frame.reload(&self.space.process.slots, regs);
        regs.fs_base = self.ctx().fs_base.load(Ordering::Relaxed);
        self.fs_base = regs.fs_base;
        Event::Signal(frame, Trap::default(), SIGINTERRUPT, 0, 0)
    }

    /// Exchanges a frame of the fast path's for one of the host's, which alone can start single steps: the trap flag would stop the
    /// fast path. False when the stub is gone.
    fn host_frame(&mut self, regs: &UserRegs) -> bool {
        let event = self.resume(&mut regs.clone(), ACTION_HOST);
        self.stop_in_frame(&event)
    }

    /// Takes the frame that was asked for; false when the stub is gone or has sent none.
    fn stop_in_frame(&mut self, event: &Event) -> bool {
        let finished = self.finish_batch();
        self.stopped = Stopped::Gone;
        match event {
            Event::Signal(frame, ..) if finished => self.stopped = Stopped::Frame(*frame),
            _ if finished => self.space.process.kill(),
            _ => {}
        }
        matches!(self.stopped, Stopped::Frame(_))
    }

    /// Ends a batch of operations that is on its way; false when that fails.
    fn finish_batch(&mut self) -> bool {
        !std::mem::take(&mut self.batch) || self.space.finish(self.slot).is_ok()
    }

    fn signal(&mut self, regs: &mut UserRegs) -> Event {
        let ctx = self.ctx();
        let (signo, code) = (ctx.signo.load(Ordering::Relaxed), ctx.sigcode.load(Ordering::Relaxed));
        let (addr, frame) = (ctx.sigaddr.load(Ordering::Relaxed), ctx.frame.load(Ordering::Relaxed));
        regs.fs_base = ctx.fs_base.load(Ordering::Relaxed);
        let rcx = ctx.regs.rcx.load(Ordering::Relaxed);
        let Ok((frame, trap)) = Frame::read(&self.space.process.slots, self.slot, frame, regs) else { return Event::Dead };
        self.fs_base = regs.fs_base;
        if signo == libc::SIGILL && regs.rip == TEXT + self.header.full_ud2 {
            // The fast path's way to a frame of the host's.
            regs.rip = rcx;
            return Event::Signal(frame, trap, SIGINTERRUPT, code, addr);
        }
        Event::Signal(frame, trap, signo, code, addr)
    }

    /// Answers with the result and the operations that are due, then waits. `action`: what else the stub is to do.
    fn resume(&mut self, regs: &mut UserRegs, action: u32) -> Event {
        match self.stopped {
            Stopped::Gone => return Event::Dead,
            Stopped::Notified(id) => {
                if self.space.catch_up().is_err() {
                    return Event::Dead;
                }
                // A target that is gone is found out at the next receive.
                let _ = host::notif_send(&self.listener, id, regs.rax);
                return self.wait(regs);
            }
            Stopped::Frame(frame) => frame.write(&self.space.process.slots, regs),
            Stopped::Fast => {
                self.ctx().ret.store(regs.rax, Ordering::Relaxed);
                self.spin.answered();
            }
        }
        let mut action = action;
        if matches!(self.stopped, Stopped::Frame(_)) && regs.fs_base != self.fs_base {
            self.ctx().fs_base.store(regs.fs_base, Ordering::Relaxed);
            self.fs_base = regs.fs_base;
            action |= ACTION_SET_FS;
        }
        loop {
            let Ok(more) = self.space.fill(self.slot, &mut self.rseq) else { return Event::Dead };
            self.batch |= self.ctx().nops.load(Ordering::Relaxed) != 0;
            self.ctx().action.store(if more { ACTION_MORE } else { action }, Ordering::Release);
            self.answer();
            if !more {
                return self.wait(regs);
            }
            if !matches!(self.wait(regs), Event::More) || self.space.finish(self.slot).is_err() {
                return Event::Dead;
            }
        }
    }

    fn fault(trap: &Trap, signo: i32, code: i32, addr: u64) -> Exit {
        // x86 trap 14 is the page fault; its error code says what was tried (Intel SDM vol. 3, 4.7).
        let access = match trap.trapno {
            14 if trap.error & 0x10 != 0 => Prot::EXEC,
            14 if trap.error & 2 != 0 => Prot::WRITE,
            14 => Prot::READ,
            _ => Prot::empty(),
        };
        let addr = if trap.trapno == 14 { trap.cr2 } else { addr };
        Exit::Fault { addr, access, signo, code, trapno: trap.trapno, error_code: trap.error }
    }

    /// Turns what came into an exit; `None` when the guest just goes on.
    fn exit(&mut self, event: Event, regs: &mut UserRegs) -> Exit {
        if !self.finish_batch() {
            self.stopped = Stopped::Gone;
            return Exit::Dead;
        }
        match event {
            Event::Notified(notification) => {
                self.stopped = Stopped::Notified(notification.id);
                regs.rip = notification.ip;
                let hot = self.sites.count(notification.ip);
                Exit::Syscall { nr: u64::from(notification.nr.cast_unsigned()), args: notification.args, hot }
            }
            Event::Fast => {
                self.stopped = Stopped::Fast;
                let saved = &self.ctx().regs;
                let load = |word: &std::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
                (regs.rip, regs.rsp) = (load(&saved.rcx), load(&saved.rsp));
                let args = [&saved.rdi, &saved.rsi, &saved.rdx, &saved.r10, &saved.r8, &saved.r9].map(load);
                let nr = load(&saved.rax);
                if self.spin.request() {
                    self.begin_session();
                }
                Exit::Syscall { nr, args, hot: false }
            }
            Event::Signal(frame, trap, signo, code, addr) => {
                self.stopped = Stopped::Frame(frame);
                match signo {
                    libc::SIGSYS => {
                        let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
                        let hot = self.sites.count(regs.rip);
                        Exit::Syscall { nr: regs.rax, args, hot }
                    }
                    libc::SIGSEGV | libc::SIGBUS => Self::fault(&trap, signo, code, addr),
                    SIGINTERRUPT => Exit::Interrupted,
                    libc::SIGFPE | libc::SIGILL | libc::SIGTRAP => {
                        Exit::Signal { signo, code, addr, trapno: trap.trapno, error_code: trap.error }
                    }
                    _ => Exit::Dead,
                }
            }
            Event::More | Event::Dead => {
                self.stopped = Stopped::Gone;
                Exit::Dead
            }
        }
    }
}

fn rseq_op(area: RseqArea, flags: u32) -> Op {
    Op { code: OP_RSEQ, prot: flags, addr: area.addr, len: area.len.into(), off: area.signature.into(), ..Op::default() }
}

impl Context for GuestContext {
    fn switch(&mut self, regs: &mut UserRegs) -> Exit {
        // A notified call can't carry operations: take the long way for those.
        let operations = self.rseq.is_some() || self.space.dirty();
        if matches!(self.stopped, Stopped::Notified(_)) && operations && !self.full(regs) {
            return Exit::Dead;
        }
        if let Stopped::Frame(frame) = self.stopped
            && frame.is_of_fast_path()
            && regs.eflags & TRAP_FLAG != 0
            && !self.host_frame(regs)
        {
            return Exit::Dead;
        }
        self.bell.running.store(true, Ordering::SeqCst);
        if self.bell.wanted.swap(false, Ordering::SeqCst) {
            self.bell.running.store(false, Ordering::SeqCst);
            return if self.full(regs) { Exit::Interrupted } else { Exit::Dead };
        }
        let event = self.resume(regs, 0);
        self.bell.running.store(false, Ordering::SeqCst);
        let exit = self.exit(event, regs);
        if exit == Exit::Interrupted {
            self.bell.wanted.store(false, Ordering::SeqCst);
        }
        exit
    }

    fn full(&mut self, regs: &mut UserRegs) -> bool {
        match self.stopped {
            Stopped::Frame(_) => return true,
            Stopped::Gone => return false,
            Stopped::Fast => {}
            // The signal is delivered on the way out of the call, before an instruction of the guest.
            Stopped::Notified(_) => host::tgkill(self.bell.pid, self.bell.tid, SIGINTERRUPT),
        }
        // The host must see no error that makes it start its call again (ERESTARTSYS).
        let result = std::mem::take(&mut regs.rax);
        let event = self.resume(regs, ACTION_FULL);
        regs.rax = result;
        self.stop_in_frame(&event)
    }

    fn fp(&self) -> Vec<u8> {
        match self.stopped {
            Stopped::Frame(frame) => frame.fp(&self.space.process.slots),
            _ => Vec::new(),
        }
    }

    fn set_fp(&mut self, image: &[u8]) -> SysResult<()> {
        match self.stopped {
            Stopped::Frame(frame) => frame.set_fp(&self.space.process.slots, image),
            _ => Err(Errno::EINVAL),
        }
    }

    fn cpu_time(&mut self, regs: &mut UserRegs) -> Option<u64> {
        if !self.full(regs) || !self.run_op(Op { code: OP_CPU_TIME, ..Op::default() }) {
            return None;
        }
        Some(self.ctx().cpu_time.load(Ordering::Relaxed))
    }

    fn begin_rseq(&mut self, area: RseqArea) {
        self.rseq = Some(rseq_op(area, 0));
    }

    fn end_rseq(&mut self, regs: &mut UserRegs, area: RseqArea) {
        if self.rseq.take().is_none() && self.full(regs) {
            self.run_op(rseq_op(area, RSEQ_FLAG_UNREGISTER));
        }
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        self.bell.clone()
    }
}

impl Drop for GuestContext {
    fn drop(&mut self) {
        {
            let _guard = self.bell.answers.lock();
            self.bell.gone.store(true, Ordering::SeqCst);
        }
        self.end_session();
        let process = self.space.process.clone();
        // The last thread goes with its process; others are told to end.
        if Arc::strong_count(&self.space) > 1 {
            let mut regs = UserRegs::default();
            if self.full(&mut regs) {
                self.ctx().action.store(ACTION_EXIT, Ordering::Release);
                self.answer();
            }
        }
        process.release_slot(self.slot);
    }
}
