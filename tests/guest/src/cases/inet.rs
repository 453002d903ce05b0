//! TCP, UDP and echo requests on the loopback interface.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "tcp-connect", calls: "socket bind listen accept4 connect getsockname getpeername", run: connecting },
    Case { name: "tcp-ends", calls: "shutdown close recvfrom sendto poll", run: ends },
    Case { name: "tcp-nonblocking", calls: "connect accept4 poll getsockopt", run: nonblocking },
    Case { name: "tcp-urgent", calls: "sendto recvfrom ioctl", run: urgent },
    Case { name: "tcp-v6", calls: "bind connect accept4 setsockopt", run: both_families },
    Case { name: "tcp-large", calls: "sendto recvfrom", run: large },
    Case { name: "inet-ports", calls: "bind listen setsockopt", run: ports },
    Case { name: "inet-options", calls: "setsockopt getsockopt", run: options },
    Case { name: "udp", calls: "sendto recvfrom connect", run: datagrams },
    Case { name: "udp-control", calls: "sendmsg recvmsg setsockopt", run: control },
    Case { name: "udp-v6", calls: "sendto connect bind", run: datagrams_of_both_families },
    Case { name: "inet-interfaces", calls: "ioctl", run: interfaces },
    Case { name: "inet-errors", calls: "socket connect bind sendto", run: errors },
];

const LOCALHOST: [u8; 4] = [127, 0, 0, 1];

fn address(ip: [u8; 4], port: u16) -> sockaddr_in {
    sockaddr_in {
        sin_family: AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: in_addr { s_addr: u32::from_ne_bytes(ip) },
        sin_zero: [0; 8],
    }
}

fn new(kind: i32) -> i32 {
    ok!(SYS_socket, AF_INET, kind, 0) as i32
}

fn port_of(fd: i32) -> u16 {
    let (mut bytes, mut len) = ([0u8; 128], 128u32);
    ok!(SYS_getsockname, fd, &mut bytes, &mut len);
    u16::from_be_bytes([bytes[2], bytes[3]])
}

fn bind_to(fd: i32, ip: [u8; 4], port: u16) -> Result<i64, i32> {
    sys!(SYS_bind, fd, &mut address(ip, port), 16)
}

fn connect_to(fd: i32, port: u16) -> Result<i64, i32> {
    sys!(SYS_connect, fd, &mut address(LOCALHOST, port), 16)
}

fn listener() -> (i32, u16) {
    let fd = new(SOCK_STREAM);
    bind_to(fd, LOCALHOST, 0).unwrap();
    ok!(SYS_listen, fd, 8);
    (fd, port_of(fd))
}

/// A client's and a server's end.
fn pair() -> [i32; 2] {
    let (listener, port) = listener();
    let client = new(SOCK_STREAM);
    connect_to(client, port).unwrap();
    let server = ok!(SYS_accept4, listener, 0, 0, SOCK_CLOEXEC) as i32;
    ok!(SYS_close, listener);
    [client, server]
}

fn receive(fd: i32, len: usize, flags: i32) -> Result<Vec<u8>, i32> {
    let mut bytes = vec![0u8; len];
    let count = sys!(SYS_recvfrom, fd, bytes.as_mut_ptr(), len, flags, 0, 0)?;
    bytes.truncate(count as usize);
    Ok(bytes)
}

fn send(fd: i32, bytes: &[u8], flags: i32) -> Result<i64, i32> {
    sys!(SYS_sendto, fd, bytes, bytes.len(), flags | MSG_NOSIGNAL, 0, 0)
}

fn option(fd: i32, level: i32, name: i32) -> Result<i32, i32> {
    let (mut value, mut len) = (0i32, 4u32);
    sys!(SYS_getsockopt, fd, level, name, &mut value, &mut len)?;
    Ok(value)
}

fn set(fd: i32, level: i32, name: i32, mut value: i32) -> Result<i64, i32> {
    sys!(SYS_setsockopt, fd, level, name, &mut value, 4)
}

fn events(fd: i32, events: i16) -> i16 {
    let mut poll = pollfd { fd, events, revents: 0 };
    ok!(SYS_poll, &mut poll, 1, 0);
    poll.revents
}

