//! A terminal: the settings, both queues, and who is at either end.
//!
//! The *slave* end is what programs run on. At the other end is a program that holds the master, or the host ([`HostEnd`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::c;
use abi::poll::PollEvents;
use abi::signal::SigInfo;
use sync::{Mutex, MutexGuard, WaitQueue};

use crate::control::Control;
use crate::line::{Effects, Line};
use crate::output::Output;
use crate::termios::{Termios, WinSize};

/// Bytes that wait to be processed at most (a pseudoterminal's `tty_buffer` limit).
const INPUT_ROOM: usize = 65536;

/// Status bits of packet mode (TIOCPKT, ioctl_tty(2)).
pub const FLUSH_READ: u8 = 1;
pub const FLUSH_WRITE: u8 = 2;
const STOP: u8 = 4;
const START: u8 = 8;
const NO_STOP: u8 = 16;
const DO_STOP: u8 = 32;
const IOCTL: u8 = 64;

/// Somebody outside who shows what is written and brings what is typed.
pub trait HostEnd: Send + Sync {
    /// There is output to be taken ([`Terminal::take_output`]).
    fn output(&self);

    /// There is room for input again.
    fn room(&self);

    /// Somebody waits for input or changes the settings (`urgent`), or merely polls for input.
    fn wanted(&self, urgent: bool);
}

/// What the lock of a terminal guards.
pub struct State {
    pub termios: Termios,
    pub size: WinSize,
    pub line: Line,
    /// Arrived, and not processed: there was no room for it.
    pub input: VecDeque<u8>,
    pub output: Output,
    /// The master wants to know of changes (TIOCPKT), and which there were.
    pub packet: bool,
    pub status: u8,
    /// The slave can't be opened (TIOCSPTLCK); it can't be opened again (TIOCEXCL).
    pub locked: bool,
    pub exclusive: bool,
    /// Open files of the slave, and whether the last one has been closed.
    pub openers: usize,
    pub left: bool,
    /// Whether the other end is there.
    pub connected: bool,
    /// The other end processes output itself.
    pub cooked_outside: bool,
}

impl State {
    /// Whether a reader of the slave would get something, or a poll says so.
    pub fn readable(&self, for_poll: bool) -> bool {
        let minimum = if for_poll && self.termios.time() == 0 { self.termios.minimum() } else { 1 };
        self.line.readable(&self.termios, minimum)
    }

    /// Whether a reader of the master would get something.
    pub fn master_readable(&self) -> bool {
        !self.output.is_empty() || self.packet && self.status != 0
    }

    /// Room for input.
    pub fn input_room(&self) -> usize {
        INPUT_ROOM.saturating_sub(self.input.len())
    }

    /// Writes bytes as far as there is room; returns how many of them.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut termios = self.termios;
        if self.cooked_outside {
            termios.oflag &= !c::OPOST;
        }
        self.output.write(bytes, &termios)
    }

    /// Notes a change for packet mode.
    pub fn note(&mut self, set: u8, clear: u8) {
        if self.packet {
            self.status = self.status & !clear | set;
        }
    }

    /// Forgets what waits to be read.
    pub fn flush_input(&mut self) {
        self.input.clear();
        self.line.flush();
        self.note(FLUSH_READ, 0);
    }

    /// Forgets what waits to be shown.
    pub fn flush_output(&mut self) {
        self.output.flush();
        self.note(FLUSH_WRITE, 0);
    }

    /// Stops the output or lets it go on (tcflow(3)).
    pub fn hold_output(&mut self, on: bool) {
        if self.output.held_up != on {
            self.output.held_up = on;
            self.note(if on { STOP } else { START }, STOP | START);
            self.output.release();
        }
    }

    /// Takes over new settings.
    pub fn set_termios(&mut self, mut new: Termios) {
        new.settle_speeds();
        let old = std::mem::replace(&mut self.termios, new);
        self.line.change(&old, &new);
        if old.input(c::IXON) && !new.input(c::IXON) && std::mem::take(&mut self.output.stopped) {
            self.note(START, STOP | START);
            self.output.release();
        }
        if old.usual_flow() != new.usual_flow() {
            self.note(if new.usual_flow() { DO_STOP } else { NO_STOP }, DO_STOP | NO_STOP);
        }
        if (old.lflag | new.lflag) & c::EXTPROC != 0 {
            self.note(IOCTL, 0);
        }
    }
}

/// A terminal.
pub struct Terminal {
    rdev: u64,
    name: String,
    state: Mutex<State>,
    pub(crate) control: Mutex<Control>,
    /// Files opened before the last hang-up are of an earlier generation.
    generation: AtomicU64,
    /// Who waits at the slave, and at the master.
    pub(crate) queue: WaitQueue,
    pub(crate) master_queue: WaitQueue,
    host: OnceLock<Weak<dyn HostEnd>>,
}

/// A change under way. When it is over, those concerned are told.
pub struct Change<'a> {
    terminal: &'a Terminal,
    state: Option<MutexGuard<'a, State>>,
    effects: Effects,
    before: Counts,
}

/// What tells whom a change concerns.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Counts {
    input: usize,
    line: usize,
    output: usize,
    status: u8,
    stopped: bool,
}

impl Counts {
    fn of(state: &State) -> Self {
        Self {
            input: state.input.len(),
            line: state.line.len(),
            output: state.output.len(),
            status: state.status,
            stopped: state.output.is_stopped(),
        }
    }
}

