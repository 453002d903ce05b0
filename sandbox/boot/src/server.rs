//! Answers requests to a running sandbox.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::c;
use abi::signal::SigInfo;
use control::{Connection, Process, Request, Response, Stats, Target};
use sync::Mutex;
use task::{Group, Kernel};

use crate::console::Wire;
use crate::error::BootError;
use crate::program::{Launcher, Streams, Told};
use crate::sentry::exit_status;
use crate::trace::TraceFile;

/// Stack of a thread that serves a client: what it parses comes from the user who made the container.
const STACK: usize = 256 << 10;

/// What the first program is to be started with.
type First = (Process, Streams);

/// Serves the clients of one sandbox.
pub struct Server {
    launcher: Arc<Launcher>,
    first: Mutex<Option<First>>,
    /// Who is to be told of the end.
    waiting: Mutex<Vec<Arc<Mutex<Connection>>>>,
}

/// A client, as its thread sees it.
struct Client {
    /// For answers, by this thread and by those that tell of an end.
    answers: Arc<Mutex<Connection>>,
    /// The process that was started on this connection.
    own: Option<Arc<Group>>,
    /// The trace that it reads.
    trace: Option<u64>,
}

fn failed(why: impl Into<String>) -> Response {
    Response::Failed { why: why.into(), status: 125 }
}

impl From<BootError> for Response {
    fn from(error: BootError) -> Self {
        Self::Failed { why: error.to_string(), status: error.status() }
    }
}

impl Server {
    pub fn new(launcher: Arc<Launcher>, first: Process, streams: Streams) -> Arc<Self> {
        Arc::new(Self { launcher, first: Mutex::new(Some((first, streams))), waiting: Mutex::default() })
    }

    fn kernel(&self) -> &Arc<Kernel> {
        &self.launcher.kernel
    }

