//! The Redis users of namespaces, on each server: masters and replicas.
//!
//! Redis neither replicates users nor, without an ACL file, keeps them over a restart. They are derived state: a controller
//! compares [`Control::tenants`] with what it wants, and repeats [`Control::set_tenant`] and [`Control::remove_tenant`].

use std::collections::{BTreeMap, BTreeSet};

use redis::{Cmd, Value};

use crate::{Control, Error, control::acl, transport::all_servers::ServerAnswer};

/// The users of namespaces that one server has.
///
/// ```no_run
/// # async fn run(control: tenure::Control) -> Result<(), tenure::Error> {
/// for server in control.tenants().await? {
///     match server.users {
///         Ok(users) => println!("{} has {} users", server.server, users.len()),
///         Err(error) => println!("{error}"),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTenants {
    /// Host and port; of a master behind Sentinels, the name of their service.
    pub server: String,
    /// Clients connect to a replica once it is promoted.
    pub is_replica: bool,
    /// The users by namespace, or why the server did not list them.
    pub users: Result<BTreeMap<String, TenantUser>, Error>,
}

/// The Redis user of a namespace, as a server has it.
///
/// ```
/// let user = tenure::control::TenantUser::default();
/// assert!(user.passwords.is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantUser {
    /// The SHA-256 of each valid password, in hexadecimal digits.
    pub passwords: BTreeSet<String>,
    /// The user is on and has the rules of [`acl::tenant_rules`], no more and no fewer.
    pub has_rules: bool,
}

/// The parts of a line of `ACL LIST` that neither give nor take a right of Tenure's users.
const NEUTRAL: [&str; 4] = ["sanitize-payload", "resetchannels", "-@all", "alldbs"];

impl Control {
    /// Returns the users of namespaces under the client's key prefix, of each server: of a cluster all masters and replicas, else the
    /// master and the replicas that it names. Two commands a master, and one a replica.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the servers are not known. The error of one server is in its entry.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control) -> Result<(), tenure::Error> {
    /// let servers = control.tenants().await?;
    /// # Ok(()) }
    /// ```
    pub async fn tenants(&self) -> Result<Vec<ServerTenants>, Error> {
        let prefix = &self.session.prefix;
        let answers = self.session.link.send_to_all(&command(["LIST"])).await?;
        let read = |answer: ServerAnswer| ServerTenants {
            server: answer.server,
            is_replica: answer.is_replica,
            users: lines(answer.reply).map(|lines| {
                lines
                    .iter()
                    .filter_map(|line| user_in(prefix, |namespace| self.rules(namespace).ok(), line))
                    .collect()
            }),
        };
        Ok(answers.into_iter().map(read).collect())
    }

