//! AF_UNIX sockets.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "socketpair", calls: "socketpair sendto recvfrom shutdown read write", run: pairs },
    Case { name: "unix-connect", calls: "socket bind listen accept accept4 connect getsockname getpeername", run: connecting },
    Case { name: "unix-abstract", calls: "bind connect", run: abstract_names },
    Case { name: "unix-options", calls: "setsockopt getsockopt", run: options },
    Case { name: "unix-rights", calls: "sendmsg recvmsg", run: rights },
    Case { name: "unix-datagrams", calls: "sendto recvfrom connect", run: datagrams },
    Case { name: "unix-errors", calls: "socket bind listen accept connect sendto shutdown", run: errors },
    Case { name: "unix-poll", calls: "poll socketpair", run: readiness },
    Case { name: "unix-many-messages", calls: "sendmmsg recvmmsg", run: many_messages },
    Case { name: "unix-blocks", calls: "sendto recvfrom", run: blocks },
];

fn pair(kind: i32) -> [i32; 2] {
    let mut fds = [0i32; 2];
    ok!(SYS_socketpair, AF_UNIX, kind, 0, &mut fds);
    fds
}

fn address(path: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = (AF_UNIX as u16).to_le_bytes().to_vec();
    bytes.extend_from_slice(path);
    let len = bytes.len();
    (bytes, len)
}

fn receive(fd: i32, len: usize, flags: i32) -> Result<Vec<u8>, i32> {
    let mut bytes = vec![0u8; len];
    let count = sys!(SYS_recvfrom, fd, bytes.as_mut_ptr(), len, flags, 0, 0)?;
    bytes.truncate(count as usize);
    Ok(bytes)
}

fn pairs() {
    let [a, b] = pair(SOCK_STREAM);
    put(a, b"one");
    assert_eq!(ok!(SYS_sendto, a, &b"two"[..], 3, 0, 0, 0), 3);
    assert_eq!(receive(b, 4, MSG_PEEK), Ok(b"onet".to_vec()));
    assert_eq!(receive(b, 4, 0), Ok(b"onet".to_vec()));
    assert_eq!(get(b, 9), b"wo");
    assert_eq!(receive(b, 9, MSG_DONTWAIT), Err(EAGAIN));
    ok!(SYS_shutdown, a, SHUT_WR);
    assert_eq!(receive(b, 9, 0), Ok(vec![]));
    assert_eq!(sys!(SYS_sendto, a, &b"x"[..], 1, MSG_NOSIGNAL, 0, 0), Err(EPIPE));
    put(b, b"back");
    assert_eq!(get(a, 9), b"back");
    let [a, b] = pair(SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK);
    put(a, b"long packet");
    put(a, b"next");
    assert_eq!(receive(b, 4, 0), Ok(b"long".to_vec()));
    assert_eq!(receive(b, 40, 0), Ok(b"next".to_vec()));
    assert_eq!(ok!(SYS_fcntl, a, F_GETFD), 1);
    assert_eq!(receive(b, 40, 0), Err(EAGAIN));
    ok!(SYS_close, a);
    assert_eq!(receive(b, 40, 0), Ok(vec![]));
}

fn connecting() {
    let listener = ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32;
    let (name, len) = address(b"sock\0");
    ok!(SYS_bind, listener, name.as_ptr(), len);
    assert_eq!(sys!(SYS_bind, listener, name.as_ptr(), len), Err(EADDRINUSE));
    let (another, another_len) = address(b"another\0");
    assert_eq!(sys!(SYS_bind, listener, another.as_ptr(), another_len), Err(EINVAL));
    let client = ok!(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0) as i32;
    assert_eq!(sys!(SYS_connect, client, name.as_ptr(), len), Err(ECONNREFUSED));
    assert_eq!(sys!(SYS_accept, listener, 0, 0), Err(EINVAL));
    ok!(SYS_listen, listener, 5);
    ok!(SYS_connect, client, name.as_ptr(), len);
    assert_eq!(sys!(SYS_connect, client, name.as_ptr(), len), Err(EISCONN));
    let (mut from, mut room) = ([9u8; 110], 110u32);
    let server = ok!(SYS_accept, listener, &mut from, &mut room) as i32;
    assert_eq!((room, &from[..2]), (2, &[1u8, 0][..]));
    put(client, b"hi");
    assert_eq!(get(server, 9), b"hi");
    room = 110;
    ok!(SYS_getsockname, server, &mut from, &mut room);
    assert_eq!((room, &from[2..7]), (7, &b"sock\0"[..]));
    room = 4;
    ok!(SYS_getpeername, client, &mut from, &mut room);
    assert_eq!((room, &from[2..4]), (7, &b"so"[..]));
    room = 110;
    assert_eq!(sys!(SYS_getpeername, listener, &mut from, &mut room), Err(ENOTCONN));
    let other = ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32;
    ok!(SYS_connect, other, name.as_ptr(), len);
    let accepted = ok!(SYS_accept4, listener, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK) as i32;
    assert_eq!(ok!(SYS_fcntl, accepted, F_GETFD), 1);
    assert_eq!(sys!(SYS_accept4, listener, 0, 0, 1), Err(EINVAL));
    let mut stat: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_stat, c"sock", &mut stat);
    assert_eq!(stat.st_mode & S_IFMT, S_IFSOCK);
    assert_eq!(sys!(SYS_open, c"sock", O_RDWR), Err(ENXIO));
    let third = ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32;
    assert_eq!(sys!(SYS_bind, third, name.as_ptr(), len), Err(EADDRINUSE));
    ok!(SYS_close, listener);
    assert_eq!(sys!(SYS_connect, third, name.as_ptr(), len), Err(ECONNREFUSED));
    ok!(SYS_unlink, c"sock");
    assert_eq!(sys!(SYS_connect, third, name.as_ptr(), len), Err(ENOENT));
}