    /// Tells the maker on `stream` that all is ready, and serves it and who connects to `listener` from now on.
    pub fn listen(self: &Arc<Self>, stream: UnixStream, listener: UnixListener) -> io::Result<()> {
        let maker = Connection::from(stream);
        maker.send(&Response::Done, &[])?;
        self.serve(maker);
        let own = self.clone();
        let accept = move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => own.serve(stream.into()),
                    // Out of descriptors, say: they may come back.
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
                }
            }
        };
        std::thread::Builder::new().name("listener".into()).stack_size(64 << 10).spawn(accept).map(drop)
    }

    /// Serves a client on a thread of its own, until it is gone.
    fn serve(self: &Arc<Self>, connection: Connection) {
        let own = self.clone();
        let Ok(answers) = connection.try_clone() else { return };
        let serve = move || {
            let mut client = Client { answers: Arc::new(Mutex::new(answers)), own: None, trace: None };
            while let Ok((request, fds)) = connection.receive() {
                let answer = own.answer(&mut client, request, fds);
                if answer.is_some_and(|answer| client.answers.lock().send(&answer, &[]).is_err()) {
                    break;
                }
            }
            if client.trace.is_some() {
                own.kernel().stop_trace(client.trace);
            }
            // Nobody would hear of its end.
            if let Some(group) = client.own {
                group.signal(SigInfo::kernel(abi::c::SIGKILL));
            }
        };
        // Without a thread the client sees the connection closed.
        let _ = std::thread::Builder::new().name("client".into()).stack_size(STACK).spawn(serve);
    }

    /// `None`: the answer has been or will be given otherwise.
    fn answer(&self, client: &mut Client, request: Request, fds: Vec<OwnedFd>) -> Option<Response> {
        let kernel = self.kernel();
        Some(match request {
            Request::Start => return self.start(client),
            Request::Exec(_) if kernel.group(1).is_none() => failed("the container has not been started"),
            Request::Exec(process) => return self.exec(client, &process, fds),
            Request::Hook(process) => match kernel.reserve_first() {
                Ok(()) => return self.exec(client, &process, fds),
                Err(errno) => failed(format!("cannot run a hook: {errno}")),
            },
            Request::Signal { signo, target } => signal(kernel, client, signo, target),
            Request::Wait { pid } => return self.wait(client, pid),
            Request::Pause | Request::Resume => {
                kernel.pause(request == Request::Pause);
                Response::Done
            }
            Request::Status => Response::Status { started: self.first.lock().is_none(), paused: kernel.is_paused() },
            Request::Stats => Response::Stats(self.stats()),
            Request::Limit { tasks, memory } => {
                if let Some(tasks) = tasks {
                    kernel.quota.set_tasks(tasks);
                }
                if memory.is_some() {
                    kernel.quota.set_memory(memory);
                }
                Response::Done
            }
            Request::Trace(on) => {
                if on {
                    let sink: task::Sink = match fds.into_iter().next() {
                        Some(fd) => Box::new(TraceFile(fd.into())),
                        None => self.launcher.log(),
                    };
                    client.trace = Some(kernel.start_trace(sink));
                } else {
                    kernel.stop_trace(None);
                }
                Response::Done
            }
            Request::Processes => Response::Processes(crate::processes::list(kernel)),
            Request::Debug(on) => {
                self.launcher.debug.store(on, Ordering::Relaxed);
                Response::Done
            }
            Request::Stacks => Response::Text(crate::stacks::text(kernel)),
        })
    }

    /// Runs the first program; where it can't, the container ends once that is told.
    fn start(&self, client: &Client) -> Option<Response> {
        // Held until the answer is sent: the program may end at once, and the sandbox with it.
        let mut first = self.first.lock();
        let Some((process, streams)) = first.take() else {
            return Some(failed("it has been started already"));
        };
        match self.launcher.start(&process, &streams, Told::default()) {
            Ok(_) => {
                let _ = client.answers.lock().send(&Response::Done, &[]);
                None
            }
            Err(error) => {
                let status = error.status();
                let _ = client.answers.lock().send(&Response::from(error), &[]);
                self.kernel().give_up(status << 8);
                None
            }
        }
    }

    /// Runs another program.
    fn exec(&self, client: &mut Client, process: &Process, mut fds: Vec<OwnedFd>) -> Option<Response> {
        if client.own.is_some() {
            return Some(failed("this connection has a program already"));
        }
        let wire = if process.terminal.is_some() { fds.pop().map(|fd| Wire::Link(fd.into())) } else { None };
        let streams = match self.launcher.streams(process, fds, wire, [process.terminal.is_some(); 3]) {
            Ok(streams) => streams,
            Err(errno) => return Some(failed(format!("cannot have these standard streams: {errno}"))),
        };
        let console = streams.console().cloned();
        // Its end must not be told before its start.
        let answers = client.answers.lock();
        let teller = client.answers.clone();
        let exit: task::OnExit = Box::new(move |status| {
            if let Some(console) = &console {
                console.finish();
            }
            let _ = teller.lock().send(&Response::Exited { status: exit_status(status) }, &[]);
        });
        match self.launcher.start(process, &streams, Told { exit: Some(exit), stop: None }) {
            Ok(pid) => {
                client.own = self.kernel().group(pid);
                let _ = answers.send(&Response::Started { pid }, &[]);
                None
            }
            Err(error) => Some(error.into()),
        }
    }

    fn wait(&self, client: &Client, pid: Option<i32>) -> Option<Response> {
        match pid {
            None | Some(1) => self.waiting.lock().push(client.answers.clone()),
            Some(pid) => {
                let Some(group) = self.kernel().group(pid) else { return Some(failed(format!("there is no process {pid}"))) };
                let teller = client.answers.clone();
                group.on_exit(Box::new(move |status| {
                    let _ = teller.lock().send(&Response::Exited { status: exit_status(status) }, &[]);
                }));
            }
        }
        None
    }

    /// Tells those who wait for the first process that it has ended. The sandbox ends right after.
    pub fn tell_end(&self, status: i32) {
        // Who is being told of the start hears of it.
        drop(self.first.lock());
        for client in self.waiting.lock().iter() {
            let _ = client.lock().send(&Response::Exited { status }, &[]);
        }
    }

    fn stats(&self) -> Stats {
        let kernel = self.kernel();
        let tasks = kernel.tasks.lock().len() as u64;
        Stats {
            tasks,
            task_limit: kernel.quota.tasks.load(Ordering::Relaxed),
            cpu: 0,
            oom_kills: kernel.oom_kills.load(Ordering::Relaxed),
        }
    }
}

fn signal(kernel: &Arc<Kernel>, client: &Client, signo: i32, target: Target) -> Response {
    if !(1..=64).contains(&signo) {
        return failed(format!("signal {signo}: between 1 and 64"));
    }
    // As of a process outside, which has no number here: the first process hears what it asks for, as on Linux (pid_namespaces(7)), and what it
    // can't ask for.
    let info = match signo {
        c::SIGKILL | c::SIGSTOP => SigInfo::kernel(signo),
        _ => SigInfo::from_process(signo, c::SI_USER, 0, 0),
    };
    match target {
        Target::All => {
            let all: Vec<_> = kernel.groups.lock().values().cloned().collect();
            all.iter().for_each(|group| group.signal(info));
        }
        Target::Init | Target::Own => {
            let group = if target == Target::Own { client.own.clone() } else { kernel.group(1) };
            match group {
                Some(group) => group.signal(info),
                None => return failed("the container isn't running"),
            }
        }
    }
    Response::Done
}
