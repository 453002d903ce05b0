//! A terminal of the host, and a program on it.

#![allow(clippy::missing_panics_doc, reason = "helpers of tests")]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// A hang must fail, not block; no test waits that long otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// What has been shown, and whether that is all.
#[derive(Default)]
struct Screen {
    bytes: Vec<u8>,
    ended: bool,
}

/// Somebody at a terminal.
pub struct Pty {
    master: Option<File>,
    slave: OwnedFd,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

fn reading(mut master: File, screen: &Arc<(Mutex<Screen>, Condvar)>) -> JoinHandle<()> {
    let screen = screen.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let (lock, told) = &*screen;
        while !lock.lock().unwrap().ended {
            let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            if poll(&mut [PollFd::new(&master, PollFlags::IN)], Some(&moment)).unwrap_or(0) == 0 {
                continue;
            }
            let count = match master.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Nobody has it open any more.
                result => result.unwrap_or(0),
            };
            let mut screen = lock.lock().unwrap();
            screen.bytes.extend_from_slice(&buffer[..count]);
            screen.ended |= count == 0;
            told.notify_all();
        }
    })
}

impl Default for Pty {
    fn default() -> Self {
        Self::new()
    }
}

impl Pty {
    /// A new terminal of 24 rows and 80 columns.
    #[must_use]
    pub fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        let pty = Self::from_ends(master, slave);
        pty.resize(24, 80);
        pty
    }

    fn from_ends(master: OwnedFd, slave: OwnedFd) -> Self {
        let master = File::from(master);
        let screen = Arc::default();
        let reader = Some(reading(master.try_clone().unwrap(), &screen));
        Self { master: Some(master), slave, screen, reader }
    }

    /// A terminal whose master has come from elsewhere.
    #[must_use]
    pub fn of_master(master: OwnedFd) -> Self {
        let other = master.try_clone().unwrap();
        Self::from_ends(master, other)
    }

    /// Starts a program in a session of its own, whose terminal this is.
    #[must_use]
    pub fn start(&self, command: &Command) -> Child {
        let stream = || Stdio::from(self.slave.try_clone().unwrap());
        // Who runs the tests may ignore signals (nohup, a shell's background), which is passed on.
        let mut leader = Command::new("env");
        leader
            .args(["--default-signal", "setsid", "--ctty"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm")
            .env("PS1", "outside> ");
        leader.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap()
    }

    /// Closes the window.
    pub fn hang_up(&mut self) {
        self.screen.0.lock().unwrap().ended = true;
        self.reader.take().unwrap().join().unwrap();
        self.master = None;
        self.slave = File::open("/dev/null").unwrap().into();
    }

    /// Sets the size of the window.
    pub fn resize(&self, rows: u16, columns: u16) {
        let master = self.master.as_ref().unwrap();
        tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    /// Types.
    pub fn send(&self, text: &str) {
        (&mut self.master.as_ref().unwrap()).write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` has been shown; returns all up to it, which is forgotten.
    pub fn expect(&self, text: &str) -> String {
        let (lock, told) = &*self.screen;
        let start = Instant::now();
        let mut screen = lock.lock().unwrap();
        loop {
            let found = screen.bytes.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                let shown: Vec<u8> = screen.bytes.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&shown).into_owned();
            }
            let so_far = || last(&screen.bytes);
            assert!(!screen.ended && start.elapsed() < PATIENCE, "{text:?} isn't shown, but {:?}", so_far());
            screen = told.wait_timeout(screen, Duration::from_millis(200)).unwrap().0;
        }
    }

    /// Types keys again and again until `text` is shown: a shell that has just continued a job may still be the one that gets them.
    pub fn insist(&self, keys: &str, text: &str) {
        let start = Instant::now();
        while !self.shown().contains(text) {
            assert!(start.elapsed() < PATIENCE, "{text:?} isn't shown, but {:?}", self.shown());
            self.send(keys);
            let moment = Instant::now();
            while !self.shown().contains(text) && moment.elapsed() < Duration::from_secs(1) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.expect(text);
    }

    /// Waits until the other side has closed it; returns what was shown. No more programs can be started on it.
    #[must_use]
    pub fn rest(&mut self) -> String {
        // Ours would keep it open.
        self.slave = File::open("/dev/null").unwrap().into();
        let (lock, told) = &*self.screen;
        let start = Instant::now();
        let mut screen = lock.lock().unwrap();
        while !screen.ended {
            let so_far = || last(&screen.bytes);
            assert!(start.elapsed() < PATIENCE, "it doesn't end, but shows {:?}", so_far());
            screen = told.wait_timeout(screen, Duration::from_millis(200)).unwrap().0;
        }
        String::from_utf8_lossy(&screen.bytes).into_owned()
    }

    /// What has been shown until now, and not been expected.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.0.lock().unwrap().bytes).into_owned()
    }
}

/// The end of what has been shown, for messages.
fn last(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned()
}

/// The status of a program that has to end by itself: 128+n for a signal.
#[must_use]
pub fn status(mut child: Child) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().or_else(|| status.signal().map(|signo| 128 + signo)).unwrap_or(-1);
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it doesn't end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
