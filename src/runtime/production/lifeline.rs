//! Lifelines: whether a process has a UDP port, by the ICMP message that its machine sends when none has. Nothing is kept.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::sleep;

use crate::runtime::net::BoxFuture;
use crate::runtime::peers::Lifeline;

/// When an answer is looked for after a probe: at once, which is enough on this machine and often beside it, and twice later.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(4)];

/// What is sent: too short for any packet of QUIC, so that an endpoint drops it at its first look.
const PROBE: [u8; 1] = [0];

/// Opens a lifeline to `host:port`.
pub(super) async fn lifeline(address: &str) -> io::Result<Box<dyn Lifeline>> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no address is known of {address}"));
    let address = lookup_host(address).await?.next().ok_or_else(unknown)?;
    Ok(Box::new(Probe::open(address)?))
}

/// A connected socket of its own: the kernel reports ICMP messages to connected sockets only, and quinn's is not.
pub(super) struct Probe {
    socket: UdpSocket,
}

impl Probe {
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local)?;
        socket.set_nonblocking(true)?;
        socket.connect(address)?;
        Ok(Self { socket })
    }

    /// Whether a refusal has come since it was last asked. The answer to the probe before counts as well: on a longer way it comes
    /// later than anybody waits here.
    fn was_refused(&self) -> bool {
        matches!(self.socket.take_error(), Ok(Some(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    pub(super) async fn ask(&self) -> bool {
        let mut refused = self.was_refused();
        // Whatever else goes wrong with sending says nothing about the process.
        if let Err(error) = self.socket.send(&PROBE) {
            refused |= error.kind() == io::ErrorKind::ConnectionRefused;
        }
        for pause in LOOKS {
            if !pause.is_zero() && !refused {
                sleep(pause).await;
            }
            refused |= self.was_refused();
        }
        refused
    }
}

impl Lifeline for Probe {
    fn is_gone(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.ask().await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_without_a_process_is_told_from_one_with() {
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut lifeline = lifeline(&bound.local_addr().unwrap().to_string()).await.unwrap();
        for _ in 0..3 {
            assert!(!lifeline.is_gone().await);
        }
        drop(bound);
        assert!(lifeline.is_gone().await);
        assert!(lifeline.is_gone().await, "it says so each time");
    }

    #[tokio::test]
    async fn a_process_that_came_back_is_found() {
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        drop(bound);
        let mut lifeline = lifeline(&address.to_string()).await.unwrap();
        assert!(lifeline.is_gone().await);
        let _again = UdpSocket::bind(address).unwrap();
        // At most one late answer is left over.
        lifeline.is_gone().await;
        assert!(!lifeline.is_gone().await);
    }
}
