//! Texts of /proc/net (proc(5)).

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use abi::c;

use crate::address::to_v6;
use crate::links::LOOPBACK;
use crate::stack::{Count, Listing, Stack};

/// An address and port as Linux prints them: words of the address in the host's order.
fn place(addr: &SocketAddr, v6: bool) -> String {
    let mut out = String::new();
    match (addr.ip(), v6) {
        (IpAddr::V4(addr), false) => {
            let _ = write!(out, "{:08X}", u32::from_le_bytes(addr.octets()));
        }
        (addr, _) => {
            let octets = to_v6(addr).octets();
            for word in octets.as_chunks::<4>().0 {
                let _ = write!(out, "{:08X}", u32::from_le_bytes(*word));
            }
        }
    }
    let _ = write!(out, ":{:04X}", addr.port());
    out
}

impl Stack {
    /// The content of a file of /proc/net.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Vec<u8>> {
        let (inet, inet6) = (c::AF_INET, c::AF_INET6);
        let text = match name {
            "tcp" => self.tcp_text(inet),
            "tcp6" => self.tcp_text(inet6),
            "udp" => self.datagram_text(inet, c::SOCK_DGRAM, Some(c::IPPROTO_UDP)),
            "udp6" => self.datagram_text(inet6, c::SOCK_DGRAM, Some(c::IPPROTO_UDP)),
            "udplite" => self.datagram_text(inet, c::SOCK_DGRAM, Some(c::IPPROTO_UDPLITE)),
            "icmp" => self.datagram_text(inet, c::SOCK_DGRAM, Some(c::IPPROTO_ICMP)),
            "icmp6" => self.datagram_text(inet6, c::SOCK_DGRAM, Some(c::IPPROTO_ICMPV6)),
            "raw" => self.datagram_text(inet, c::SOCK_RAW, None),
            "raw6" => self.datagram_text(inet6, c::SOCK_RAW, None),
            "dev" => self.dev_text(),
            "route" => self.route_text(),
            "ipv6_route" => self.route6_text(),
            "if_inet6" => self.addresses6_text(),
            "igmp" => self.igmp_text(),
            "snmp" => self.snmp_text(),
            "netstat" => self.netstat_text(),
            "snmp6" | "igmp6" | "dev_mcast" | "fib_trie" => String::new(),
            "arp" => "IP address       HW type     Flags       HW address            Mask     Device\n".into(),
            "ptype" => "Type Device      Function\n0800          ip_rcv\n86dd          ipv6_rcv\n".into(),
            "psched" => "000003e8 00000040 000f4240 3b9aca00\n".into(),
            "protocols" => self.protocols_text(),
            "sockstat" => self.sockstat_text(inet),
            "sockstat6" => self.sockstat_text(inet6),
            _ => return None,
        };
        Some(text.into_bytes())
    }

    fn tcp_text(&self, domain: i32) -> String {
        let v6 = domain == c::AF_INET6;
        let mut out = if v6 {
            "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n".to_owned()
        } else {
            format!(
                "{:<149}\n",
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
            )
        };
        let mut slot = 0;
        let mut line = |listing: &Listing, timer: (u8, u64), rest: &str| {
            let mut text = format!(
                "{slot:4}: {} {} {:02X} {:08X}:{:08X} {:02X}:{:08X} 00000000 {:5}        0 {} {rest}",
                place(&listing.local, v6),
                place(&listing.remote, v6),
                listing.state,
                listing.send_queue,
                listing.receive_queue,
                timer.0,
                timer.1,
                listing.uid,
                listing.ino,
            );
            if !v6 {
                text = format!("{text:<149}");
            }
            out.push_str(&text);
            out.push('\n');
            slot += 1;
        };
        for listing in self.list(domain, c::SOCK_STREAM, None) {
            let listens = listing.state == 10;
            // What a listening socket's second number means differs: its backlog is not shown here.
            let listing = if listens { Listing { send_queue: 0, ..listing } } else { listing };
            let rest = if listens { "1 0000000000000000 100 0 0 10 0" } else { "1 0000000000000000 20 4 30 10 -1" };
            line(&listing, (0, 0), rest);
        }
        for (local, remote, both, left) in self.tcp.all_remembered() {
            if local.is_ipv6() != v6 {
                continue;
            }
            let state = if both { 6 } else { 5 };
            let listing =
                Listing { local, remote, state, receive_queue: 0, send_queue: 0, drops: 0, uid: 0, ino: 0, v6_only: false };
            line(&listing, (3, left / 10_000_000), "3 0000000000000000");
        }
        out
    }

    fn datagram_text(&self, domain: i32, kind: i32, protocol: Option<i32>) -> String {
        let v6 = domain == c::AF_INET6;
        let mut out = if v6 {
            "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n".to_owned()
        } else {
            format!(
                "{:<127}\n",
                "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
            )
        };
        for listing in self.list(domain, kind, protocol) {
            let text = format!(
                "{:5}: {} {} {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5}        0 {} 2 0000000000000000 {}",
                listing.local.port(),
                place(&listing.local, v6),
                place(&listing.remote, v6),
                listing.state,
                listing.send_queue,
                listing.receive_queue,
                listing.uid,
                listing.ino,
                listing.drops,
            );
            let _ = if v6 { writeln!(out, "{text}") } else { writeln!(out, "{text:<127}") };
        }
        out
    }

    fn dev_text(&self) -> String {
        let mut out = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n".to_owned();
        let packets = self.counters.get(Count::UdpOut) + self.counters.get(Count::IcmpOut) + self.counters.get(Count::IpOut);
        for link in self.links.read().links.values() {
            let packets = if link.index == LOOPBACK { packets } else { 0 };
            let name = &link.name;
            let _ = writeln!(
                out,
                "{name:>6}: {:7} {packets:7}    0    0    0     0          0         0 {:8} {packets:7}    0    0    0     0       0          0",
                0, 0
            );
        }
        out
    }

    fn route_text(&self) -> String {
        let mut out = format!("{:<127}\n", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT");
        let links = self.links.read();
        let word = |addr: Ipv4Addr| u32::from_le_bytes(addr.octets());
        for route in links.routes.iter().filter(|route| route.kind == c::RTN_UNICAST) {
            let (IpAddr::V4(destination), Some(link)) = (route.destination, links.links.get(&route.link)) else { continue };
            let gateway = if let Some(IpAddr::V4(gateway)) = route.gateway { gateway } else { Ipv4Addr::UNSPECIFIED };
            let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(route.prefix)).unwrap_or(0));
            // RTF_UP, RTF_GATEWAY, RTF_HOST
            let flags = 1 | if route.gateway.is_some() { 2 } else { 0 } | if route.prefix == 32 { 4 } else { 0 };
            let text = format!(
                "{}\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{}\t{:08X}\t0\t0\t0",
                link.name,
                word(destination),
                word(gateway),
                route.metric,
                word(mask)
            );
            let _ = writeln!(out, "{text:<127}");
        }
        out
    }

    fn route6_text(&self) -> String {
        let mut out = String::new();
        let links = self.links.read();
        let hex = |addr: IpAddr| format!("{:032x}", u128::from(to_v6(addr)));
        let none = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
        let mut line = |destination: IpAddr, prefix: u8, gateway: IpAddr, metric: u32, flags: u32, name: &str| {
            let (to, via, from) = (hex(destination), hex(gateway), hex(none));
            let _ = writeln!(out, "{to} {prefix:02x} {from} 00 {via} {metric:08x} 00000001 00000000 {flags:08x} {name:>8}");
        };
        for route in links.routes.iter().filter(|route| route.destination.is_ipv6()) {
            let Some(link) = links.links.get(&route.link) else { continue };
            let flags = 1 | if route.gateway.is_some() { 2 } else { 0 };
            line(route.destination, route.prefix, route.gateway.unwrap_or(none), route.metric, flags, &link.name);
        }
        for link in links.links.values() {
            for address in link.addresses.iter().filter(|address| address.addr.is_ipv6()) {
                line(address.addr, 128, none, 0, 0x8020_0001, &link.name);
            }
        }
        out
    }

    fn addresses6_text(&self) -> String {
        let mut out = String::new();
        for link in self.links.read().links.values() {
            for address in &link.addresses {
                let IpAddr::V6(addr) = address.addr else { continue };
                // `IPV6_ADDR_*` scopes; permanent addresses (0x80).
                let scope = match address.scope {
                    c::RT_SCOPE_HOST => 0x10,
                    c::RT_SCOPE_LINK => 0x20,
                    _ => 0,
                };
                let (addr, prefix) = (u128::from(addr), address.prefix);
                let _ = writeln!(out, "{addr:032x} {:02x} {prefix:02x} {scope:02x} 80 {:>8}", link.index, link.name);
            }
        }
        out
    }

    fn igmp_text(&self) -> String {
        let mut out = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n".to_owned();
        let groups = self.groups.lock().all();
        for link in self.links.read().links.values() {
            let own: Vec<_> = groups.iter().filter(|(group, index, _)| *index == link.index && group.is_ipv4()).collect();
            let _ = writeln!(out, "{}\t{:<10}: {:5} {:>7}", link.index, link.name, own.len() + 1, "V3");
            for (group, _, users) in own {
                if let IpAddr::V4(group) = group {
                    let _ = writeln!(out, "\t\t\t\t{:08X} {users:5} 0:00000000\t\t0", u32::from_le_bytes(group.octets()));
                }
            }
            let _ = writeln!(out, "\t\t\t\t010000E0     1 0:00000000\t\t0");
        }
        out
    }

    fn snmp_text(&self) -> String {
        let count = |count| self.counters.get(count);
        let established = |domain| self.list(domain, c::SOCK_STREAM, None).iter().filter(|l| matches!(l.state, 1 | 8)).count();
        let current = established(c::AF_INET) + established(c::AF_INET6);
        let (ip_in, ip_out) = (
            count(Count::UdpOut) + count(Count::IcmpOut) + count(Count::IpIn),
            count(Count::UdpOut) + count(Count::IcmpOut) + count(Count::IpOut),
        );
        let mut out = String::new();
        out.push_str("Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits\n");
        let no_routes = count(Count::IpNoRoutes);
        let _ = writeln!(out, "Ip: 2 64 {ip_in} 0 0 0 0 0 {ip_in} {ip_out} 0 {no_routes} 0 0 0 0 0 0 0 {ip_out}");
        out.push_str("Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps OutAddrMasks OutAddrMaskReps\n");
        let (icmp_in, icmp_out, unreachable) = (count(Count::IcmpIn), count(Count::IcmpOut), count(Count::UdpNoPorts));
        let echoes = icmp_out / 2;
        let (all_in, all_out) = (icmp_in + unreachable, icmp_out + unreachable);
        let _ = writeln!(
            out,
            "Icmp: {all_in} 0 0 {unreachable} 0 0 0 0 {echoes} {echoes} 0 0 0 0 {all_out} 0 0 0 {unreachable} 0 0 0 0 {echoes} {echoes} 0 0 0 0"
        );
        out.push_str("IcmpMsg: InType0 InType3 InType8 OutType0 OutType3 OutType8\n");
        let _ = writeln!(out, "IcmpMsg: {echoes} {unreachable} {echoes} {echoes} {unreachable} {echoes}");
        out.push_str("Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n");
        let (active, passive, fails, resets) =
            (count(Count::TcpActive), count(Count::TcpPassive), count(Count::TcpAttemptFails), count(Count::TcpResets));
        let segments = count(Count::TcpOut) + 3 * active;
        let _ = writeln!(
            out,
            "Tcp: 1 200 120000 -1 {active} {passive} {fails} {resets} {current} {segments} {segments} 0 0 {} 0",
            count(Count::TcpResetsSent)
        );
        out.push_str(
            "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n",
        );
        let (udp_in, no_ports, errors, udp_out) =
            (count(Count::UdpIn), count(Count::UdpNoPorts), count(Count::UdpErrors), count(Count::UdpOut));
        let _ = writeln!(out, "Udp: {udp_in} {no_ports} {errors} {udp_out} {errors} 0 0 0 0");
        out.push_str("UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\nUdpLite: 0 0 0 0 0 0 0 0 0\n");
        out
    }

    fn netstat_text(&self) -> String {
        let overflows = self.counters.get(Count::ListenOverflows);
        format!(
            "TcpExt: SyncookiesSent SyncookiesRecv SyncookiesFailed ListenOverflows ListenDrops TCPTimeouts TCPAbortOnData TCPAbortOnClose\nTcpExt: 0 0 0 {overflows} {overflows} 0 0 0\nIpExt: InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts InOctets OutOctets\nIpExt: 0 0 0 0 0 0 0 0\n"
        )
    }

    fn protocols_text(&self) -> String {
        let mut out = "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi br ha uh gp em\n".to_owned();
        let rows = [
            ("RAWv6", c::AF_INET6, c::SOCK_RAW, None),
            ("UDPv6", c::AF_INET6, c::SOCK_DGRAM, Some(c::IPPROTO_UDP)),
            ("TCPv6", c::AF_INET6, c::SOCK_STREAM, None),
            ("RAW", c::AF_INET, c::SOCK_RAW, None),
            ("UDP", c::AF_INET, c::SOCK_DGRAM, Some(c::IPPROTO_UDP)),
            ("TCP", c::AF_INET, c::SOCK_STREAM, None),
            ("PING", c::AF_INET, c::SOCK_DGRAM, Some(c::IPPROTO_ICMP)),
        ];
        for (name, domain, kind, protocol) in rows {
            let count = self.list(domain, kind, protocol).len();
            let _ = writeln!(
                out,
                "{name:<9} 1024 {count:6}      -1   NI       0   yes  kernel      y  y  y  n  y  y  y  n  y  y  y  y  n  y  y  y  y  y  n"
            );
        }
        out
    }

    fn sockstat_text(&self, domain: i32) -> String {
        let tag = if domain == c::AF_INET6 { "6" } else { "" };
        let count = |kind, protocol| self.list(domain, kind, protocol).len();
        let (tcp, udp, raw) = (count(c::SOCK_STREAM, None), count(c::SOCK_DGRAM, Some(c::IPPROTO_UDP)), count(c::SOCK_RAW, None));
        if tag.is_empty() {
            let waiting = self.tcp.all_remembered().len();
            return format!(
                "TCP: inuse {tcp} orphan 0 tw {waiting} alloc {tcp} mem 0\nUDP: inuse {udp} mem 0\nUDPLITE: inuse 0\nRAW: inuse {raw}\nFRAG: inuse 0 memory 0\n"
            );
        }
        format!("TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse 0\nRAW6: inuse {raw}\nFRAG6: inuse 0 memory 0\n")
    }
}