fn connecting() {
    let (listener, port) = listener();
    let client = new(SOCK_STREAM);
    assert_eq!(events(client, POLLIN | POLLOUT), POLLOUT | POLLHUP);
    assert_eq!(send(client, b"x", 0), Err(EPIPE));
    assert_eq!(receive(client, 1, 0), Err(ENOTCONN));
    assert_eq!(events(listener, POLLIN | POLLOUT), 0);
    connect_to(client, port).unwrap();
    assert_eq!(connect_to(client, port), Err(EISCONN));
    assert_eq!(events(listener, POLLIN | POLLOUT), POLLIN);
    let (mut from, mut len) = ([0u8; 16], 16u32);
    let server = ok!(SYS_accept4, listener, &mut from, &mut len, 0) as i32;
    assert_eq!((len, u16::from_be_bytes([from[2], from[3]]), &from[4..8]), (16, port_of(client), &LOCALHOST[..]));
    assert_eq!(port_of(server), port);
    ok!(SYS_getpeername, client, &mut from, &mut len);
    assert_eq!(u16::from_be_bytes([from[2], from[3]]), port);
    assert_eq!(sys!(SYS_getpeername, listener, &mut from, &mut len), Err(ENOTCONN));
    assert_eq!(
        (send(client, b"hello", 0), receive(server, 3, MSG_PEEK), receive(server, 9, 0)),
        (Ok(5), Ok(b"hel".to_vec()), Ok(b"hello".to_vec()))
    );
    assert_eq!((option(listener, SOL_SOCKET, SO_ACCEPTCONN), option(server, SOL_SOCKET, SO_ACCEPTCONN)), (Ok(1), Ok(0)));
    assert_eq!(sys!(SYS_accept4, client, 0, 0, 0), Err(EINVAL));
    // More than the backlog has room for wait until there is.
    let full = ok!(SYS_socket, AF_INET, SOCK_STREAM, 0) as i32;
    bind_to(full, LOCALHOST, 0).unwrap();
    ok!(SYS_listen, full, 0);
    let first = new(SOCK_STREAM);
    connect_to(first, port_of(full)).unwrap();
    let second = ok!(SYS_socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) as i32;
    assert_eq!(connect_to(second, port_of(full)), Err(EINPROGRESS));
    assert_eq!(connect_to(second, port_of(full)), Err(EALREADY));
    ok!(SYS_accept4, full, 0, 0, 0);
    let mut poll = pollfd { fd: second, events: POLLOUT, revents: 0 };
    assert_eq!((ok!(SYS_poll, &mut poll, 1, 10_000), poll.revents), (1, POLLOUT));
}

fn ends() {
    let [a, b] = pair();
    send(a, b"last", 0).unwrap();
    ok!(SYS_shutdown, a, SHUT_WR);
    assert_eq!(events(b, POLLIN | POLLOUT | POLLRDHUP), POLLIN | POLLOUT | POLLRDHUP);
    assert_eq!((receive(b, 9, 0), receive(b, 9, 0)), (Ok(b"last".to_vec()), Ok(vec![])));
    assert_eq!(send(a, b"x", 0), Err(EPIPE));
    send(b, b"back", 0).unwrap();
    assert_eq!(receive(a, 9, 0), Ok(b"back".to_vec()));
    ok!(SYS_close, b);
    assert_eq!(receive(a, 9, 0), Ok(vec![]));
    // Closed with something unread: a reset. What had come before can be read.
    let [a, b] = pair();
    send(a, b"unread", 0).unwrap();
    send(b, b"read", 0).unwrap();
    ok!(SYS_close, b);
    assert_eq!(events(a, POLLIN) & (POLLERR | POLLHUP), POLLERR | POLLHUP);
    assert_eq!((receive(a, 9, 0), receive(a, 9, 0), receive(a, 9, 0)), (Ok(b"read".to_vec()), Err(ECONNRESET), Ok(vec![])));
    assert_eq!(send(a, b"x", 0), Err(EPIPE));
    // Sent to a closed socket: the first is lost, the second is told.
    let [a, b] = pair();
    ok!(SYS_close, b);
    assert_eq!((send(a, b"x", 0), send(a, b"x", 0), receive(a, 9, 0)), (Ok(1), Err(EPIPE), Ok(vec![])));
    // A linger of no time resets.
    let [a, b] = pair();
    ok!(SYS_setsockopt, b, SOL_SOCKET, SO_LINGER, &mut [1i32, 0], 8);
    ok!(SYS_close, b);
    assert_eq!((option(a, SOL_SOCKET, SO_ERROR), option(a, SOL_SOCKET, SO_ERROR)), (Ok(ECONNRESET), Ok(0)));
    // Connections that nobody has accepted are reset with their listener.
    let (listener, port) = listener();
    let client = new(SOCK_STREAM);
    connect_to(client, port).unwrap();
    ok!(SYS_close, listener);
    assert_eq!(receive(client, 1, 0), Err(ECONNRESET));
    assert_eq!(connect_to(new(SOCK_STREAM), port), Err(ECONNREFUSED));
}

