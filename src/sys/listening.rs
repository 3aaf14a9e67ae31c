//! Who in a process group listens, and where, as `/proc` tells. What may not be read, of other users' processes, is not
//! there. Source: proc(5), proc_pid_net(5).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in the tables of TCP, and the flag of one in that of Unix sockets. Source:
/// TCP_LISTEN, __SO_ACCEPTCON.
const TCP_LISTEN: &str = "0A";
const UNIX_ACCEPTS: &str = "00010000";

/// One process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// Which.
    pub pid: i32,
    /// Its program and arguments; whatever it wants to be seen there.
    pub command: String,
    /// The first address found: `HOST:PORT`, or `unix:PATH`.
    pub address: String,
}

/// Some process of the group that listens on a socket that the leader of the group does not have. It reads a file for
/// every process of this machine, so it takes a while: not for the event loop.
pub fn in_group(leader: i32) -> Option<Listening> {
    let own = sockets_of(leader);
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut others = pids.filter(|pid| *pid != leader && group_of(*pid) == Some(leader));
    others.find_map(|pid| {
        let sockets: HashSet<u64> = sockets_of(pid).difference(&own).copied().collect();
        let address = if sockets.is_empty() { None } else { address_of(pid, &sockets) };
        address.map(|address| Listening { pid, command: command_of(pid), address })
    })
}

fn group_of(pid: i32) -> Option<i32> {
    group_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 5; the name, field 2, may contain anything.
fn group_in(stat: &str) -> Option<i32> {
    stat[stat.rfind(')')? + 2..].split(' ').nth(2)?.parse().ok()
}

/// The inodes of its sockets.
fn sockets_of(pid: i32) -> HashSet<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// In the tables of its own network namespace, in which there may be very many.
fn address_of(pid: i32, sockets: &HashSet<u64>) -> Option<String> {
    let find = |table: &str, read: fn(&str) -> Option<(u64, String)>| {
        let file = File::open(format!("/proc/{pid}/net/{table}")).ok()?;
        let mut lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
        let found =
            lines.find_map(|line| read(&String::from_utf8_lossy(&line)).filter(|it| sockets.contains(&it.0)))?;
        Some(found.1)
    };
    find("tcp", tcp_in).or_else(|| find("tcp6", tcp_in)).or_else(|| find("unix", unix_in))
}

/// A listening socket: its inode, field 10, and its address, field 2.
fn tcp_in(line: &str) -> Option<(u64, String)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if fields.get(3) != Some(&TCP_LISTEN) {
        return None;
    }
    let (host, port) = fields.get(1)?.split_once(':')?;
    // Words of 32 bits in the order of this machine, of what is in the order of the network.
    let words = (0..host.len() / 8).map(|at| u32::from_str_radix(host.get(at * 8..at * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let host = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    let address = SocketAddr::new(host, u16::from_str_radix(port, 16).ok()?);
    Some((fields.get(9)?.parse().ok()?, address.to_string()))
}

/// A listening socket with a path: its inode, field 7, and the path, which is the rest.
fn unix_in(line: &str) -> Option<(u64, String)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().take(7).collect();
    let inode = fields.get(6).filter(|_| fields[3] == UNIX_ACCEPTS)?;
    let (_, path) = line.split_once(&format!(" {inode} "))?;
    Some((inode.parse().ok()?, format!("unix:{path}")))
}

fn command_of(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|it| *it == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy);
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_are_read_with_their_addresses() {
        let v4 =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100";
        let v6 =
            "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7 1";
        let little_endian = cfg!(target_endian = "little");
        assert!(little_endian, "the samples are of such a machine");
        assert_eq!(tcp_in(v4), Some((4711, "127.0.0.1:8080".to_owned())));
        assert_eq!(tcp_in(v6), Some((7, "[::1]:80".to_owned())));
        assert_eq!(tcp_in(&v4.replace(" 0A ", " 01 ")), None);
        assert_eq!(tcp_in("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"), None);
        let unix = "0000000000000000: 00000002 00000000 00010000 0001 01   123 /run/a b.sock";
        assert_eq!(unix_in(unix), Some((123, "unix:/run/a b.sock".to_owned())));
        assert_eq!(unix_in(&unix.replace("00010000", "00000000")), None);
        assert_eq!(unix_in("0000000000000000: 00000003 00000000 00000000 0001 03 27163"), None);
        assert_eq!(unix_in("Num       RefCount Protocol Flags    Type St Inode Path"), None);
    }

    #[test]
    fn a_name_with_blanks_and_brackets_moves_no_field() {
        assert_eq!(group_in("7 (a) R 1 (b) S 1 77 7 0 -1"), Some(77));
        assert_eq!(group_in("7"), None);
    }
}