fn abstract_names() {
    let text = format!("\0cases-{}", std::process::id());
    let (name, len) = address(text.as_bytes());
    let listener = ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32;
    ok!(SYS_bind, listener, name.as_ptr(), len);
    ok!(SYS_listen, listener, 1);
    let client = ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32;
    assert_eq!(sys!(SYS_bind, client, name.as_ptr(), len), Err(EADDRINUSE));
    assert_eq!(sys!(SYS_connect, client, name.as_ptr(), len - 1), Err(ECONNREFUSED));
    ok!(SYS_connect, client, name.as_ptr(), len);
    ok!(SYS_close, listener);
    // The name is free again; so is an automatic one.
    let again = ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32;
    ok!(SYS_bind, again, name.as_ptr(), len);
    let auto = ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32;
    ok!(SYS_bind, auto, name.as_ptr(), 2);
    let (mut from, mut room) = ([9u8; 110], 110u32);
    ok!(SYS_getsockname, auto, &mut from, &mut room);
    assert_eq!((room, from[2]), (8, 0));
}

fn option(fd: i32, name: i32) -> Result<i32, i32> {
    let (mut value, mut len) = (0i32, 4u32);
    sys!(SYS_getsockopt, fd, SOL_SOCKET, name, &mut value, &mut len)?;
    Ok(value)
}

fn options() {
    let [a, b] = pair(SOCK_STREAM);
    assert_eq!((option(a, SO_TYPE), option(a, SO_DOMAIN), option(a, SO_ERROR)), (Ok(SOCK_STREAM), Ok(AF_UNIX), Ok(0)));
    assert_eq!((option(a, SO_ACCEPTCONN), option(a, SO_PROTOCOL)), (Ok(0), Ok(0)));
    let (mut creds, mut len) = ([0i32; 3], 12u32);
    ok!(SYS_getsockopt, a, SOL_SOCKET, SO_PEERCRED, &mut creds, &mut len);
    assert_eq!(i64::from(creds[0]), ok!(SYS_getpid));
    let set = |name: i32, mut value: i32| sys!(SYS_setsockopt, a, SOL_SOCKET, name, &mut value, 4);
    assert_eq!(set(SO_SNDBUF, 10_000), Ok(0));
    assert_eq!(option(a, SO_SNDBUF), Ok(20_000));
    assert_eq!(set(SO_PASSCRED, 1), Ok(0));
    assert_eq!(option(a, SO_PASSCRED), Ok(1));
    assert_eq!(set(12345, 1), Err(ENOPROTOOPT));
    assert_eq!(option(a, 12345), Err(ENOPROTOOPT));
    assert_eq!(sys!(SYS_setsockopt, a, SOL_SOCKET, SO_SNDBUF, &mut 1i32, 2), Err(EINVAL));
    // A receive that waits too long.
    ok!(SYS_setsockopt, b, SOL_SOCKET, SO_RCVTIMEO, &mut [0i64, 20_000], 16);
    let start = now();
    assert_eq!(receive(b, 1, 0), Err(EAGAIN));
    assert!(now() - start >= 20_000_000);
}

