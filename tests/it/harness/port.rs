//! A port chosen by the system and kept for one server of a test, so that nobody else gets it before that server binds it, or
//! while it is down between two runs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// Holds the port with a socket that is bound and never listens. Linux lets a server with `SO_REUSEADDR` (all of ours set it)
/// bind and listen beside it, and a connection made while that server is down is refused, as it should be.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    address: SocketAddr,
    _socket: Socket,
}

impl ReservedPort {
    pub(crate) fn on_loopback() -> Self {
        Self::on(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    pub(crate) fn on(ip: IpAddr) -> Self {
        let socket =
            Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.bind(&SocketAddr::new(ip, 0).into()).expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let address = address.as_socket().expect("an internet address");
        Self { address, _socket: socket }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn number(&self) -> u16 {
        self.address.port()
    }
}