impl Terminal {
    /// A terminal of this device number and name, whose other end is there.
    #[must_use]
    pub fn new(rdev: u64, name: String) -> Arc<Self> {
        let state = State {
            termios: Termios::default(),
            size: WinSize::default(),
            line: Line::default(),
            input: VecDeque::new(),
            output: Output::default(),
            packet: false,
            status: 0,
            locked: true,
            exclusive: false,
            openers: 0,
            left: false,
            connected: true,
            cooked_outside: false,
        };
        Arc::new(Self {
            rdev,
            name,
            state: Mutex::new(state),
            control: Mutex::default(),
            generation: AtomicU64::new(0),
            queue: WaitQueue::default(),
            master_queue: WaitQueue::default(),
            host: OnceLock::new(),
        })
    }

    /// Its device number.
    #[must_use]
    pub fn rdev(&self) -> u64 {
        self.rdev
    }

    /// Where it was made: `/dev/pts/3`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the other end is there.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state.lock().connected
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Begins a change of what waits or of the settings.
    pub(crate) fn change(&self) -> Change<'_> {
        let state = self.state.lock();
        let before = Counts::of(&state);
        Change { terminal: self, state: Some(state), effects: Effects::default(), before }
    }

    /// Gives it a host for its other end, once. Programs need no permission to open it.
    pub fn connect(&self, host: Weak<dyn HostEnd>) {
        if self.host.set(host).is_ok() {
            self.state.lock().locked = false;
        }
    }

    fn host(&self) -> Option<Arc<dyn HostEnd>> {
        self.host.get()?.upgrade()
    }

    /// Somebody waits for what the other end may bring. Call without locks.
    pub(crate) fn want(&self, urgent: bool) {
        if let Some(host) = self.host() {
            host.wanted(urgent);
        }
    }

    /// Whether the other end processes output itself (a terminal that isn't in raw mode). Returns what waits, which is as it was until now.
    #[must_use]
    pub fn cook_outside(&self, on: bool) -> Vec<u8> {
        let mut change = self.change();
        change.cooked_outside = on;
        change.output.take(usize::MAX)
    }

    /// Has these settings, as another terminal has them.
    pub fn set_termios(&self, termios: Termios) {
        self.change().set_termios(termios);
        self.settings_changed();
    }

    /// Input from the other end; returns how much of it there was room for.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut change = self.change();
        let count = bytes.len().min(change.input_room());
        change.input.extend(bytes.iter().take(count));
        count
    }

    /// Input that has been shown already by the other end: typed before that stopped doing so.
    pub fn receive_echoed(&self, bytes: &[u8]) {
        let mut change = self.change();
        let settings = change.termios;
        change.termios.lflag &= !(c::ECHO | c::ECHONL);
        let count = bytes.len().min(change.input_room());
        change.input.extend(bytes.iter().take(count));
        change.process();
        change.termios = settings;
    }

    /// Whether there is room for input.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.state.lock().input_room() > 0
    }

    /// Output for the other end.
    #[must_use]
    pub fn take_output(&self, max: usize) -> Vec<u8> {
        self.change().output.take(max)
    }

    /// Sets the window's size. The process group in the foreground hears of a change.
    pub fn set_size(&self, size: WinSize) {
        let old = std::mem::replace(&mut self.state.lock().size, size);
        if old != size {
            self.signal_foreground(SigInfo::kernel(c::SIGWINCH));
        }
    }

    /// The settings have changed: who waits looks again.
    pub fn settings_changed(&self) {
        self.queue.wake(PollEvents::READABLE | PollEvents::WRITABLE);
        self.master_queue.wake(PollEvents::READABLE | PollEvents::WRITABLE);
    }

    /// The other end is gone for good.
    pub fn hang_up(&self) {
        self.state.lock().connected = false;
        self.hang_up_files();
    }

    /// Open files of the slave are dead from now on, and its session hears of it (vhangup(2)).
    pub(crate) fn hang_up_files(&self) {
        self.change().flush_input();
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.release_session(c::SIGHUP);
        self.queue.wake(PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::HUP | PollEvents::ERR);
    }
}

impl std::ops::Deref for Change<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state.as_ref().expect("it is there until the end")
    }
}

impl std::ops::DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state.as_mut().expect("it is there until the end")
    }
}

impl Change<'_> {
    /// Processes input that there is room for now.
    pub fn process(&mut self) {
        let Some(state) = self.state.as_deref_mut() else { return };
        let State { termios, line, input, output, .. } = state;
        line.receive(input, termios, output, &mut self.effects);
        if self.effects.flushed {
            state.note(FLUSH_READ | FLUSH_WRITE, 0);
        }
        match self.effects.stopped {
            Some(true) => state.note(STOP, START),
            Some(false) => state.note(START, STOP),
            None => {}
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.process();
        let Some(state) = self.state.take() else { return };
        let (before, after) = (self.before, Counts::of(&state));
        let readable = state.readable(false);
        drop(state);
        let terminal = self.terminal;
        for signo in self.effects.signals.drain(..) {
            terminal.signal_foreground(SigInfo::kernel(signo));
        }
        if before == after {
            return;
        }
        if readable && after.line > before.line {
            terminal.queue.wake(PollEvents::READABLE);
        }
        if after.output < before.output || before.stopped != after.stopped {
            terminal.queue.wake(PollEvents::WRITABLE);
        }
        if after.output > before.output || after.status & !before.status != 0 {
            terminal.master_queue.wake(PollEvents::READABLE | PollEvents::PRI);
        }
        if after.input < before.input {
            terminal.master_queue.wake(PollEvents::WRITABLE);
        }
        if let Some(host) = terminal.host() {
            if after.output > before.output {
                host.output();
            }
            if after.input < before.input {
                host.room();
            }
        }
    }
}
