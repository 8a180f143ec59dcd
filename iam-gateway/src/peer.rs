//! From where a request comes.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The most addresses of one request that are looked at: proxies behind each other are few.
const MAX_HOPS: usize = 32;

/// The address of whoever is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// The end of a connection; an IPv4 address that came by way of IPv6 is one of IPv4.
    pub fn new(address: SocketAddr) -> Self {
        Self(address.ip().to_canonical())
    }

    /// The address of the client: of the peer, unless that is a trusted proxy. Then it is the last one in
    /// `X-Forwarded-For` that is no trusted proxy itself; what stands before that may be anybody's invention.
    pub fn client(self, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
        let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
        if !is_trusted(&self.0) {
            return self.0;
        }
        let values = headers.get_all("x-forwarded-for");
        let texts: Vec<&str> = values.iter().map(|value| value.to_str().unwrap_or_default()).collect();
        let hops = texts.iter().rev().flat_map(|text| text.rsplit(',')).take(MAX_HOPS);
        let mut client = self.0;
        for hop in hops {
            // Whatever is no address was not written by a proxy that we trust.
            let Some(address) = address(hop) else { break };
            client = address;
            if !is_trusted(&address) {
                break;
            }
        }
        client
    }
}

/// An address, as proxies write it: with a port or without, of IPv6 in brackets or bare.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    alone.or_else(bracketed).or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn line_that_cannot_be_read_ends_the_search() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "203.0.113.9".parse().unwrap());
        headers.append("x-forwarded-for", HeaderValue::from_bytes(b"\xe9").unwrap());
        let peer = Peer::new("10.0.0.1:1".parse().unwrap());
        assert_eq!(peer.client(&headers, &trusted).to_string(), "10.0.0.1");
    }

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "::1/128"].iter().map(|net| net.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        Peer::new(SocketAddr::new(peer.parse().unwrap(), 1)).client(&headers, &trusted).to_string()
    }

    #[test]
    fn header_is_believed_from_trusted_proxies_alone_and_from_its_end() {
        for (peer, forwarded, expected) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["198.51.100.7, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["198.51.100.7, 203.0.113.9, 10.2.3.4"], "203.0.113.9"),
            ("10.0.0.1", &["198.51.100.7", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9, garbage"], "10.0.0.1"),
            ("10.0.0.1", &["10.9.9.9, 10.2.3.4"], "10.9.9.9"),
            ("::1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("::1", &["203.0.113.9:80"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
        ] {
            assert_eq!(client(peer, forwarded), expected, "{peer} {forwarded:?}");
        }
    }
}
