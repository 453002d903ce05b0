//! AF_NETLINK sockets.

use libc::*;

use crate::Case;

pub const CASES: &[Case] = &[
    Case { name: "netlink-names", calls: "socket bind getsockname setsockopt", run: names },
    Case { name: "netlink-dumps", calls: "sendto recvfrom", run: dumps },
    Case { name: "netlink-errors", calls: "sendto recvfrom", run: errors },
];

fn new(protocol: i32) -> i32 {
    ok!(SYS_socket, AF_NETLINK, SOCK_RAW, protocol) as i32
}

/// A request: type, flags, content.
fn request(kind: u16, flags: i32, content: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + content.len() as u32).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&((flags | NLM_F_REQUEST) as u16).to_ne_bytes());
    bytes.extend_from_slice(&77u32.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(content);
    bytes
}

fn send(fd: i32, bytes: &[u8]) {
    let mut kernel = [AF_NETLINK as u32, 0, 0];
    assert_eq!(ok!(SYS_sendto, fd, bytes, bytes.len(), 0, &mut kernel, 12), bytes.len() as i64);
}

/// Messages of one datagram: type and content.
fn receive(fd: i32) -> Vec<(u16, Vec<u8>)> {
    let mut bytes = vec![0u8; 65536];
    let count = ok!(SYS_recvfrom, fd, bytes.as_mut_ptr(), bytes.len(), MSG_DONTWAIT, 0, 0) as usize;
    let (mut at, mut all) = (0, Vec::new());
    while at < count {
        let len = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(u32::from_ne_bytes(bytes[at + 8..at + 12].try_into().unwrap()), 77);
        all.push((u16::from_ne_bytes([bytes[at + 4], bytes[at + 5]]), bytes[at + 16..at + len].to_vec()));
        at += len.next_multiple_of(4);
    }
    all
}

/// A whole dump, without its end.
fn dump(fd: i32, kind: u16, content: &[u8]) -> Vec<Vec<u8>> {
    send(fd, &request(kind, NLM_F_DUMP, content));
    let mut all = Vec::new();
    loop {
        for (kind, content) in receive(fd) {
            if i32::from(kind) == NLMSG_DONE {
                return all;
            }
            all.push(content);
        }
    }
}

fn names() {
    let [a, b] = [new(NETLINK_ROUTE), new(NETLINK_ROUTE)];
    let port = |fd: i32| {
        let (mut name, mut len) = ([0u32; 3], 12u32);
        ok!(SYS_getsockname, fd, &mut name, &mut len);
        assert_eq!((len, name[0]), (12, AF_NETLINK as u32));
        name[1]
    };
    assert_eq!(port(a), 0);
    for fd in [a, b] {
        ok!(SYS_bind, fd, &mut [AF_NETLINK as u32, 0, 0], 12);
    }
    assert!(i64::from(port(a)) == ok!(SYS_getpid) && port(b) != port(a) && port(b) != 0);
    assert_eq!(sys!(SYS_bind, new(NETLINK_ROUTE), &mut [AF_NETLINK as u32, port(a), 0], 12), Err(EADDRINUSE));
    assert_eq!(sys!(SYS_setsockopt, a, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &mut 1i32, 4), Ok(0));
    assert_eq!(sys!(SYS_setsockopt, a, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &mut 1000i32, 4), Err(EINVAL));
    assert_eq!(sys!(SYS_socket, AF_NETLINK, SOCK_STREAM, NETLINK_ROUTE), Err(ESOCKTNOSUPPORT));
    assert_eq!(sys!(SYS_socket, AF_NETLINK, SOCK_RAW, 99), Err(EPROTONOSUPPORT));
}

fn dumps() {
    let fd = new(NETLINK_ROUTE);
    let links = dump(fd, RTM_GETLINK, &[0; 16]);
    assert!(
        links.iter().any(|link| link[4..8] == 1i32.to_ne_bytes() && link.windows(3).any(|text| text == b"lo\0")),
        "{links:?}"
    );
    let addresses = dump(fd, RTM_GETADDR, &[0; 8]);
    assert!(
        addresses
            .iter()
            .any(|address| address[..2] == [AF_INET as u8, 8] && address.windows(4).any(|addr| addr == [127, 0, 0, 1]))
    );
    let routes = dump(fd, RTM_GETROUTE, &[0; 12]);
    assert!(routes.iter().any(|route| route[1] == 32 && route[7] == RTN_LOCAL));
    // One interface, by its name.
    let name = [&[0u8; 16][..], &7u16.to_ne_bytes(), &IFLA_IFNAME.to_ne_bytes(), b"lo\0\0"].concat();
    send(fd, &request(RTM_GETLINK, 0, &name));
    let [(kind, link)] = receive(fd).try_into().unwrap();
    assert_eq!((kind, &link[4..8]), (RTM_NEWLINK, &1i32.to_ne_bytes()[..]));
    // Sockets: a listening one is among them.
    let unix = new(NETLINK_SOCK_DIAG);
    let states = u32::MAX.to_ne_bytes();
    let query = [&[AF_UNIX as u8, 0, 0, 0][..], &states, &[0; 16]].concat();
    let own = ok!(SYS_socket, AF_UNIX, SOCK_STREAM, 0) as i32;
    let mut stat: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_fstat, own, &mut stat);
    let ino = (stat.st_ino as u32).to_ne_bytes();
    assert!(dump(unix, 20, &query).iter().any(|socket| socket[4..8] == ino));
}

fn errors() {
    let fd = new(NETLINK_ROUTE);
    let error = |bytes: &[u8]| {
        send(fd, bytes);
        let [(kind, content)] = receive(fd).try_into().unwrap();
        assert_eq!(i32::from(kind), NLMSG_ERROR);
        -i32::from_ne_bytes(content[..4].try_into().unwrap())
    };
    let index = [&[0u8; 4][..], &12345i32.to_ne_bytes(), &[0; 8]].concat();
    assert_eq!(error(&request(RTM_GETLINK, 0, &index)), ENODEV);
    assert_eq!(error(&request(RTM_GETLINK, NLM_F_ACK, &index)), ENODEV);
    assert_eq!(error(&request(999, 0, &[0; 16])), EOPNOTSUPP);
    assert_eq!(sys!(SYS_recvfrom, fd, &mut [0u8; 9], 9, MSG_DONTWAIT, 0, 0), Err(EAGAIN));
}
