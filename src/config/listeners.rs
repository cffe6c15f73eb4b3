//! Addresses to listen on and to be reached by.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// A host, by name or address, and a port, as clients are told them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port; 0 stands for the port that was bound.
    pub port: u16,
}

impl HostPort {
    /// Whether the host stands for every address of a machine, which is nowhere to connect to.
    pub(super) fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address; write host:port, like broker-1.example.com:9092");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A Kafka listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Where to listen; port 0 picks a free port.
    pub address: SocketAddr,
    /// What clients are told; `None` stands for the address that was bound.
    pub advertised: Option<HostPort>,
}

impl Listener {
    /// What clients are told, once it is known which address was bound.
    pub fn advertise(&self, bound: SocketAddr) -> HostPort {
        match &self.advertised {
            Some(HostPort { host, port: 0 }) => HostPort { host: host.clone(), port: bound.port() },
            Some(advertised) => advertised.clone(),
            None => HostPort { host: bound.ip().to_string(), port: bound.port() },
        }
    }
}

/// Reads an address to listen on: an IP address or `localhost`, and a port.
pub(super) fn parse_listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    Err(format!("{text:?} is not an address to listen on; write an IP address and a port, like 127.0.0.1:9092"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in ["broker-1:9092", "[::1]:9092", "10.0.0.1:0"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["broker", ":9092", "broker:", "broker:99999", "kafka://broker:9092", "a b:1"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_advertised_port_of_zero_becomes_the_bound_one() {
        let listener = |advertised: Option<&str>| Listener {
            name: "default".to_owned(),
            address: parse_listen_address("localhost:0").unwrap(),
            advertised: advertised.map(|text| text.parse().unwrap()),
        };
        let bound = "127.0.0.1:4711".parse().unwrap();
        assert_eq!(listener(None).advertise(bound).to_string(), "127.0.0.1:4711");
        assert_eq!(listener(Some("broker:0")).advertise(bound).to_string(), "broker:4711");
        assert_eq!(listener(Some("broker:9092")).advertise(bound).to_string(), "broker:9092");
    }
}
