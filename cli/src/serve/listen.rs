//! The socket of `tenure serve`, and the check who may use it.
//!
//! A Unix socket has a mode. Each process of the network namespace can reach a port, and so can a web page in a browser of the
//! same machine: by a request to another origin, or by a name of its own that resolves to 127.0.0.1 (DNS rebinding). So a
//! request on a port is refused if it has an `Origin`, or a `Host` that is no name of the loopback interface.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use rustix::{fs::Mode, process::umask};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinHandle,
};

use crate::serve::{
    api::{self, Problem},
    closed::Watching,
    held::Leases,
};

/// The time for the answer to a check.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Tcp(address)),
            Ok(_) => {
                Err("other machines could use it: use a loopback address, such as 127.0.0.1:8377".to_owned())
            }
            Err(_) => Err(format!("{text:?} is no address: use unix:PATH or 127.0.0.1:PORT")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl Address {
    /// Checks that requests are answered there.
    pub(crate) async fn check(&self) -> io::Result<()> {
        let answered = async {
            match self {
                Self::Unix(path) => answers(UnixStream::connect(path).await?).await,
                Self::Tcp(address) => answers(TcpStream::connect(address).await?).await,
            }
        };
        tokio::time::timeout(PATIENCE, answered)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
    }

    /// Answers requests until the leases are closed.
    pub(crate) async fn serve(&self, mode: u32, leases: &Leases) -> io::Result<JoinHandle<io::Result<()>>> {
        let router = api::router(leases.clone());
        let closed = leases.clone();
        let closed = async move { closed.closed().await };
        Ok(match self {
            Self::Unix(path) => {
                let listener = bind(path, mode).await?;
                tokio::spawn(
                    axum::serve(Watching(listener), router)
                        .with_graceful_shutdown(closed)
                        .into_future(),
                )
            }
            Self::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let router = router.layer(middleware::from_fn(refuse_others));
                tokio::spawn(
                    axum::serve(Watching(listener), router)
                        .with_graceful_shutdown(closed)
                        .into_future(),
                )
            }
        })
    }

    pub(crate) fn remove(&self) {
        if let Self::Unix(path) = self {
            // It may be gone with its folder.
            let _ = fs::remove_file(path);
        }
    }
}

async fn answers(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    const EXPECTED: &[u8] = b"HTTP/1.1 200 ";
    stream
        .write_all(b"GET /v1/leases HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut found = [0; EXPECTED.len()];
    stream.read_exact(&mut found).await?;
    if found == EXPECTED {
        Ok(())
    } else {
        Err(io::Error::other("another program listens there"))
    }
}

/// Binds the socket, in place of one that a killed process has left behind.
async fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.exists()) {
        let problem = format!(
            "there is no folder {}: make it, or listen on another path",
            folder.display()
        );
        return Err(io::Error::new(io::ErrorKind::NotFound, problem));
    }
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            let problem = "a file that is no socket is there: remove it, or listen on another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        match UnixStream::connect(path).await {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process listens there",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
        }
    }
    // It has its mode from the start on.
    let before = umask(Mode::from_raw_mode(0o777 & !mode));
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

async fn refuse_others(request: Request, next: Next) -> Response {
    match foreign(request.headers()) {
        Some(problem) => Problem::status(StatusCode::FORBIDDEN, problem).into_response(),
        None => next.run(request).await,
    }
}

/// Why a request may come from a web page.
fn foreign(headers: &HeaderMap) -> Option<&'static str> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if headers.contains_key(header::ORIGIN) {
        Some("requests of web pages are refused")
    } else if host.is_none_or(|host| !is_loopback(host)) {
        Some("the Host is no name of the loopback interface: use localhost or 127.0.0.1")
    } else {
        None
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    ["localhost", "127.0.0.1", "[::1]"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_and_the_loopback_interface_are_listened_on() {
        for (text, shown) in [
            ("unix:/run/x.sock", true),
            ("127.0.0.1:80", true),
            ("[::1]:80", true),
        ] {
            assert_eq!(
                text.parse::<Address>()
                    .is_ok_and(|address| address.to_string() == text),
                shown
            );
        }
        for bad in [
            "0.0.0.0:80",
            "10.0.0.1:80",
            "[::]:80",
            "unix:",
            "localhost:80",
            "80",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_that_may_come_from_a_web_page_is_refused() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>()
        };
        for host in ["localhost", "localhost:8377", "127.0.0.1:80", "[::1]:80", "[::1]"] {
            assert_eq!(foreign(&headers(&[("host", host)])), None, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8377",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "",
        ] {
            assert!(foreign(&headers(&[("host", host)])).is_some(), "{host}");
        }
        assert!(foreign(&headers(&[])).is_some());
        assert!(foreign(&headers(&[("host", "localhost"), ("origin", "http://localhost")])).is_some());
    }
}
