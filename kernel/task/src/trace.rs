//! The trace: calls, signals and ends of tasks as they happen, for people.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use sync::Mutex;

/// Where a trace is written to. It must not wait for ever: tasks wait for it.
pub type Sink = Box<dyn Write + Send>;

/// A trace that may be on or off.
#[derive(Default)]
pub struct Trace {
    on: AtomicBool,
    output: Mutex<Output>,
}

#[derive(Default)]
struct Output {
    sink: Option<Sink>,
    /// Tells one trace from the next.
    generation: u64,
    /// The task whose line has no end yet.
    open: Option<i32>,
}

impl Trace {
    /// Whether anybody wants to see it. Asked at every call.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Writes to `sink` from now on, and to no other; returns what [`Self::stop`] wants.
    pub(crate) fn start(&self, sink: Sink) -> u64 {
        let mut output = self.output.lock();
        output.sink = Some(sink);
        output.open = None;
        output.generation += 1;
        self.on.store(true, Ordering::SeqCst);
        output.generation
    }

    /// Ends the trace; one that isn't this one goes on.
    pub(crate) fn stop(&self, generation: Option<u64>) {
        let mut output = self.output.lock();
        if generation.is_none_or(|generation| generation == output.generation) {
            output.sink = None;
            self.on.store(false, Ordering::SeqCst);
        }
    }

    /// The beginning of a call. Its line stays open until [`Self::end`], if nobody else has something to say before.
    pub fn begin(&self, tid: i32, text: &str) {
        self.write(|output| {
            let line = format!("{}[pid {tid:5}] {text}", output.close());
            output.open = Some(tid);
            line
        });
    }

    /// The rest of the call `name`.
    pub fn end(&self, tid: i32, name: &str, text: &str) {
        self.write(|output| {
            if output.open == Some(tid) {
                output.open = None;
                return format!("{text}\n");
            }
            format!("{}[pid {tid:5}] <... {name} resumed>{text}\n", output.close())
        });
    }

    /// A line of its own.
    pub fn note(&self, tid: i32, text: &str) {
        self.write(|output| format!("{}[pid {tid:5}] {text}\n", output.close()));
    }

    fn write(&self, line: impl FnOnce(&mut Output) -> String) {
        let mut output = self.output.lock();
        let line = line(&mut output);
        // In one piece: others may write to the same file. Who doesn't read any more gets no more.
        if output.sink.as_mut().is_some_and(|sink| sink.write_all(line.as_bytes()).is_err()) {
            output.sink = None;
            self.on.store(false, Ordering::SeqCst);
        }
    }
}

impl Output {
    /// What ends a line that is open, as strace(1) does.
    fn close(&mut self) -> &'static str {
        if self.open.take().is_some() { " <unfinished ...>\n" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn calls_that_overlap_are_resumed() {
        let (trace, text) = (Trace::default(), Shared::default());
        trace.start(Box::new(text.clone()));
        trace.begin(1, "read(0, ");
        trace.begin(2, "getpid(");
        trace.end(2, "getpid", ") = 2");
        trace.end(1, "read", "\"x\", 1) = 1");
        let expected =
            "[pid     1] read(0,  <unfinished ...>\n[pid     2] getpid() = 2\n[pid     1] <... read resumed>\"x\", 1) = 1\n";
        assert_eq!(String::from_utf8(text.0.lock().clone()).unwrap(), expected);
    }

    #[test]
    fn a_later_trace_is_not_ended_for_an_earlier_one() {
        let trace = Trace::default();
        let first = trace.start(Box::new(Shared::default()));
        let second = trace.start(Box::new(Shared::default()));
        trace.stop(Some(first));
        assert!(trace.is_on());
        trace.stop(Some(second));
        assert!(!trace.is_on());
    }

    #[test]
    fn nobody_listening_ends_it() {
        let trace = Trace::default();
        let (reader, writer) = std::io::pipe().unwrap();
        trace.start(Box::new(writer));
        drop(reader);
        trace.note(1, "+++ exited with 0 +++");
        assert!(!trace.is_on());
    }
}