fn nonblocking() {
    let (listener, port) = listener();
    let new = || ok!(SYS_socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) as i32;
    let client = new();
    assert_eq!(connect_to(client, port), Err(EINPROGRESS));
    assert_eq!(events(client, POLLOUT), POLLOUT);
    assert_eq!(option(client, SOL_SOCKET, SO_ERROR), Ok(0));
    assert_eq!((connect_to(client, port), connect_to(client, port)), (Ok(0), Err(EISCONN)));
    ok!(SYS_fcntl, listener, F_SETFL, O_NONBLOCK);
    let server = ok!(SYS_accept4, listener, 0, 0, SOCK_NONBLOCK) as i32;
    assert_eq!(sys!(SYS_accept4, listener, 0, 0, 0), Err(EAGAIN));
    assert_eq!(receive(server, 1, 0), Err(EAGAIN));
    ok!(SYS_close, listener);
    let refused = new();
    assert_eq!(connect_to(refused, port), Err(EINPROGRESS));
    assert_eq!(events(refused, POLLIN | POLLOUT), POLLIN | POLLOUT | POLLERR | POLLHUP);
    assert_eq!((option(refused, SOL_SOCKET, SO_ERROR), option(refused, SOL_SOCKET, SO_ERROR)), (Ok(ECONNREFUSED), Ok(0)));
    // Back to the beginning.
    ok!(SYS_connect, client, &mut sockaddr_in { sin_family: AF_UNSPEC as u16, ..address([0; 4], 0) }, 16);
    assert_eq!(receive(server, 1, 0), Err(ECONNRESET));
}

fn urgent() {
    let [a, b] = pair();
    send(a, b"ab", 0).unwrap();
    send(a, b"!", MSG_OOB).unwrap();
    send(a, b"cd", 0).unwrap();
    assert_eq!(events(b, POLLIN | POLLPRI), POLLIN | POLLPRI);
    assert_eq!(receive(b, 9, 0), Ok(b"ab".to_vec()));
    let mut mark = 0i32;
    ok!(SYS_ioctl, b, 0x8905, &mut mark);
    assert_eq!(mark, 1);
    assert_eq!(receive(b, 9, MSG_OOB), Ok(b"!".to_vec()));
    assert_eq!(receive(b, 9, MSG_OOB), Err(EINVAL));
    assert_eq!(receive(b, 9, 0), Ok(b"cd".to_vec()));
}

fn both_families() {
    let listener = ok!(SYS_socket, AF_INET6, SOCK_STREAM, 0) as i32;
    let mut any: sockaddr_in6 = unsafe { std::mem::zeroed() };
    any.sin6_family = AF_INET6 as u16;
    if sys!(SYS_bind, listener, &mut any, 28) == Err(EADDRNOTAVAIL) {
        skip("no IPv6 here");
    }
    assert_eq!(set(listener, IPPROTO_IPV6, IPV6_V6ONLY, 1), Err(EINVAL));
    ok!(SYS_listen, listener, 5);
    let client = new(SOCK_STREAM);
    connect_to(client, port_of(listener)).unwrap();
    let (mut from, mut len) = ([0u8; 28], 28u32);
    let server = ok!(SYS_accept4, listener, &mut from, &mut len, 0) as i32;
    assert_eq!((len, &from[8..24]), (28, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1][..]));
    put(client, b"four");
    assert_eq!(get(server, 9), b"four");
    assert_eq!(bind_to(new(SOCK_STREAM), [0; 4], port_of(listener)), Err(EADDRINUSE));
    // For IPv6 alone, IPv4 is free.
    let only = ok!(SYS_socket, AF_INET6, SOCK_STREAM, 0) as i32;
    set(only, IPPROTO_IPV6, IPV6_V6ONLY, 1).unwrap();
    ok!(SYS_bind, only, &mut any, 28);
    bind_to(new(SOCK_STREAM), [0; 4], port_of(only)).unwrap();
}