    /// Makes the user of a namespace, [`acl::tenant_user`], or changes it to the rules of [`acl::tenant_rules`] (in a cluster of
    /// [`acl::cluster_tenant_rules`]) and to these passwords, each of which is given by its SHA-256 in hexadecimal digits. Connections
    /// of the user stay. Two commands a master, and one a replica.
    ///
    /// # Errors
    /// [`Error::InvalidInput`]; else the error of the first master that has not done it. A replica that has not is in
    /// [`Control::tenants`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves open which servers have done it; it may be repeated.
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control) -> Result<(), tenure::Error> {
    /// let of_secret = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    /// control.set_tenant("team-a", [of_secret]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn set_tenant<S: AsRef<str>>(
        &self,
        namespace: &str,
        passwords: impl IntoIterator<Item = S>,
    ) -> Result<(), Error> {
        let prefix = &self.session.prefix;
        let mut words = vec!["SETUSER".to_owned(), acl::tenant_user(prefix, namespace)?];
        words.extend(["reset", "on"].map(str::to_owned));
        for password in passwords {
            let password = password.as_ref();
            check_hash(password)?;
            words.push(format!("#{password}"));
        }
        words.extend(self.rules(namespace)?);
        self.change_users(&command(words)).await
    }

    /// Removes the user of a namespace. Redis ends the connections of the user. Two commands a master, and one a
    /// replica.
    ///
    /// # Errors
    /// As [`Control::set_tenant`].
    ///
    /// # Cancel safety
    /// As [`Control::set_tenant`].
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control) -> Result<(), tenure::Error> {
    /// control.remove_tenant("team-a").await?;
    /// # Ok(()) }
    /// ```
    pub async fn remove_tenant(&self, namespace: &str) -> Result<(), Error> {
        let user = acl::tenant_user(&self.session.prefix, namespace)?;
        self.change_users(&command(["DELUSER", &user])).await
    }

    /// Gives a user these passwords and no others, each by its SHA-256 in hexadecimal digits, on each server that differs. The rules of the
    /// user and its connections stay. A controller replaces its own password so: it needs the rules of [`acl::access_rules`]. Returns
    /// whether a server differed. Two commands a master and one a replica, and as many again if one differs.
    ///
    /// # Errors
    /// As [`Control::set_tenant`]; [`Error::InvalidInput`] too if there is no password, because the user could not log in any more.
    ///
    /// # Cancel safety
    /// As [`Control::set_tenant`].
    ///
    /// ```no_run
    /// # async fn run(control: tenure::Control) -> Result<(), tenure::Error> {
    /// let of_secret = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    /// control.set_passwords("tenure-controller", &[of_secret]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn set_passwords<S: AsRef<str>>(&self, user: &str, passwords: &[S]) -> Result<bool, Error> {
        let wanted: BTreeSet<&str> = passwords.iter().map(AsRef::as_ref).collect();
        if user.is_empty() || user.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::invalid(
                "user",
                "is no name of a Redis user",
                "give a name without spaces",
            ));
        }
        if wanted.is_empty() {
            return Err(Error::invalid(
                "passwords",
                "is empty",
                "give at least one password",
            ));
        }
        for password in &wanted {
            check_hash(password)?;
        }
        let listed = self.session.link.send_to_all(&command(["LIST"])).await?;
        let mut differs = false;
        for answer in listed {
            match lines(answer.reply) {
                Ok(lines) => {
                    differs |= lines
                        .iter()
                        .find_map(|line| passwords_in(user, line))
                        .is_none_or(|has| has != wanted);
                }
                Err(error) if !answer.is_replica => return Err(error),
                Err(_) => {}
            }
        }
        if differs {
            let hashes = wanted.iter().map(|password| format!("#{password}"));
            let words = ["SETUSER", user, "resetpass"]
                .map(str::to_owned)
                .into_iter()
                .chain(hashes);
            self.change_users(&command(words)).await?;
        }
        Ok(differs)
    }

    /// The rules of a namespace's user on these servers, with this URL.
    fn rules(&self, namespace: &str) -> Result<Vec<String>, Error> {
        let (link, prefix) = (&self.session.link, &self.session.prefix);
        let mut rules = if link.is_cluster() {
            acl::cluster_tenant_rules(prefix, namespace)
        } else {
            acl::tenant_rules(prefix, namespace)
        }?;
        if link.database() != 0 {
            rules.push("+select".to_owned());
        }
        Ok(rules)
    }

    async fn change_users(&self, command: &Cmd) -> Result<(), Error> {
        let answers = self.session.link.send_to_all(command).await?;
        let mut masters = answers.into_iter().filter(|answer| !answer.is_replica);
        masters.try_for_each(|answer| answer.reply.map(drop))
    }
}

fn command<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Cmd {
    let mut command = redis::cmd("ACL");
    for word in words {
        command.arg(word.as_ref());
    }
    command
}

/// The lines of `ACL LIST`.
fn lines(reply: Result<Value, Error>) -> Result<Vec<String>, Error> {
    redis::from_redis_value(reply?).map_err(Error::protocol)
}

fn check_hash(password: &str) -> Result<(), Error> {
    let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if password.len() == 64 && password.bytes().all(is_digit) {
        return Ok(());
    }
    Err(Error::invalid(
        "passwords",
        format!("has a text of {} characters", password.chars().count()),
        "give the SHA-256 of each password in 64 lower-case hexadecimal digits",
    ))
}

