//! Connections that end when their client has closed them. The server reads nothing while a request is being answered and bytes
//! of a next one have arrived, so that it does not find the end of the stream: a lease would outlive its owner.

use std::{
    io,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Interval, MissedTickBehavior, interval},
};

/// Each connection is looked at this often.
const PERIOD: Duration = Duration::from_secs(1);

/// A listener whose connections fail once their client has closed them.
pub(crate) struct Watching<L>(pub(crate) L);

/// Such a connection.
pub(crate) struct Watched<S> {
    stream: S,
    look: Interval,
}

impl<L: Listener<Io: AsFd>> Listener for Watching<L> {
    type Io = Watched<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = self.0.accept().await;
        let mut look = interval(PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        (Watched { stream, look }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl<S: AsFd> Watched<S> {
    /// Fails if the client has closed the connection. Wakes the task again after a period, so that it asks again.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.look.poll_tick(context).is_ready() {
            if is_closed(&self.stream) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }
}

/// Returns whether the other side has closed the connection, also if some of what it has sent is unread.
fn is_closed(stream: &impl AsFd) -> bool {
    #[cfg(target_os = "linux")]
    let events = PollFlags::RDHUP;
    // Elsewhere a hang-up is reported without being asked for.
    #[cfg(not(target_os = "linux"))]
    let events = PollFlags::empty();
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(stream, events)], Some(&at_once)).is_ok_and(|found| found > 0)
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// The server flushes each time that its task runs, or writes while something is left to be written.
impl<S: AsyncWrite + AsFd + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_connection_is_closed_although_bytes_are_unread() {
        let (server, mut client) = std::os::unix::net::UnixStream::pair().unwrap();
        client.write_all(b"unread").unwrap();
        assert!(!is_closed(&server));
        drop(client);
        assert!(is_closed(&server));
    }
}
