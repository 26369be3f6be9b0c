//! Lists for people and their tools: the objects of a namespace, the requests of an object's waiters, and the state of the servers.

use std::collections::BTreeMap;

use crate::{
    Control, Error, ObjectRef,
    protocol::{calls::Observe, name::check_namespace, selector},
    transport::all_servers::ServerAnswer,
};

/// The resources that a waiter requests of a pool. Made by [`Control::requests`].
///
/// ```
/// let any = tenure::control::WaiterRequest::default();
/// assert!(any.resources.is_empty() && any.properties.is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaiterRequest {
    /// The names of the resources, all of which it requests; empty: it names none.
    pub resources: Vec<String>,
    /// The properties that a resource must have; empty: any.
    pub properties: BTreeMap<String, String>,
}

/// The `INFO` of one server. Made by [`Control::server_fields`].
///
/// ```
/// # fn show(server: tenure::control::ServerFields) {
/// if let Ok(fields) = server.fields {
///     println!("{}: {:?}", server.server, fields.get("maxmemory_policy"));
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerFields {
    /// Host and port; of a master behind Sentinels, the name of their service.
    pub server: String,
    /// It is a replica.
    pub is_replica: bool,
    /// The fields by name, or the error of the server.
    pub fields: Result<BTreeMap<String, String>, Error>,
}

/// The waiters that one command lists.
const PAGE: usize = 200;

impl Control {
    /// Returns the requests of a pool's waiters that name resources or properties, by the waiters' tokens: those of at most `head`
    /// waiters from the head of the queue. One command for each 200.
    ///
    /// # Errors
    /// As [`Control::look`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control, seats: tenure::ObjectRef) -> Result<(), tenure::Error> {
    /// let requests = control.requests(&seats, 100).await?;
    /// for waiter in control.look(&seats, 100).await?.into_iter().flat_map(|seen| seen.waiters) {
    ///     println!("{} requests {:?}", waiter.holder, requests.get(&waiter.token));
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn requests(
        &self,
        object: &ObjectRef,
        head: usize,
    ) -> Result<BTreeMap<String, WaiterRequest>, Error> {
        let mut requests = BTreeMap::new();
        let mut skip = 0;
        while skip < head {
            let observe = Observe {
                count: PAGE.min(head - skip),
                watch: false,
                skip,
            };
            let Some(observed) = self.call(&observe, object).await? else {
                break;
            };
            let is_full = observed.waiters.len() >= PAGE;
            for waiter in observed.waiters {
                let request = request_in(&waiter.entry);
                if request != WaiterRequest::default() {
                    requests.insert(waiter.token, request);
                }
            }
            if !is_full {
                break;
            }
            skip += PAGE;
        }
        Ok(requests)
    }

    /// Returns the fields of `INFO`, of each server: of a cluster all masters and replicas, else the master and the replicas that it
    /// names. Two commands a master, and one a replica.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the servers are not known. The error of one server is in its entry.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control) -> Result<(), tenure::Error> {
    /// let servers = control.server_fields().await?;
    /// # Ok(()) }
    /// ```
    pub async fn server_fields(&self) -> Result<Vec<ServerFields>, Error> {
        let answers = self.session.link.send_to_all(&redis::cmd("INFO")).await?;
        let read = |answer: ServerAnswer| ServerFields {
            server: answer.server,
            is_replica: answer.is_replica,
            fields: answer
                .reply
                .and_then(|reply| redis::from_redis_value::<String>(reply).map_err(Error::protocol))
                .map(|text| fields_in(&text)),
        };
        Ok(answers.into_iter().map(read).collect())
    }

    /// Returns the objects of a namespace that Redis has, by namespace, kind and name; no registers. An object that is not declared
    /// exists while it is held or waited for.
    ///
    /// It reads the names of all keys of each master, a thousand with each command, so that it is for people and their tools. It
    /// needs the right to `SCAN`, which shows the names of other namespaces, too: the user of a namespace does not have it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] on the namespace, [`Error::Refused`] without the right, [`Error::Unreachable`].
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control) -> Result<(), tenure::Error> {
    /// for object in control.objects("ml").await? {
    ///     println!("{object}");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn objects(&self, namespace: &str) -> Result<Vec<ObjectRef>, Error> {
        check_namespace(namespace)?;
        let before = format!("{}:{{", self.session.prefix);
        let pattern = format!("{before}{namespace}/*}}:obj");
        let keys = self.session.link.scan(&pattern).await?;
        let mut objects: Vec<_> = keys.iter().filter_map(|key| object_in(key, &before)).collect();
        objects.sort();
        objects.dedup();
        Ok(objects)
    }
}

fn fields_in(info: &str) -> BTreeMap<String, String> {
    let fields = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    fields
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn object_in(key: &str, before: &str) -> Option<ObjectRef> {
    ObjectRef::parse(key.strip_prefix(before)?.strip_suffix("}:obj")?)
}

/// The names of an entry of a pool's queue are its selector: see the head of `lua/lib/object.lua`.
fn request_in(entry: &str) -> WaiterRequest {
    let (resources, properties) = selector::read(entry.split(' ').nth(7).unwrap_or_default());
    WaiterRequest {
        resources,
        properties,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_what_it_requests_of_a_pool() {
        let request = |selector: &str| request_in(&format!("2 30000 10000 0 0 17 chan {selector} {{}}"));
        assert_eq!(request("=a,b").resources, ["a", "b"]);
        assert_eq!(request("?zone=b%20c").properties["zone"], "b c");
        for other in ["-", "~a"] {
            assert_eq!(request(other), WaiterRequest::default(), "{other}");
        }
        assert_eq!(request_in("damaged"), WaiterRequest::default());
    }

    #[test]
    fn fields_are_those_of_info() {
        let fields = fields_in("# Memory\r\nmaxmemory:0\r\nexecutable:C:/redis\r\n");
        assert_eq!((&*fields["maxmemory"], &*fields["executable"]), ("0", "C:/redis"));
        assert_eq!(fields.len(), 2);
    }

    #[test]
    fn a_key_reads_as_the_object_whose_it_is() {
        let object = |key| object_in(key, "tenure:{").map(|object| object.to_string());
        assert_eq!(object("tenure:{ml/lock/a/b}:obj").as_deref(), Some("ml/lock/a/b"));
        for other in [
            "tenure:{ml/cow/a}:obj",
            "tenure:{ml/lock/a}:queue",
            "other:{ml/lock/a}:obj",
        ] {
            assert_eq!(object(other), None, "{other}");
        }
    }
}