/// Reads the passwords in a line of `ACL LIST`. `None`: the line is about another user. A user without a password has
/// `nopass` in their place, which equals no SHA-256.
fn passwords_in<'a>(user: &str, line: &'a str) -> Option<BTreeSet<&'a str>> {
    let mut words = line.split_whitespace();
    let is_of_user = words.next()? == "user" && words.next()? == user;
    let password = |word: &'a str| word.strip_prefix('#').or((word == "nopass").then_some(word));
    is_of_user.then(|| words.filter_map(password).collect())
}

/// Reads a line of `ACL LIST`. `None`: the user is not one of a namespace under the prefix.
fn user_in(
    prefix: &str,
    rules: impl Fn(&str) -> Option<Vec<String>>,
    line: &str,
) -> Option<(String, TenantUser)> {
    let mut words = line.split_whitespace();
    let ("user", name) = (words.next()?, words.next()?) else {
        return None;
    };
    let namespace = name.strip_prefix(prefix)?.strip_prefix('.')?;
    let rules = rules(namespace)?;
    let (passwords, others): (Vec<&str>, Vec<&str>) = words.partition(|word| word.starts_with('#'));
    let passwords = passwords.iter().map(|word| word[1..].to_owned()).collect();
    let others: BTreeSet<&str> = others
        .into_iter()
        .filter(|word| !NEUTRAL.contains(word))
        .collect();
    let wanted: BTreeSet<&str> = rules.iter().map(String::as_str).chain(["on"]).collect();
    let user = TenantUser {
        passwords,
        has_rules: others == wanted,
    };
    Some((namespace.to_owned(), user))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(namespace: &str) -> Option<Vec<String>> {
        acl::tenant_rules("tenure", namespace).ok()
    }

    fn line(name: &str, words: &[&str]) -> String {
        let rules = rules("team-a").unwrap();
        let words: Vec<&str> = words
            .iter()
            .copied()
            .chain(rules.iter().map(String::as_str))
            .collect();
        format!("user {name} {}", words.join(" "))
    }

    #[test]
    fn a_user_is_read_from_its_line() {
        let [one, two] = ["1", "2"].map(|digit| digit.repeat(64));
        let hashes = [format!("#{one}"), format!("#{two}")];
        let neutral = "sanitize-payload resetchannels -@all";
        let usual = line("tenure.team-a", &["on", &hashes[0], &hashes[1], neutral]);
        let (namespace, user) = user_in("tenure", rules, &usual).unwrap();
        assert_eq!(namespace, "team-a");
        assert_eq!(user.passwords, BTreeSet::from([one, two]));
        assert!(user.has_rules);
        for changed in [
            line("tenure.team-a", &["off"]),
            line("tenure.team-a", &["on", "nopass"]),
            line("tenure.team-a", &["on", "+keys"]),
            line("tenure.team-a", &["on", "~*"]),
            line("tenure.team-a", &["on", "(~x", "+get)"]),
            usual.replace(" +hget ", " "),
        ] {
            assert!(
                !user_in("tenure", rules, &changed).unwrap().1.has_rules,
                "{changed}"
            );
        }
    }

    #[test]
    fn the_passwords_of_a_user_are_read_from_its_line() {
        let line = "user tenure-controller on sanitize-payload #12 #34 ~tenure:{* +info";
        assert_eq!(
            passwords_in("tenure-controller", line),
            Some(BTreeSet::from(["12", "34"]))
        );
        assert_eq!(passwords_in("tenure", line), None);
        let open = "user tenure-controller on nopass ~* +@all";
        assert_eq!(
            passwords_in("tenure-controller", open),
            Some(BTreeSet::from(["nopass"]))
        );
    }

    #[test]
    fn users_of_others_are_left_alone() {
        for name in [
            "default",
            "tenure",
            "tenure-controller",
            "tenure.",
            "tenure.a.b",
            "tenure.Team",
            "x.team-a",
        ] {
            assert_eq!(user_in("tenure", rules, &line(name, &["on"])), None, "{name}");
        }
        assert_eq!(user_in("tenure", rules, ""), None);
    }
}