/// Sends bytes with descriptors.
fn send_files(socket: i32, bytes: &[u8], files: &[i32]) -> Result<i64, i32> {
    let mut control = vec![0u64; 2 + files.len().div_ceil(2)];
    control[0] = 16 + 4 * files.len() as u64;
    control[1] = (SOL_SOCKET as u64) | (SCM_RIGHTS as u64) << 32;
    for (i, fd) in files.iter().enumerate() {
        control[2 + i / 2] |= (*fd as u64) << (32 * (i % 2));
    }
    let mut vector = iovec { iov_base: bytes.as_ptr() as *mut c_void, iov_len: bytes.len() };
    let mut header: msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len() * 8;
    sys!(SYS_sendmsg, socket, &mut header, 0)
}

/// Receives bytes and descriptors with room for so many; also the flags.
fn receive_files(socket: i32, room: usize) -> (Vec<u8>, Vec<i32>, i32) {
    let (mut bytes, mut control) = (vec![0u8; 64], vec![0u64; 2 + room.div_ceil(2)]);
    let mut vector = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 64 };
    let mut header: msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = if room == 0 { 0 } else { 16 + 4 * room };
    let count = ok!(SYS_recvmsg, socket, &mut header, MSG_CMSG_CLOEXEC) as usize;
    bytes.truncate(count);
    let mut files = Vec::new();
    if header.msg_controllen >= 16 {
        assert_eq!(control[1], (SOL_SOCKET as u64) | (SCM_RIGHTS as u64) << 32);
        for i in 0..(control[0] as usize - 16) / 4 {
            files.push((control[2 + i / 2] >> (32 * (i % 2))) as i32);
        }
    }
    (bytes, files, header.msg_flags)
}

fn rights() {
    let [a, b] = pair(SOCK_STREAM);
    let [r, w] = new_pipe();
    assert_eq!(send_files(a, b"x", &[r, w]), Ok(1));
    ok!(SYS_close, r);
    ok!(SYS_close, w);
    let (bytes, files, flags) = receive_files(b, 2);
    assert_eq!((bytes.as_slice(), files.len(), flags), (&b"x"[..], 2, MSG_CMSG_CLOEXEC));
    put(files[1], b"through");
    assert_eq!(get(files[0], 9), b"through");
    assert_eq!(ok!(SYS_fcntl, files[0], F_GETFD), 1);
    // Without room they are closed, and the flags say so.
    assert_eq!(send_files(a, b"y", &[files[0], files[1]]), Ok(1));
    let (bytes, some, flags) = receive_files(b, 1);
    assert_eq!((bytes.as_slice(), some.len(), flags & MSG_CTRUNC), (&b"y"[..], 1, MSG_CTRUNC));
    assert_eq!(send_files(a, b"z", &[999]), Err(EBADF));
    // A socket in its own flight: closed with its last holder.
    assert_eq!(send_files(a, b"z", &[b]), Ok(1));
    ok!(SYS_close, a);
    ok!(SYS_close, b);
}

fn datagrams() {
    let (one, two) = (ok!(SYS_socket, AF_UNIX, SOCK_DGRAM, 0) as i32, ok!(SYS_socket, AF_UNIX, SOCK_DGRAM, 0) as i32);
    let (name, len) = address(b"dgram\0");
    ok!(SYS_bind, two, name.as_ptr(), len);
    assert_eq!(sys!(SYS_sendto, one, &b"x"[..], 1, 0, 0, 0), Err(ENOTCONN));
    assert_eq!(ok!(SYS_sendto, one, &b"first"[..], 5, 0, name.as_ptr(), len), 5);
    ok!(SYS_connect, one, name.as_ptr(), len);
    put(one, b"second");
    let (mut bytes, mut from, mut room) = ([0u8; 9], [0u8; 110], 110u32);
    assert_eq!(ok!(SYS_recvfrom, two, &mut bytes, 3, 0, &mut from, &mut room), 3);
    assert_eq!((room, &bytes[..3]), (0, &b"fir"[..]));
    assert_eq!(ok!(SYS_recvfrom, two, &mut bytes, 3, MSG_TRUNC, 0, 0), 6);
    assert_eq!(sys!(SYS_listen, two, 1), Err(EOPNOTSUPP));
    ok!(SYS_close, two);
    assert_eq!(sys!(SYS_sendto, one, &b"x"[..], 1, 0, 0, 0), Err(ECONNREFUSED));
}

