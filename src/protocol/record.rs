//! The deal record: the fixed-size message that carries one connection to a worker. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::time::Monotonic;
use serde::{Deserialize, Serialize};

/// Bytes of one record. `FIONREAD` on the retained end divided by this is the number of untaken records.
pub const RECORD_BYTES: usize = 48;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A connection: exactly one descriptor is attached.
    Connection,
    /// A question whether the worker is awake: nothing is attached, the library answers with a kick.
    Probe,
    /// The listener's own socket is attached: the worker accepts, or receives, from it itself. The only record of a
    /// shared lane; its end comes in band like that of any other.
    Socket,
}

/// One record.
///
/// ```text
///   byte  0      kind: 1 connection, 2 probe, 3 the listener's socket
///         1      flags: bit 0 given back by another worker, bit 1 PROXY header already consumed
///         2      address family of the peer: 0 none (Unix), 4, 6
///         4..6   port
///         8..16  sequence
///        16..24  time of the accept, CLOCK_MONOTONIC nanoseconds
///        24..40  address (IPv4: the first four bytes, in network order)
///        40..44  IPv6 scope id
///        44..48  IPv6 flow information
/// ```
/// Numbers are little-endian; bytes that are not named are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it carries.
    pub kind: Kind,
    /// Another worker had it before and gave it back.
    pub given_back: bool,
    /// A PROXY header has been read from it already; `peer` is the address that it named.
    pub proxy_consumed: bool,
    /// The how-manieth connection that this primary accepted. Never used again, so it tells connections apart.
    pub sequence: u64,
    /// When the primary accepted it, also if it is dealt for the second time.
    pub accepted: Monotonic,
    /// The client's address as accept(2), or the PROXY header, told it; `None` for a Unix client.
    pub peer: Option<SocketAddr>,
}

/// A record that says nothing this version understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRecord;

const GIVEN_BACK: u8 = 1;
const PROXY_CONSUMED: u8 = 2;

impl Record {
    /// A probe.
    pub fn probe() -> Self {
        Self {
            kind: Kind::Probe,
            given_back: false,
            proxy_consumed: false,
            sequence: 0,
            accepted: Monotonic::default(),
            peer: None,
        }
    }

    /// The listener's own socket.
    pub fn socket() -> Self {
        Self { kind: Kind::Socket, ..Self::probe() }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = match self.kind {
            Kind::Connection => 1,
            Kind::Probe => 2,
            Kind::Socket => 3,
        };
        bytes[1] = if self.given_back { GIVEN_BACK } else { 0 } | if self.proxy_consumed { PROXY_CONSUMED } else { 0 };
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.accepted.ns.to_le_bytes());
        match self.peer {
            None => {}
            Some(SocketAddr::V4(peer)) => {
                bytes[2] = 4;
                bytes[4..6].copy_from_slice(&peer.port().to_le_bytes());
                bytes[24..28].copy_from_slice(&peer.ip().octets());
            }
            Some(SocketAddr::V6(peer)) => {
                bytes[2] = 6;
                bytes[4..6].copy_from_slice(&peer.port().to_le_bytes());
                bytes[24..40].copy_from_slice(&peer.ip().octets());
                bytes[40..44].copy_from_slice(&peer.scope_id().to_le_bytes());
                bytes[44..48].copy_from_slice(&peer.flowinfo().to_le_bytes());
            }
        }
        bytes
    }

    /// Reads the bytes of one message.
    ///
    /// # Errors
    /// [`BadRecord`] for a wrong length, kind or family: the sender is broken or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().map_err(|_| BadRecord)?;
        let kind = match bytes[0] {
            1 => Kind::Connection,
            2 => Kind::Probe,
            3 => Kind::Socket,
            _ => return Err(BadRecord),
        };
        let port = u16::from_le_bytes(array(&bytes[4..6]));
        let peer = match bytes[2] {
            0 => None,
            4 => {
                let ip = Ipv4Addr::from(array::<4>(&bytes[24..28]));
                Some(SocketAddrV4::new(ip, port).into())
            }
            6 => {
                let ip = Ipv6Addr::from(array::<16>(&bytes[24..40]));
                let scope_id = u32::from_le_bytes(array(&bytes[40..44]));
                let flowinfo = u32::from_le_bytes(array(&bytes[44..48]));
                Some(SocketAddrV6::new(ip, port, flowinfo, scope_id).into())
            }
            _ => return Err(BadRecord),
        };
        Ok(Self {
            kind,
            given_back: bytes[1] & GIVEN_BACK != 0,
            proxy_consumed: bytes[1] & PROXY_CONSUMED != 0,
            sequence: u64::from_le_bytes(array(&bytes[8..16])),
            accepted: Monotonic { ns: u64::from_le_bytes(array(&bytes[16..24])) },
            peer,
        })
    }

    /// The client's address without its port.
    pub fn peer_ip(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip())
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the slice was cut to this length")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peers() -> impl Strategy<Value = Option<SocketAddr>> {
        prop_oneof![
            Just(None),
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| Some(SocketAddr::from((ip, port)))),
            any::<([u8; 16], u16, u32, u32)>()
                .prop_map(|(ip, port, flow, scope)| { Some(SocketAddrV6::new(ip.into(), port, flow, scope).into()) }),
        ]
    }

    proptest! {
        #[test]
        fn a_record_survives_the_wire(
            probe: bool, given_back: bool, proxy_consumed: bool, sequence: u64, ns: u64, peer in peers()
        ) {
            let kind = if probe { Kind::Probe } else { Kind::Connection };
            let record =
                Record { kind, given_back, proxy_consumed, sequence, accepted: Monotonic { ns }, peer };
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Record::decode(&bytes);
        }
    }
}
