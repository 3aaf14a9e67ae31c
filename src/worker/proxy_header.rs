//! The PROXY header in front of a connection's own bytes, versions 1 (text) and 2 (binary). Pure.
//!
//! Source: The PROXY protocol, versions 1 & 2, of HAProxy. The package `proxy-header` reads it; what it is laxer about
//! than the specification is checked here. Further information in a header (TLVs) is skipped.

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};

/// The longest PROXY header, with all its TLVs; a connection with a longer one is ended. HAProxy reads no more either.
pub const PROXY_HEADER_MAX_BYTES: usize = 16 * 1024;

/// The longest header of version 1, its line end included.
const V1_MAX_BYTES: usize = 107;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Of a header: it is not there as a whole.
    Incomplete,
    /// Of no header.
    Malformed,
    /// A header.
    Header {
        /// How long it is. What follows is the client's.
        len: usize,
        /// Who the client is; `None`: the proxy speaks for itself (`LOCAL`), or does not say it (`UNKNOWN`, a Unix
        /// client), and the address of the connection counts.
        source: Option<SocketAddr>,
    },
}

/// Looks at all bytes that have come so far.
pub(super) fn read(bytes: &[u8]) -> Beginning {
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(bytes, config) {
        Ok((_, len)) if !is_strict(&bytes[..len]) => Beginning::Malformed,
        Ok((header, len)) => Beginning::Header { len, source: header.proxied_address().map(|it| it.source) },
        Err(Error::BufferTooShort) if may_become_one(bytes) => Beginning::Incomplete,
        Err(_) => Beginning::Malformed,
    }
}

/// Where a word is missing the package goes on looking for it beyond the end of the line.
fn may_become_one(bytes: &[u8]) -> bool {
    let is_whole_line = bytes.starts_with(b"P") && bytes.contains(&b'\n');
    !is_whole_line && bytes.len() < PROXY_HEADER_MAX_BYTES
}

/// The package accepts any byte after `PROXY`, and any length of a line about `UNKNOWN`.
fn is_strict(header: &[u8]) -> bool {
    header[0] != b'P' || header.starts_with(b"PROXY ") && header.len() <= V1_MAX_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::{ProxiedAddress, Tlv};

    use super::*;

    fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        prop_oneof![
            any::<(([u8; 4], u16), ([u8; 4], u16))>().prop_map(|(from, to)| (from.into(), to.into())),
            any::<(([u8; 16], u16), ([u8; 16], u16))>().prop_map(|(from, to)| (from.into(), to.into())),
        ]
    }

    /// A header as another program writes it.
    fn written(addresses: Option<(SocketAddr, SocketAddr)>, as_text: bool, tlv: Option<Vec<u8>>) -> Vec<u8> {
        let address = addresses.map(|(from, to)| ProxiedAddress::stream(from, to));
        let mut header = Vec::new();
        let result = match as_text {
            true => address.map_or_else(ProxyHeader::with_local, ProxyHeader::with_address).encode_v1(&mut header),
            false => ProxyHeader::with_tlvs(address, tlv.map(|it| Tlv::Custom(0xE0, it.into()))).encode_v2(&mut header),
        };
        result.unwrap();
        header
    }

    proptest! {
        /// Whatever follows: nothing of it belongs to the header, and no part of a header is one.
        #[test]
        fn a_header_is_found_as_soon_as_it_is_whole_and_what_follows_is_not_touched(
            addresses in prop::option::of(addresses()),
            as_text: bool,
            tlv in prop::option::of(prop::collection::vec(any::<u8>(), 0..2000)),
            payload in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut bytes = written(addresses, as_text, tlv);
            let len = bytes.len();
            for cut in 0..len {
                prop_assert_eq!(read(&bytes[..cut]), Beginning::Incomplete);
            }
            bytes.extend(payload);
            let source = addresses.map(|(from, _)| from);
            for cut in len..=bytes.len() {
                prop_assert_eq!(read(&bytes[..cut]), Beginning::Header { len, source });
            }
        }

        #[test]
        fn any_bytes_never_panic(
            start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"]),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = read(&[start, &bytes].concat());
        }
    }

    #[test]
    fn headers_of_the_specification() {
        let cases: [(&[u8], Option<&str>); 6] = [
            (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
            (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some("[2001:db8::1]:1")),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
            (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", None),
            (
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x02\x04\xd2\x16.",
                Some("127.0.0.1:1234"),
            ),
        ];
        for (header, source) in cases {
            let source = source.map(|it| it.parse().unwrap());
            assert_eq!(read(header), Beginning::Header { len: header.len(), source }, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_header_is_said_to_be_none() {
        let long_unknown = [&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat();
        let too_long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; PROXY_HEADER_MAX_BYTES]].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n\r\n\r\n\r\n",
            b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX",
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXYxUNKNOWN\r\n",
            &long_unknown,
            &[b'P'; 107],
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\x00\x00",
            b"\r\n\r\n\0\r\nQUIX\n\x21\x11\x00\x0c",
            b"\x16\x03\x01\x02\x00\x01\x00",
            &too_long,
        ] {
            assert_eq!(read(bytes), Beginning::Malformed, "{}", bytes.escape_ascii());
        }
    }
}