fn large() {
    let [a, b] = pair();
    let reader = std::thread::spawn(move || {
        let (mut sum, mut total) = (0u64, 0);
        loop {
            let bytes = receive(b, 70_001, 0).unwrap();
            if bytes.is_empty() {
                return (total, sum);
            }
            sum = bytes.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            total += bytes.len();
        }
    });
    let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(send(a, &bytes, 0), Ok(5_000_000));
    ok!(SYS_shutdown, a, SHUT_WR);
    let sum = bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    assert_eq!(reader.join().unwrap(), (5_000_000, sum));
    let [a, b] = pair();
    let writer = std::thread::spawn(move || {
        put(a, b"first ");
        std::thread::sleep(std::time::Duration::from_millis(20));
        put(a, b"second");
    });
    assert_eq!(receive(b, 12, MSG_WAITALL), Ok(b"first second".to_vec()));
    writer.join().unwrap();
}

fn ports() {
    let first = new(SOCK_STREAM);
    bind_to(first, LOCALHOST, 0).unwrap();
    let port = port_of(first);
    assert_eq!(bind_to(first, LOCALHOST, port), Err(EINVAL));
    assert_eq!(bind_to(new(SOCK_STREAM), LOCALHOST, port), Err(EADDRINUSE));
    assert_eq!(bind_to(new(SOCK_STREAM), [0; 4], port), Err(EADDRINUSE));
    bind_to(new(SOCK_STREAM), [127, 0, 0, 2], port).unwrap();
    // Both agree to share: until one listens.
    let [one, other] = [new(SOCK_STREAM), new(SOCK_STREAM)];
    set(one, SOL_SOCKET, SO_REUSEADDR, 1).unwrap();
    set(other, SOL_SOCKET, SO_REUSEADDR, 1).unwrap();
    bind_to(one, LOCALHOST, 0).unwrap();
    bind_to(other, LOCALHOST, port_of(one)).unwrap();
    ok!(SYS_listen, one, 1);
    assert_eq!(sys!(SYS_listen, other, 1), Err(EADDRINUSE));
    let [one, other] = [new(SOCK_DGRAM), new(SOCK_DGRAM)];
    set(one, SOL_SOCKET, SO_REUSEPORT, 1).unwrap();
    bind_to(one, LOCALHOST, 0).unwrap();
    assert_eq!(bind_to(other, LOCALHOST, port_of(one)), Err(EADDRINUSE));
    set(other, SOL_SOCKET, SO_REUSEPORT, 1).unwrap();
    bind_to(other, LOCALHOST, port_of(one)).unwrap();
    // What has been closed first keeps its port for a while.
    let (listener, port) = listener();
    let client = new(SOCK_STREAM);
    connect_to(client, port).unwrap();
    let server = ok!(SYS_accept4, listener, 0, 0, 0) as i32;
    ok!(SYS_close, server);
    ok!(SYS_close, client);
    ok!(SYS_close, listener);
    assert_eq!(bind_to(new(SOCK_STREAM), LOCALHOST, port), Err(EADDRINUSE));
}

fn options() {
    let [a, _b] = pair();
    assert_eq!(
        (option(a, SOL_SOCKET, SO_TYPE), option(a, SOL_SOCKET, SO_DOMAIN), option(a, SOL_SOCKET, SO_PROTOCOL)),
        (Ok(SOCK_STREAM), Ok(AF_INET), Ok(IPPROTO_TCP))
    );
    for name in [TCP_NODELAY, TCP_CORK, TCP_KEEPCNT, TCP_USER_TIMEOUT] {
        set(a, IPPROTO_TCP, name, 1).unwrap();
        assert_eq!(option(a, IPPROTO_TCP, name), Ok(1));
    }
    assert_eq!((option(a, IPPROTO_TCP, TCP_KEEPIDLE), set(a, IPPROTO_TCP, TCP_KEEPIDLE, 0)), (Ok(7200), Err(EINVAL)));
    let (mut info, mut len) = ([0u8; 104], 104u32);
    ok!(SYS_getsockopt, a, IPPROTO_TCP, TCP_INFO, &mut info, &mut len);
    assert_eq!((len, info[0]), (104, 1));
    assert_eq!((option(a, IPPROTO_IP, IP_TTL), set(a, IPPROTO_IP, IP_TTL, 256)), (Ok(64), Err(EINVAL)));
    set(a, SOL_SOCKET, SO_RCVBUF, 10_000).unwrap();
    assert_eq!(option(a, SOL_SOCKET, SO_RCVBUF), Ok(20_000));
    assert_eq!((option(a, IPPROTO_IPV6, IPV6_V6ONLY), option(a, IPPROTO_TCP, 999)), (Err(EOPNOTSUPP), Err(ENOPROTOOPT)));
    let udp = new(SOCK_DGRAM);
    assert_eq!((option(udp, IPPROTO_IP, IP_MULTICAST_TTL), option(udp, IPPROTO_IP, IP_MULTICAST_LOOP)), (Ok(1), Ok(1)));
    assert_eq!(set(udp, IPPROTO_IP, IP_RECVTOS, 1), Ok(0));
}

