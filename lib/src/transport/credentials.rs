//! Credentials that change: asked for at each connect, and again while a connection lives.

use std::{
    error::Error as StdError,
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

/// User name and password, and how long they are good for.
///
/// ```
/// use std::time::Duration;
///
/// let token = tenure::Credentials::new(Some("worker"), "a signed token").refresh_after(Duration::from_secs(600));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) username: Option<String>,
    pub(crate) password: String,
    pub(crate) refresh_after: Option<Duration>,
}

impl Credentials {
    /// The ACL user, if there is one, and its password. They are good for as long as the connection.
    ///
    /// ```
    /// let credentials = tenure::Credentials::new(None, "secret");
    /// ```
    #[must_use]
    pub fn new(username: Option<&str>, password: &str) -> Self {
        Self {
            username: username.map(str::to_owned),
            password: password.to_owned(),
            refresh_after: None,
        }
    }

    /// Asks the provider again after this long, at least a second. If it answers with others then, the connection that lives
    /// is authenticated with them.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let token = tenure::Credentials::new(None, "a token").refresh_after(Duration::from_secs(600));
    /// ```
    #[must_use]
    pub fn refresh_after(mut self, span: Duration) -> Self {
        self.refresh_after = Some(span.max(SHORTEST_REFRESH));
        self
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("refresh_after", &self.refresh_after)
            .finish_non_exhaustive()
    }
}

const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
/// A mounted Secret changes within a minute or so; reading two small files costs nothing.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// The future of a [`CredentialsProvider`].
pub type CredentialsFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Credentials, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// Returns the credentials for a connect: for [`ClientBuilder::credentials`](crate::ClientBuilder::credentials).
///
/// It is asked at each connect, of each server, and again after [`Credentials::refresh_after`]; not more often than once a
/// second while a server denies them or the provider fails. An answer that takes longer than the client's response timeout
/// counts as a failure. An asynchronous closure is a provider.
///
/// ```
/// use tenure::Credentials;
///
/// async fn token() -> std::io::Result<Credentials> {
///     // Such as a signed request to the cloud's identity service.
///     Ok(Credentials::new(Some("worker"), "a token").refresh_after(std::time::Duration::from_secs(600)))
/// }
/// let builder = tenure::Client::builder("redis://127.0.0.1").credentials(token);
/// ```
pub trait CredentialsProvider: Send + Sync + 'static {
    /// The credentials to use now.
    ///
    /// # Errors
    /// Whatever keeps it from knowing them. The client logs it, reports that Redis is unreachable, and asks again.
    fn credentials(&self) -> CredentialsFuture<'_>;
}

impl<F, A, E> CredentialsProvider for F
where
    F: Fn() -> A + Send + Sync + 'static,
    A: Future<Output = Result<Credentials, E>> + Send + 'static,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    fn credentials(&self) -> CredentialsFuture<'_> {
        let answer = self();
        Box::pin(async move { answer.await.map_err(Into::into) })
    }
}

/// Credentials in files, such as a mounted Secret: read at each connect, and every 5 seconds.
///
/// ```
/// use tenure::FileCredentials;
///
/// let secret = FileCredentials::new("/etc/redis/password").username_file("/etc/redis/username");
/// let builder = tenure::Client::builder("redis://redis.tenure").credentials(secret);
/// ```
#[derive(Debug, Clone)]
pub struct FileCredentials {
    password: Arc<Path>,
    username: Username,
}

#[derive(Debug, Clone)]
enum Username {
    None,
    Is(Arc<str>),
    In(Arc<Path>),
}

impl FileCredentials {
    /// The file with the password; a line break at its end does not count.
    ///
    /// ```
    /// let secret = tenure::FileCredentials::new("/etc/redis/password");
    /// ```
    pub fn new(password: impl Into<PathBuf>) -> Self {
        Self {
            password: password.into().into(),
            username: Username::None,
        }
    }

    /// The ACL user, which does not change.
    ///
    /// ```
    /// let secret = tenure::FileCredentials::new("/etc/redis/password").username("worker");
    /// ```
    #[must_use]
    pub fn username(mut self, username: &str) -> Self {
        self.username = Username::Is(username.into());
        self
    }

    /// The file with the ACL user; a line break at its end does not count.
    ///
    /// ```
    /// let secret = tenure::FileCredentials::new("/etc/redis/password").username_file("/etc/redis/username");
    /// ```
    #[must_use]
    pub fn username_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.username = Username::In(path.into().into());
        self
    }

    fn read(&self) -> Result<Credentials, String> {
        let username = match &self.username {
            Username::None => None,
            Username::Is(name) => Some(name.to_string()),
            Username::In(path) => Some(read(path)?),
        };
        Ok(Credentials {
            username,
            password: read(&self.password)?,
            refresh_after: Some(READ_AGAIN),
        })
    }
}

impl CredentialsProvider for FileCredentials {
    fn credentials(&self) -> CredentialsFuture<'_> {
        let files = self.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || files.read());
            Ok(read.await??)
        })
    }
}

/// A file's one line.
fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown} cannot be read ({error})"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let shown = format!("{:?}", Credentials::new(Some("worker"), "hunter2"));
        assert!(shown.contains("worker") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_refresh_is_no_more_often_than_once_a_second() {
        let credentials = Credentials::new(None, "x").refresh_after(Duration::ZERO);
        assert_eq!(credentials.refresh_after, Some(SHORTEST_REFRESH));
    }
}
