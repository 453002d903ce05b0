//! Where a client's trace is written to.

use std::fs::File;
use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Seconds that a reader may take to make room. All tasks wait for it meanwhile, and a reader may have been stopped.
const PATIENCE: i64 = 5;

/// A pipe of the client's, which doesn't block.
pub struct TraceFile(pub File);

impl Write for TraceFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let timeout = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
                    if poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], Some(&timeout))? == 0 {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
