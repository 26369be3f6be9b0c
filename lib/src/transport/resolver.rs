//! Finds the network addresses of servers in place of the system: for networks of which the names are not known outside.

use std::{error::Error as StdError, fmt, io, net::SocketAddr, pin::Pin, sync::Arc};

use redis::{RedisError, RedisFuture, io::AsyncDNSResolver};

/// The future of an [`AddressResolver`].
pub type AddressFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// Returns the network addresses of a server: for [`ClientBuilder::resolver`](crate::ClientBuilder::resolver).
///
/// It is asked at each connect, of each server: those in the URL, and those that Sentinels, a cluster or a master name. The name of
/// the server stays that with which its certificate is compared.
///
/// ```
/// use std::net::SocketAddr;
/// use tenure::{AddressFuture, AddressResolver};
///
/// /// All servers are behind one port of this machine.
/// struct Tunnel(SocketAddr);
///
/// impl AddressResolver for Tunnel {
///     fn resolve<'a>(&'a self, _host: &'a str, _port: u16) -> AddressFuture<'a> {
///         Box::pin(async { Ok(vec![self.0]) })
///     }
/// }
/// let builder = tenure::Client::builder("rediss://redis.tenure").resolver(Tunnel(([127, 0, 0, 1], 7000).into()));
/// ```
pub trait AddressResolver: Send + Sync + 'static {
    /// The addresses, which are tried in turn. The host is a name, or an address as text.
    ///
    /// # Errors
    /// The server counts as unreachable, with the error as the reason.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> AddressFuture<'a>;
}

/// The resolver as the driver takes it.
#[derive(Clone)]
pub(crate) struct Resolver(pub(crate) Arc<dyn AddressResolver>);

impl AsyncDNSResolver for Resolver {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found = self.0.resolve(host, port).await;
            let addresses = found.map_err(|error| RedisError::from(io::Error::other(error)))?;
            Ok(Box::new(addresses.into_iter()) as Box<_>)
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}