fn datagrams() {
    let [a, b] = [new(SOCK_DGRAM), new(SOCK_DGRAM)];
    bind_to(a, LOCALHOST, 0).unwrap();
    let mut to = address(LOCALHOST, port_of(a));
    assert_eq!(ok!(SYS_sendto, b, &b"hello"[..], 5, 0, &mut to, 16), 5);
    assert_eq!(ok!(SYS_sendto, b, &b""[..], 0, 0, &mut to, 16), 0);
    let (mut bytes, mut from, mut len) = ([0u8; 9], [0u8; 16], 16u32);
    assert_eq!(ok!(SYS_recvfrom, a, &mut bytes, 3, MSG_TRUNC, &mut from, &mut len), 5);
    assert_eq!((&bytes[..4], u16::from_be_bytes([from[2], from[3]])), (&b"hel\0"[..], port_of(b)));
    assert_eq!(receive(a, 9, 0), Ok(vec![]));
    // Connected, it hears its peer only.
    let stranger = new(SOCK_DGRAM);
    connect_to(b, port_of(a)).unwrap();
    let mut to = address(LOCALHOST, port_of(b));
    ok!(SYS_sendto, stranger, &b"x"[..], 1, 0, &mut to, 16);
    ok!(SYS_sendto, a, &b"peer"[..], 4, 0, &mut to, 16);
    assert_eq!(receive(b, 9, 0), Ok(b"peer".to_vec()));
    // Nobody there: told to those who are connected.
    ok!(SYS_close, a);
    assert_eq!(send(b, b"x", 0), Ok(1));
    assert_eq!(events(b, POLLIN) & POLLERR, POLLERR);
    assert_eq!(receive(b, 9, MSG_DONTWAIT), Err(ECONNREFUSED));
    assert_eq!(receive(b, 9, MSG_DONTWAIT), Err(EAGAIN));
    assert_eq!(send(stranger, b"x", 0), Err(EDESTADDRREQ));
    assert_eq!(send(b, &[0; 65508], 0), Err(EMSGSIZE));
}

fn control() {
    let [a, b] = [new(SOCK_DGRAM), new(SOCK_DGRAM)];
    bind_to(a, [0; 4], 0).unwrap();
    for name in [IP_PKTINFO, IP_RECVTOS, IP_RECVTTL] {
        set(a, IPPROTO_IP, name, 1).unwrap();
    }
    set(b, IPPROTO_IP, IP_TOS, 0x10).unwrap();
    let mut to = address([127, 0, 0, 9], port_of(a));
    let mut text = *b"hi";
    let mut vector = iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 2 };
    let mut header: msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&mut vector, 1);
    (header.msg_name, header.msg_namelen) = ((&raw mut to).cast(), 16);
    // Seven hops, said with this message.
    let mut ttl = [20u64, (IPPROTO_IP as u64) | (IP_TTL as u64) << 32, 7];
    (header.msg_control, header.msg_controllen) = (ttl.as_mut_ptr().cast(), 24);
    assert_eq!(ok!(SYS_sendmsg, b, &mut header, 0), 2);
    let mut room = [0u64; 16];
    (header.msg_control, header.msg_controllen) = (room.as_mut_ptr().cast(), 128);
    (header.msg_name, header.msg_namelen) = (std::ptr::null_mut(), 0);
    assert_eq!(ok!(SYS_recvmsg, a, &mut header, 0), 2);
    assert_eq!((header.msg_controllen, header.msg_flags), (32 + 24 + 24, 0));
    let bytes: Vec<u8> = room.iter().flat_map(|word| word.to_ne_bytes()).collect();
    assert_eq!(
        (room[1] >> 32, &bytes[16..20], &bytes[24..28]),
        (IP_PKTINFO as u64, &1i32.to_ne_bytes()[..], &[127, 0, 0, 9][..])
    );
    assert_eq!((room[5] >> 32, room[6] as u32), (IP_TTL as u64, 7));
    assert_eq!((room[7], room[8] >> 32, room[9] as u8), (17, IP_TOS as u64, 0x10));
}

