//! Making the TCP connection from a given source address.
//!
//! **Promise.** [`connect`] asks the safety guard right before it connects, takes no longer than
//! the plan's `connect_timeout`, and sorts every failure: the target refuses, the target cannot be
//! reached, or the fault is on this host.

use std::io;

use mail::attempt::EndCause;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::ConnectPlan;
use crate::config::TargetPolicy;

/// How often another port is tried. With SO_REUSEADDR the system may choose a port that is already
/// connected to this very target, which it only notices when connecting.
const PORT_TRIES: u32 = 4;

/// Connects as planned.
///
/// # Errors
/// The cause with which the connection's `Closed` is to be reported.
pub(super) async fn connect(
    plan: &ConnectPlan,
    safety: &TargetPolicy,
) -> Result<TcpStream, EndCause> {
    let target = plan.target.ip();
    let allowed = if plan.relay { safety.check_relay(target) } else { safety.check(target) };
    allowed.map_err(|refused| EndCause::Local { why: refused.to_string() })?;
    let connecting = async {
        for _ in 1..PORT_TRIES {
            match attempt(plan).await {
                Err(Failure::Connect(fault)) if fault.kind() == io::ErrorKind::AddrNotAvailable => {
                }
                other => return other,
            }
        }
        attempt(plan).await
    };
    match tokio::time::timeout(plan.connect_timeout, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(failure)) => Err(failure.cause(plan)),
        Err(_) => Err(EndCause::Unreachable {
            why: format!("no answer within {} s", plan.connect_timeout.as_secs_f64()),
        }),
    }
}

/// Where it failed.
enum Failure {
    /// Making or binding the socket.
    Prepare(io::Error),
    /// Connecting it.
    Connect(io::Error),
}

impl Failure {
    fn cause(self, plan: &ConnectPlan) -> EndCause {
        match self {
            Self::Prepare(fault) => {
                let source = plan.source_address.map_or("any address".into(), |ip| ip.to_string());
                EndCause::Local { why: format!("cannot open a socket on {source}: {fault}") }
            }
            Self::Connect(fault) => match fault.kind() {
                io::ErrorKind::ConnectionRefused => EndCause::ConnectionRefused,
                // No port left, or a local firewall: no fault of the target's.
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied => {
                    EndCause::Local { why: format!("cannot connect from here: {fault}") }
                }
                _ => EndCause::Unreachable { why: fault.to_string() },
            },
        }
    }
}

/// One try with one local port.
async fn attempt(plan: &ConnectPlan) -> Result<TcpStream, Failure> {
    let socket = open(plan).map_err(Failure::Prepare)?;
    let stream = socket.connect(plan.target).await.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Prepare)?;
    Ok(stream)
}

/// A socket bound to the source address.
fn open(plan: &ConnectPlan) -> io::Result<TcpSocket> {
    let domain = Domain::for_address(plan.target);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = plan.source_address {
        // Lets connections of one source to different targets share a local port, so that their
        // number is not bounded by the ports of one address.
        socket.set_reuse_address(true)?;
        socket.bind(&core::net::SocketAddr::new(source, 0).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}
