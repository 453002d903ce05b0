//! Tests across modules.

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::{Capability, Kgid};
use socket::{Caller, Control, Credentials, Endpoint, Flag, Outgoing, Received, Request, Socket, SocketFile};
use usermem::IoBuf;
use vfs::File;

use crate::{Kind, Names, Unix};

struct Nobody;

impl Caller for Nobody {
    fn credentials(&self) -> Credentials {
        Credentials { pid: 1, uid: 2, gid: 3 }
    }
    fn groups(&self) -> Arc<[Kgid]> {
        Arc::new([])
    }
    fn capable(&self, _: Capability) -> bool {
        false
    }
    fn file(&self, _: i32) -> SysResult<Arc<File>> {
        Err(Errno::EBADF)
    }
    fn bind_path(&self, _: &[u8], _: Endpoint) -> SysResult<()> {
        Err(Errno::EROFS)
    }
    fn find_path(&self, _: &[u8]) -> SysResult<Endpoint> {
        Err(Errno::ENOENT)
    }
}

fn pair(kind: Kind) -> (Arc<Unix>, Arc<Unix>) {
    Unix::pair(&Arc::default(), kind, &Nobody)
}

fn send(socket: &Unix, bytes: &[u8], files: Vec<Arc<File>>) -> SysResult<usize> {
    socket.send(&mut IoBuf::kernel(bytes), &mut Outgoing { files, caller: Some(&Nobody), ..Outgoing::plain(c::MSG_DONTWAIT) })
}

fn receive(socket: &Unix, room: usize) -> SysResult<(Vec<u8>, Received)> {
    let mut bytes = vec![0; room];
    let request = Request { flags: c::MSG_DONTWAIT, control: true, ..Request::default() };
    let received = socket.receive(&mut IoBuf::kernel_mut(&mut bytes), &request)?;
    bytes.truncate(received.count);
    Ok((bytes, received))
}

fn files(received: &Received) -> usize {
    received.control.iter().map(|control| if let Control::Rights(files) = control { files.len() } else { 0 }).sum()
}

#[test]
fn streams_join_and_packets_are_cut() {
    let (a, b) = pair(Kind::Stream);
    send(&a, b"ab", vec![]).unwrap();
    send(&a, b"cd", vec![]).unwrap();
    assert_eq!(receive(&b, 3).unwrap().0, b"abc");
    assert_eq!(receive(&b, 3).unwrap().0, b"d");
    assert!(receive(&b, 3).is_err());
    let (a, b) = pair(Kind::SeqPacket);
    for bytes in [&b"abc"[..], b"", b"x"] {
        send(&a, bytes, vec![]).unwrap();
    }
    let (bytes, received) = receive(&b, 2).unwrap();
    assert_eq!((bytes.as_slice(), received.full, received.flags), (&b"ab"[..], 3, c::MSG_TRUNC));
    assert_eq!(receive(&b, 2).unwrap().0, b"");
    assert_eq!(receive(&b, 2).unwrap().0, b"x");
}

#[test]
fn files_come_with_their_bytes_and_end_a_receive() {
    let (a, b) = pair(Kind::Stream);
    let file = SocketFile::open(a.clone(), 0);
    send(&a, b"1", vec![]).unwrap();
    send(&a, b"2", vec![file.clone()]).unwrap();
    send(&a, b"3", vec![file]).unwrap();
    send(&a, b"4", vec![]).unwrap();
    for expected in [(&b"12"[..], 1), (b"3", 1), (b"4", 0)] {
        let (bytes, received) = receive(&b, 9).unwrap();
        assert_eq!((bytes.as_slice(), files(&received)), expected);
    }
}

#[test]
fn senders_are_not_mixed_for_those_who_ask() {
    let (a, b) = pair(Kind::Stream);
    send(&a, b"unknown", vec![]).unwrap();
    b.common().set(Flag::PassCredentials, true);
    send(&a, b"known", vec![]).unwrap();
    send(&a, b" too", vec![]).unwrap();
    for (expected, who) in [(&b"unknown"[..], Credentials::NOBODY), (b"known too", Nobody.credentials())] {
        let (bytes, received) = receive(&b, 99).unwrap();
        assert_eq!(bytes, expected);
        assert!(matches!(received.control.first(), Some(Control::Credentials(sender)) if *sender == who));
    }
}

