//! Loses replies: what a broken connection does at the worst moment.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tenure::Error;
use tenure_tests::{Redis, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

/// Stands before a server. Once armed, it swallows the next reply, cuts the connection, and refuses connections until it is
/// opened.
pub(crate) struct Cutter {
    pub(crate) url: String,
    armed: Arc<AtomicBool>,
    cut: Arc<Semaphore>,
    open: watch::Sender<bool>,
}

impl Cutter {
    pub(crate) async fn start(redis: &Redis) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("redis://{}", listener.local_addr()?);
        let (armed, cut) = (Arc::new(AtomicBool::new(false)), Arc::new(Semaphore::new(0)));
        let (open, gate) = watch::channel(true);
        let server = redis.port();
        let it = Self {
            url,
            armed: armed.clone(),
            cut: cut.clone(),
            open: open.clone(),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (armed, cut, open, mut gate) = (armed.clone(), cut.clone(), open.clone(), gate.clone());
                tokio::spawn(async move {
                    gate.wait_for(|open| *open).await?;
                    let server = TcpStream::connect(("127.0.0.1", server)).await?;
                    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                        (client.into_split(), server.into_split());
                    let up = tokio::io::copy(&mut from_client, &mut to_server);
                    let down = async {
                        let mut buffer = vec![0; 65_536];
                        loop {
                            let n = from_server.read(&mut buffer).await?;
                            if n == 0 || armed.swap(false, Ordering::SeqCst) {
                                break;
                            }
                            to_client.write_all(&buffer[..n]).await?;
                        }
                        open.send_replace(false);
                        cut.add_permits(1);
                        Result::Ok(())
                    };
                    tokio::select! {
                        result = up => { result?; }
                        result = down => result?,
                    }
                    Result::Ok(())
                });
            }
        });
        Ok(it)
    }

    /// Runs `request`, whose reply is lost after it was carried out; then `meanwhile`; then lets the repeat through.
    pub(crate) async fn lose_reply_of<T>(
        &self,
        request: impl Future<Output = std::result::Result<T, Error>>,
        meanwhile: impl AsyncFnOnce() -> Result,
    ) -> Result<T> {
        self.armed.store(true, Ordering::SeqCst);
        let between = async {
            self.cut.acquire().await?.forget();
            meanwhile().await?;
            self.open.send_replace(true);
            Result::Ok(())
        };
        let (result, between) = tokio::join!(request, between);
        between?;
        Ok(result?)
    }
}