fn interfaces() {
    let fd = new(SOCK_DGRAM);
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    ok!(SYS_ioctl, fd, 0x8933, &mut request);
    assert_eq!(request[16..20], 1i32.to_ne_bytes());
    ok!(SYS_ioctl, fd, 0x8915, &mut request);
    assert_eq!(request[20..24], LOCALHOST);
    ok!(SYS_ioctl, fd, 0x8913, &mut request);
    assert_eq!(i32::from(u16::from_ne_bytes([request[16], request[17]])) & (IFF_UP | IFF_LOOPBACK), IFF_UP | IFF_LOOPBACK);
    request[16..20].copy_from_slice(&1i32.to_ne_bytes());
    ok!(SYS_ioctl, fd, 0x8910, &mut request);
    assert_eq!(&request[..3], b"lo\0");
    request[..5].copy_from_slice(b"none\0");
    assert_eq!(sys!(SYS_ioctl, fd, 0x8933, &mut request), Err(ENODEV));
    let mut list = [0u8; 400];
    let mut conf = [400u64, list.as_mut_ptr() as u64];
    ok!(SYS_ioctl, fd, 0x8912, &mut conf);
    assert_eq!((conf[0] % 40, &list[..3], &list[20..24]), (0, &b"lo\0"[..], &LOCALHOST[..]));
}

fn errors() {
    assert_eq!(sys!(SYS_socket, AF_INET, SOCK_STREAM, IPPROTO_UDP), Err(EPROTONOSUPPORT));
    assert_eq!(sys!(SYS_socket, AF_INET, SOCK_SEQPACKET, 0), Err(ESOCKTNOSUPPORT));
    assert_eq!(sys!(SYS_socketpair, AF_INET, SOCK_STREAM, 0, &mut [0i32; 2]), Err(EOPNOTSUPP));
    let fd = new(SOCK_STREAM);
    assert_eq!(sys!(SYS_bind, fd, &mut address(LOCALHOST, 0), 15), Err(EINVAL));
    assert_eq!(
        sys!(SYS_bind, fd, &mut sockaddr_in { sin_family: AF_INET6 as u16, ..address(LOCALHOST, 0) }, 16),
        Err(EAFNOSUPPORT)
    );
    // Addresses for documentation (RFC 5737) are nobody's.
    assert_eq!(bind_to(fd, [192, 0, 2, 1], 0), Err(EADDRNOTAVAIL));
    assert_eq!(sys!(SYS_shutdown, fd, SHUT_RDWR), Err(ENOTCONN));
    let udp = new(SOCK_DGRAM);
    assert_eq!(sys!(SYS_listen, udp, 1), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_accept4, udp, 0, 0, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_sendto, udp, &b"x"[..], 1, MSG_OOB, &mut address(LOCALHOST, 9), 16), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_sendto, udp, &b"x"[..], 1, 0, &mut address(LOCALHOST, 0), 16), Err(EINVAL));
}

fn datagrams_of_both_families() {
    let new6 = || ok!(SYS_socket, AF_INET6, SOCK_DGRAM, 0) as i32;
    let mut loopback: sockaddr_in6 = unsafe { std::mem::zeroed() };
    loopback.sin6_family = AF_INET6 as u16;
    loopback.sin6_addr.s6_addr[15] = 1;
    let six = new6();
    if sys!(SYS_bind, six, &mut loopback, 28) == Err(EADDRNOTAVAIL) {
        skip("no IPv6 here");
    }
    let four = new(SOCK_DGRAM);
    bind_to(four, LOCALHOST, 0).unwrap();
    let mut mapped = sockaddr_in6 { sin6_port: port_of(four).to_be(), ..loopback };
    mapped.sin6_addr.s6_addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
    loopback.sin6_port = port_of(six).to_be();
    let send = |fd: i32, to: &mut sockaddr_in6| sys!(SYS_sendto, fd, &b"x"[..], 1, 0, to, 28);
    // Bound to an address of one family, it sends by that one; connected only, by both.
    assert_eq!(send(six, &mut mapped), Err(ENETUNREACH));
    let connected = new6();
    ok!(SYS_connect, connected, &mut loopback, 28);
    assert_eq!(send(connected, &mut mapped), Ok(1));
    assert_eq!(receive(four, 9, 0), Ok(b"x".to_vec()));
    let bound = new6();
    ok!(SYS_bind, bound, &mut sockaddr_in6 { sin6_port: 0, ..mapped }, 28);
    assert_eq!(send(bound, &mut mapped), Ok(1));
    assert_eq!(send(bound, &mut loopback), Err(EAFNOSUPPORT));
}
