//! A proxy between clients and Redis that loses on purpose what networks lose by accident.
//!
//! It understands as much of RESP as it takes to distinguish one frame from the next, a push from a reply, and which reply
//! answers which request. Each connection has a number; faults that stand for a broken connection hit those that are there,
//! while later ones work, as after a firewall has forgotten its state.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::{Result, strict::Strict};

/// Direction of a connection that goes dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// Data from the client is accepted and lost.
    Requests,
    /// Data from the server is accepted and lost.
    Replies,
    /// Both.
    Both,
}

#[derive(Clone, Debug, Default)]
struct Rules {
    delay: Duration,
    drop_pushes: bool,
    refuse: bool,
    /// Connections with smaller numbers are closed.
    cut_below: u64,
    /// Connections with smaller numbers are dead in the ways named.
    dead_below: u64,
    dead: Option<Dead>,
    /// Data from connections with smaller numbers is kept back.
    held_below: u64,
}

#[derive(Debug)]
struct Shared {
    rules: watch::Sender<Rules>,
    strict: Strict,
    target: AtomicU16,
    /// Number of the next connection.
    next: AtomicU64,
    /// Number of the EVALSHA from now on that gets no reply; 0: all do.
    lose: AtomicU64,
    lost: AtomicU64,
    dropped: AtomicU64,
    /// Number of requests that were refused.
    refused: AtomicU64,
}