#[test]
fn connections_are_accepted_reset_and_ended() {
    let names = Arc::new(Names::default());
    let new = || Unix::new(&names, Kind::Stream);
    let listener = new();
    let name = b"\x01\0\0x";
    listener.clone().bind(&Nobody, name).unwrap();
    assert_eq!(new().bind(&Nobody, name), Err(Errno::EADDRINUSE));
    let client = new();
    assert_eq!(client.clone().connect(&Nobody, name), Err(Errno::ECONNREFUSED));
    listener.clone().listen(&Nobody, 0).unwrap();
    client.clone().connect(&Nobody, name).unwrap();
    let late = new();
    assert_eq!(late.clone().connect(&Nobody, name), Err(Errno::EAGAIN));
    assert!(listener.poll().contains(PollEvents::IN));
    let server: Arc<Unix> = listener.accept().unwrap().0.as_any().downcast().unwrap();
    late.clone().connect(&Nobody, name).unwrap();
    send(&client, b"hi", vec![]).unwrap();
    assert_eq!(receive(&server, 9).unwrap().0, b"hi");
    send(&server, b"unread", vec![]).unwrap();
    client.close();
    assert_eq!(receive(&server, 9).err(), Some(Errno::ECONNRESET));
    assert_eq!(receive(&server, 9).unwrap().0, b"");
    assert_eq!(send(&server, b"x", vec![]), Err(Errno::EPIPE));
    listener.close();
    assert_eq!(receive(&late, 9).err(), Some(Errno::ECONNRESET));
    new().bind(&Nobody, name).unwrap();
    assert_eq!(names.find(Kind::Stream, b"y").map(|_| ()), None);
}

/// Files in flight are counted for all: tests with many of them take turns.
static FLOOD: sync::Mutex<()> = sync::Mutex::new(());

#[test]
fn a_long_chain_of_sockets_in_flight_ends_without_nesting() {
    let _turn = FLOOD.lock();
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(|| {
        let (mut last, _) = pair(Kind::Stream);
        for _ in 0..10_000 {
            let (a, b) = pair(Kind::Stream);
            send(&a, b"x", vec![SocketFile::open(last, 0)]).unwrap();
            last = b;
        }
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn sockets_that_only_refer_to_each_other_are_found() {
    let _turn = FLOOD.lock();
    let names = Arc::new(Names::default());
    for _ in 0..1000 {
        let (a, b) = Unix::pair(&names, Kind::Stream, &Nobody);
        let (file_a, file_b) = (SocketFile::open(a.clone(), 0), SocketFile::open(b.clone(), 0));
        send(&a, b"x", vec![file_a.clone(), file_b.clone()]).unwrap();
        send(&b, b"x", vec![file_a, file_b]).unwrap();
    }
    // Those in use stay: one that waits in the queue of a socket that is open.
    let (a, b) = Unix::pair(&names, Kind::Datagram, &Nobody);
    let kept = Unix::new(&names, Kind::Stream);
    let open = SocketFile::open(b.clone(), 0);
    send(&a, b"x", vec![SocketFile::open(kept, 0), open.clone()]).unwrap();
    for _ in 0..200 {
        let (one, other) = Unix::pair(&names, Kind::SeqPacket, &Nobody);
        let file = SocketFile::open(other, 0);
        send(&one, b"x", vec![file]).unwrap();
        one.close();
    }
    assert!(names.count() < 700, "{}", names.count());
    assert_eq!(files(&receive(&b, 9).unwrap().1), 2);
}

#[test]
fn a_full_flow_blocks_and_room_wakes() {
    let (a, b) = pair(Kind::Stream);
    let big = vec![7; 1 << 20];
    let buffer = a.common().send_buffer() as usize;
    assert_eq!(send(&a, &big, vec![]), Ok(buffer));
    assert_eq!(send(&a, &big, vec![]), Err(Errno::EAGAIN));
    assert!(!a.poll().contains(PollEvents::OUT));
    assert_eq!(receive(&b, 1 << 20).unwrap().1.count, buffer);
    assert!(a.poll().contains(PollEvents::OUT));
}

#[test]
fn datagrams_wait_for_room_at_the_receiver() {
    let names = Arc::new(Names::default());
    let (a, b) = (Unix::new(&names, Kind::Datagram), Unix::new(&names, Kind::Datagram));
    b.clone().bind(&Nobody, b"\x01\0\0r").unwrap();
    a.clone().connect(&Nobody, b"\x01\0\0r").unwrap();
    let sent = (0..100).take_while(|_| send(&a, b"x", vec![]).is_ok()).count();
    assert_eq!((sent, a.poll().contains(PollEvents::OUT)), (11, false));
    let waiter = Arc::new(sync::Parker::default());
    let _entry = a.common().queue.register(PollEvents::WRITABLE, waiter.clone());
    receive(&b, 1).unwrap();
    assert_eq!(waiter.park(Some(0)), sync::ParkResult::Unparked);
    send(&a, b"x", vec![]).unwrap();
    b.close();
    assert_eq!(send(&a, b"x", vec![]), Err(Errno::ECONNREFUSED));
    assert_eq!(send(&a, b"x", vec![]), Err(Errno::ENOTCONN));
}