fn errors() {
    assert_eq!(sys!(SYS_socket, AF_UNIX, 77, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 99), Err(EPROTONOSUPPORT));
    assert_eq!(sys!(SYS_socket, 9999, SOCK_STREAM, 0), Err(EAFNOSUPPORT));
    let socket = ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32;
    assert_eq!(sys!(SYS_listen, socket, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_shutdown, socket, 7), Err(EINVAL));
    assert_eq!(sys!(SYS_sendto, socket, &b"x"[..], 1, 0, 0, 0), Err(ENOTCONN));
    assert_eq!(receive(socket, 1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_bind, socket, 8, 16), Err(EFAULT));
    let (name, _) = address(b"x\0");
    assert_eq!(sys!(SYS_bind, socket, name.as_ptr(), 1), Err(EINVAL));
    assert_eq!(sys!(SYS_bind, socket, name.as_ptr(), 1000), Err(EINVAL));
    let (missing, len) = address(b"missing/sock\0");
    assert_eq!(sys!(SYS_bind, socket, missing.as_ptr(), len), Err(ENOENT));
    assert_eq!(sys!(SYS_connect, socket, missing.as_ptr(), len), Err(ENOENT));
    assert_eq!(sys!(SYS_accept, file(c"f"), 0, 0), Err(ENOTSOCK));
    assert_eq!(sys!(SYS_sendto, new_pipe()[1], &b"x"[..], 1, 0, 0, 0), Err(ENOTSOCK));
    let (plain, len) = address(b"f\0");
    assert_eq!(sys!(SYS_connect, socket, plain.as_ptr(), len), Err(ECONNREFUSED));
}

fn ready(fd: i32) -> i16 {
    let mut one = pollfd { fd, events: POLLIN | POLLOUT | POLLRDHUP, revents: 0 };
    ok!(SYS_poll, &mut one, 1, 0);
    one.revents
}

fn readiness() {
    let [a, b] = pair(SOCK_STREAM);
    assert_eq!(ready(a), POLLOUT);
    put(b, b"x");
    assert_eq!(ready(a), POLLIN | POLLOUT);
    ok!(SYS_shutdown, b, SHUT_WR);
    assert_eq!(ready(a), POLLIN | POLLOUT | POLLRDHUP);
    get(a, 1);
    ok!(SYS_close, b);
    assert_eq!(ready(a), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    assert_eq!(ready(ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32), POLLOUT | POLLHUP);
}

fn blocks() {
    let [a, b] = pair(SOCK_STREAM);
    let reader = std::thread::spawn(move || {
        let mut total = 0;
        while total < 3_000_000 {
            total += get(b, 50_000).len();
        }
        total
    });
    let big = vec![7u8; 3_000_000];
    assert_eq!(ok!(SYS_sendto, a, big.as_ptr(), big.len(), 0, 0, 0), 3_000_000);
    assert_eq!(reader.join().unwrap(), 3_000_000);
    let [a, b] = pair(SOCK_STREAM);
    let writer = std::thread::spawn(move || {
        put(a, b"first ");
        std::thread::sleep(std::time::Duration::from_millis(20));
        put(a, b"second");
    });
    assert_eq!(receive(b, 12, MSG_WAITALL), Ok(b"first second".to_vec()));
    writer.join().unwrap();
}

fn many_messages() {
    let [a, b] = pair(SOCK_DGRAM);
    let texts = [&b"one"[..], b"", b"three"];
    let mut out = texts.map(|text| iovec { iov_base: text.as_ptr() as *mut c_void, iov_len: text.len() });
    let mut messages: [mmsghdr; 4] = unsafe { std::mem::zeroed() };
    for (message, vector) in messages.iter_mut().zip(&mut out) {
        (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (vector, 1);
    }
    assert_eq!(ok!(SYS_sendmmsg, a, messages.as_mut_ptr(), 3, 0), 3);
    assert_eq!(messages.map(|message| message.msg_len), [3, 0, 5, 0]);
    let mut room = [[0u8; 4]; 4];
    let mut into = room.each_mut().map(|place| iovec { iov_base: place.as_mut_ptr().cast(), iov_len: 4 });
    for (message, vector) in messages.iter_mut().zip(&mut into) {
        (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (vector, 1);
    }
    let mut time = ns(20_000_000);
    assert_eq!(ok!(SYS_recvmmsg, b, messages.as_mut_ptr(), 4, MSG_WAITFORONE, &mut time), 3);
    assert_eq!(messages.map(|message| message.msg_len), [3, 0, 4, 0]);
    assert_eq!((messages[2].msg_hdr.msg_flags, &room[2]), (MSG_TRUNC, b"thre"));
    assert_eq!(sys!(SYS_recvmmsg, b, messages.as_mut_ptr(), 4, MSG_DONTWAIT, 0), Err(EAGAIN));
    time.tv_nsec = -1;
    assert_eq!(sys!(SYS_recvmmsg, b, messages.as_mut_ptr(), 4, MSG_DONTWAIT, &mut time), Err(EINVAL));
    assert_eq!(sys!(SYS_sendmmsg, 0, messages.as_mut_ptr(), 1, 0), Err(ENOTSOCK));
}