/// A running proxy. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own, in front of the Redis at `target`. It refuses what `TENURE_TEST_STRICT` names.
    pub async fn start(target: u16) -> Result<Self> {
        let strict = Strict::of_environment()?.unwrap_or(Strict::NOTHING);
        Self::start_strict(target, strict).await
    }

    /// The same, and it refuses what a managed service may refuse.
    pub async fn start_strict(target: u16, strict: Strict) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            rules: watch::Sender::default(),
            strict,
            target: AtomicU16::new(target),
            next: AtomicU64::new(1),
            lose: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { port, shared, task })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Every reply and push from now on comes this much later, in order.
    pub fn delay_replies(&self, delay: Duration) {
        self.shared.rules.send_modify(|rules| rules.delay = delay);
    }

    /// Loses all published messages from now on, and nothing else; or no more.
    pub fn drop_pushes(&self, drop: bool) {
        self.shared.rules.send_modify(|rules| rules.drop_pushes = drop);
    }

    /// Number of lost pushes.
    #[must_use]
    pub fn dropped_pushes(&self) -> u64 {
        self.shared.dropped.load(Ordering::SeqCst)
    }

    /// Number of refused requests.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Of the scripts that are called from now on, the `nth` (1: the next) is executed, and its connection is cut before
    /// the reply gets through. The error in its place when the script was not known is a reply too.
    pub fn lose_reply(&self, nth: u64) {
        self.shared.lose.store(nth, Ordering::SeqCst);
    }

    /// Number of lost replies.
    #[must_use]
    pub fn lost_replies(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Closes all connections that there are.
    pub fn cut_all(&self) {
        let next = self.shared.next.load(Ordering::SeqCst);
        self.shared.rules.send_modify(|rules| rules.cut_below = next);
    }

    /// Keeps all present connections open, and loses the data that is sent to them.
    pub fn half_open(&self, dead: Dead) {
        let next = self.shared.next.load(Ordering::SeqCst);
        self.shared.rules.send_modify(|rules| {
            rules.dead_below = next;
            rules.dead = Some(dead);
        });
    }

    /// Data that is sent from now on over the present connections is kept back, also when its client has closed its end;
    /// new connections work. Until [`Proxy::pass_on`].
    pub fn hold_back(&self) {
        let next = self.shared.next.load(Ordering::SeqCst);
        self.shared.rules.send_modify(|rules| rules.held_below = next);
    }

    /// Data that was kept back arrives now, as far as the server still reads it.
    pub fn pass_on(&self) {
        self.shared.rules.send_modify(|rules| rules.held_below = 0);
    }

    /// New connections are closed at once, or no more.
    pub fn refuse(&self, refuse: bool) {
        self.shared.rules.send_modify(|rules| rules.refuse = refuse);
    }

    /// New connections go to another server.
    pub fn point_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
    }

    /// Number of connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.next.load(Ordering::SeqCst) - 1
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if shared.rules.borrow().refuse {
            continue;
        }
        let target = (Ipv4Addr::LOCALHOST, shared.target.load(Ordering::SeqCst));
        let Ok(server) = TcpStream::connect(target).await else {
            continue;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        connections.spawn(carry(client, server, number, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Forwards until one side closes, or the connection is cut.
async fn carry(client: TcpStream, server: TcpStream, number: u64, shared: Arc<Shared>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // For each request that gets a reply: whether that one is to be lost.
    let (asked, answered) = mpsc::unbounded_channel();
    let (late, due) = mpsc::unbounded_channel();
    // From a replica's request to follow on, both sides send what is no frame.
    let replicates = AtomicBool::new(false);
    let mut rules = shared.rules.subscribe();
    let cut = rules.wait_for(|rules| number < rules.cut_below);
    tokio::select! {
        _ = cut => {}
        _ = requests(from_client, to_server, number, &shared, (asked, &replicates)) => {}
        _ = replies(from_server, number, &shared, (answered, &replicates), late) => {}
        _ = deliver(to_client, due) => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    shared: &Shared,
    (asked, replicates): (mpsc::UnboundedSender<bool>, &AtomicBool),
) -> Option<()> {
    let mut rules = shared.rules.subscribe();
    let (mut buffer, mut held, mut open) = (Vec::new(), Vec::new(), true);
    loop {
        tokio::select! {
            read = from.read_buf(&mut buffer), if open => open = read.ok()? > 0,
            () = passed_on(&mut rules, number), if !held.is_empty() => {
                to.write_all(&held).await.ok()?;
                held.clear();
            }
        }
        if !open && held.is_empty() {
            return None;
        }
        while let Some(end) = frame(&buffer) {
            let mut request: Vec<u8> = buffer.drain(..end).collect();
            if dead(shared, number, Dead::Requests) {
                continue;
            }
            if let Some(refused) = shared.strict.request(&request) {
                shared.refused.fetch_add(1, Ordering::SeqCst);
                request = refused;
            }
            let name = request.split(|byte| *byte == b'\n').nth(2).unwrap_or_default();
            let name = name.trim_ascii().to_ascii_uppercase();
            if name == b"PSYNC" || name == b"SYNC" {
                replicates.store(true, Ordering::SeqCst);
            }
            let lose = name == b"EVALSHA" && {
                let left = shared.lose.load(Ordering::SeqCst);
                shared.lose.store(left.saturating_sub(1), Ordering::SeqCst);
                left == 1
            };
            // A subscription is answered by a push.
            if !name.ends_with(b"SUBSCRIBE") {
                asked.send(lose).ok()?;
            }
            if number < shared.rules.borrow().held_below {
                held.extend(request);
            } else {
                to.write_all(&request).await.ok()?;
            }
        }
    }
}

async fn passed_on(rules: &mut watch::Receiver<Rules>, number: u64) {
    let passed = rules.wait_for(|rules| number >= rules.held_below);
    // An error means that the proxy ends, and all of this with it.
    drop(passed.await);
}

async fn replies(
    mut from: OwnedReadHalf,
    number: u64,
    shared: &Shared,
    (mut answered, replicates): (mpsc::UnboundedReceiver<bool>, &AtomicBool),
    late: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        if from.read_buf(&mut buffer).await.ok()? == 0 {
            return None;
        }
        if replicates.load(Ordering::SeqCst) {
            late.send((Instant::now(), std::mem::take(&mut buffer))).ok()?;
            continue;
        }
        while let Some(end) = frame(&buffer) {
            let mut reply: Vec<u8> = buffer.drain(..end).collect();
            if let Some(cut) = shared.strict.reply(&reply) {
                reply = cut;
            }
            if reply[0] == b'>' {
                let message = reply
                    .get(4..)
                    .is_some_and(|rest| rest.starts_with(b"$7\r\nmessage"));
                if message && shared.rules.borrow().drop_pushes {
                    shared.dropped.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
            // A subscription that is refused has a reply and no request here.
            } else if answered.try_recv().unwrap_or(false) {
                shared.lost.fetch_add(1, Ordering::SeqCst);
                return None;
            }
            if !dead(shared, number, Dead::Replies) {
                late.send((Instant::now() + shared.rules.borrow().delay, reply))
                    .ok()?;
            }
        }
    }
}

async fn deliver(mut to: OwnedWriteHalf, mut due: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>) -> Option<()> {
    loop {
        let (at, reply) = due.recv().await?;
        if at > Instant::now() {
            sleep_until(at).await;
        }
        to.write_all(&reply).await.ok()?;
    }
}

fn dead(shared: &Shared, number: u64, way: Dead) -> bool {
    let rules = shared.rules.borrow();
    number < rules.dead_below && rules.dead.is_some_and(|dead| dead == way || dead == Dead::Both)
}

/// End of the first frame of the buffer, if the frame is complete.
fn frame(buffer: &[u8]) -> Option<usize> {
    let line = buffer.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count = || -> i64 {
        std::str::from_utf8(&buffer[1..line - 2])
            .ok()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    };
    let inside = match buffer[0] {
        b'$' | b'!' | b'=' => {
            let end = usize::try_from(count()).map_or(line, |length| line + length + 2);
            return (end <= buffer.len()).then_some(end);
        }
        b'*' | b'~' | b'>' => count(),
        b'%' => 2 * count(),
        // Attributes stand before the frame that they belong to.
        b'|' => 2 * count() + 1,
        _ => 0,
    };
    let mut end = line;
    for _ in 0..inside {
        end += frame(&buffer[end..])?;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::frame;

    #[test]
    fn a_frame_ends_where_its_last_part_does_and_not_before() {
        for whole in [
            &b"+OK\r\n"[..],
            b":12\r\n",
            b"_\r\n",
            b"$-1\r\n",
            b"$0\r\n\r\n",
            b"$4\r\na\r\nb\r\n",
            b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
            b"*-1\r\n",
            b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\np\r\n",
            b"%1\r\n+a\r\n*0\r\n",
            b"|1\r\n+a\r\n+b\r\n:1\r\n",
        ] {
            let shown = String::from_utf8_lossy(whole);
            let followed = [whole, b"+next\r\n"].concat();
            assert_eq!(frame(&followed), Some(whole.len()), "{shown}");
            for cut in 0..whole.len() {
                assert_eq!(frame(&whole[..cut]), None, "{shown} cut at {cut}");
            }
        }
    }
}
