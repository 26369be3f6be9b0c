//! Access: a Redis user of its own for each namespace that is allowed, whose credentials stand in the Secret `tenure-access` of that
//! namespace.
//!
//! | module | contents |
//! |---|---|
//! | [`plan`] | the decisions, as pure functions |
//! | [`secret`] | the Secret, read and rendered |
//! | [`binding`] | its part about the way to Redis |
//! | [`watches`], [`attempts`] | the namespaces and Secrets, and the writes that the watch has not delivered yet |
//! | [`calls`] | the I/O of Redis and of the API server |
//! | [`settings`] | the flags |
//!
//! One task does all of it, again whenever a namespace, a Secret or Redis has changed, and every few seconds: it decides about each
//! namespace, gives each server its users, and then writes the Secrets. While nothing changes it writes nothing.

mod attempts;
mod binding;
mod calls;
mod plan;
pub(crate) mod secret;
mod settings;
#[cfg(test)]
mod tests;
mod watches;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use tenure::control::ServerTenants;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    access::{
        attempts::Attempts,
        plan::{Decision, Facts, Foreign, Reason, Surplus, Write},
        settings::Settings,
        watches::Watches,
    },
    config::{Config, ConfigError},
    events::{self, ObjectEvent},
    failure::Failure,
    http::Health,
    installations::Owner,
    password::{NoRandomness, Password},
    reconcile::Context,
    run::stopped,
    telemetry::OfAccess,
};

/// The users of each server are read at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Secrets that are written before Redis is looked at again, because the API server may hang.
const MOST_WRITES: usize = 16;
/// The name of the check in `/readyz`.
const CHECK: &str = "access";

/// The task.
struct Access {
    settings: Settings,
    context: Arc<Context>,
    health: Arc<Health>,
    watches: Watches,
    surplus: Surplus,
    attempts: Attempts,
    /// New passwords of namespaces whose Secrets are not written yet.
    drafts: BTreeMap<String, Password>,
    /// Namespaces with a Secret that is not the controller's, of which an event was published.
    foreign: BTreeMap<String, Foreign>,
    /// The problems of replicas and of the file with the authorities that the log has.
    reported: BTreeMap<String, String>,
}

/// Starts the task and its watches, if the flags ask for them.
pub(crate) fn start(
    config: &Config,
    (context, health): (&Arc<Context>, &Arc<Health>),
    stop: &watch::Receiver<bool>,
    (parts, background): (&mut JoinSet<&'static str>, &mut JoinSet<&'static str>),
) -> Result<(), ConfigError> {
    let Some(settings) = Settings::of(config)? else {
        return Ok(());
    };
    let (watches, tasks) = Watches::new(&context.client, &config.scopes(), health);
    for task in tasks {
        background.spawn(task);
    }
    let access = Access::new(settings, watches, context.clone(), health.clone());
    parts.spawn(access.run(stop.clone()));
    Ok(())
}

/// The outcome of one pass.
#[derive(Default)]
struct Pass {
    /// Something was written, so that the state has to be looked at again.
    again: bool,
    next: Option<Duration>,
}

impl Access {
    fn new(settings: Settings, watches: Watches, context: Arc<Context>, health: Arc<Health>) -> Self {
        health.bad(CHECK, "the namespaces and Secrets are not listed yet");
        Self {
            settings,
            context,
            health,
            watches,
            surplus: Surplus::default(),
            attempts: Attempts::default(),
            drafts: BTreeMap::new(),
            foreign: BTreeMap::new(),
            reported: BTreeMap::new(),
        }
    }

    /// Runs until the controller stops.
    async fn run(mut self, mut stop: watch::Receiver<bool>) -> &'static str {
        const NAME: &str = "the access of namespaces";
        let changed = self.watches.changed();
        let Ok(events) = self.context.control.events() else {
            return NAME;
        };
        let connections = calls::follow_connections(self.context.control.clone(), events, changed.clone());
        let passes = async {
            self.watches.clone().listed().await;
            loop {
                let pass = self.pass().await;
                let wait = pass.next.map_or(LOOK_EVERY, |next| next.min(LOOK_EVERY));
                if !pass.again {
                    // A change meanwhile is not missed: the notification stays.
                    let _ = tokio::time::timeout(wait, changed.notified()).await;
                }
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => {}
            () = connections => {}
            () = passes => {}
        }
        NAME
    }

    async fn pass(&mut self) -> Pass {
        self.read_authorities().await;
        let allowed = self.watches.allowed(&self.settings.named);
        let mut secrets = self.watches.secrets();
        self.attempts.bring_up_to_date(&mut secrets, Instant::now());
        let mut pass = Pass::default();
        let gone = self.gone(&secrets).await;
        let decisions = match self.decide(&allowed, (&secrets, &gone), &mut pass) {
            Ok(decisions) => decisions,
            Err(error) => {
                // Without a decision, a namespace would lose its user.
                let message = error.to_string();
                self.report_health(Some(Problem {
                    message,
                    is_away: false,
                }));
                return pass;
            }
        };
        let problem = self.give_users(&decisions, &mut pass).await;
        self.report_foreign(&decisions);
        let mut writes = Vec::new();
        for (namespace, decision) in decisions {
            match decision.write {
                // A pod would be refused with a password that Redis does not have.
                Some(Write::Apply(..)) if problem.is_some() => {}
                Some(write) => {
                    let found = secrets.remove(&namespace);
                    writes.push((namespace, write, found));
                }
                None => {}
            }
        }
        pass.again |= !writes.is_empty();
        self.write_secrets(writes).await;
        self.report_health(problem);
        pass
    }

    /// The installations that have kept a Secret, and are gone.
    async fn gone(&self, secrets: &BTreeMap<String, Secret>) -> BTreeSet<String> {
        let installations = &self.context.installations;
        let mut gone = BTreeSet::new();
        for other in secrets.values().filter_map(secret::installation) {
            if installations.is_another(Some(other)) && installations.find(other).await == Owner::Gone {
                gone.insert(other.to_owned());
            }
        }
        gone
    }

    /// Decides about each namespace.
    fn decide(
        &mut self,
        allowed: &BTreeSet<String>,
        (secrets, gone): (&BTreeMap<String, Secret>, &BTreeSet<String>),
        pass: &mut Pass,
    ) -> Result<BTreeMap<String, Decision>, NoRandomness> {
        let (now, instant) = (Timestamp::now(), Instant::now());
        let mut decisions = BTreeMap::new();
        let mut writes = 0;
        for namespace in allowed.iter().chain(secrets.keys()) {
            if decisions.contains_key(namespace) {
                continue;
            }
            let facts = Facts {
                namespace,
                allowed: allowed.contains(namespace),
                secret: secrets.get(namespace),
                now,
                ages: self.settings.ages,
                binding: &self.settings.binding,
                installation: self.context.installations.own(),
                gone,
            };
            let drafts = &mut self.drafts;
            let mut decision = plan::decide(&facts, || draft(drafts, namespace))?;
            pass.until(decision.next, now);
            if decision.write.is_none() {
                drafts.remove(namespace);
            } else if let Some(wait) = self.attempts.waits(namespace, instant) {
                // Without the write, the passwords are those that are valid already.
                decision.write = None;
                pass.after(wait);
            } else if writes == MOST_WRITES {
                decision.write = None;
                pass.again = true;
            } else {
                writes += 1;
            }
            decisions.insert(namespace.clone(), decision);
        }
        self.drafts
            .retain(|namespace, _| decisions.contains_key(namespace));
        Ok(decisions)
    }

    /// Gives each server its users. Returns why a master does not have them.
    async fn give_users(
        &mut self,
        decisions: &BTreeMap<String, Decision>,
        pass: &mut Pass,
    ) -> Option<Problem> {
        let context = self.context.clone();
        let mut wanted = BTreeMap::new();
        for (namespace, decision) in decisions {
            let passwords = match &decision.write {
                Some(Write::Apply(_, _, passwords)) => Some(passwords),
                _ => decision.passwords.as_ref(),
            };
            wanted.extend(passwords.map(|passwords| (namespace.clone(), passwords.clone())));
        }
        context
            .metrics
            .access_tenants
            .set(i64::try_from(wanted.len()).unwrap_or(i64::MAX));
        let servers = match context.control.tenants().await {
            Ok(servers) => servers,
            Err(error) => return Some(self.failed_at_redis(&error)),
        };
        let watches = &self.watches;
        let is_of_others = |namespace: &str| {
            let decision = decisions.get(namespace);
            !watches.is_watched(namespace) || decision.is_some_and(|decision| decision.is_of_another)
        };
        let users = self.surplus.plan(&wanted, &servers, is_of_others, Instant::now());
        if users.waits {
            pass.after(plan::SURPLUS_FOR);
        }
        for namespace in &users.remove {
            tracing::info!(namespace, "removing the Redis user of the namespace");
        }
        if !users.set.is_empty() {
            tracing::info!(
                users = users.set.len(),
                "making or changing Redis users of namespaces"
            );
        }
        let outcomes = calls::change_users(&context.control, users).await;
        context.metrics.access_user_writes.inc_by(outcomes.len() as u64);
        self.report_servers(&servers);
        let (answered, failed): (Vec<_>, Vec<_>) = servers
            .into_iter()
            .filter(|server| !server.is_replica)
            .partition(|server| server.users.is_ok());
        let listed = failed.into_iter().filter_map(|server| server.users.err());
        let failed = listed.chain(outcomes.into_iter().filter_map(Result::err));
        // A refusal needs an action, and comes first.
        let error = failed.min_by_key(tenure::Error::is_unreachable)?;
        let problem = self.failed_at_redis(&error);
        Some(Problem {
            is_away: problem.is_away && !answered.is_empty(),
            ..problem
        })
    }

    fn failed_at_redis(&self, error: &tenure::Error) -> Problem {
        let is_away = error.is_unreachable();
        self.count(if is_away {
            "redis_unreachable"
        } else {
            "redis_refused"
        });
        let message = match error {
            tenure::Error::Refused { reason } => format!(
                "Redis refuses what gives namespaces their users: {reason}; the rights for --access are \
                 +acl|list +acl|setuser +acl|deluser"
            ),
            other => other.to_string(),
        };
        Problem { message, is_away }
    }

    /// Logs what a replica answers, when that changes: it needs the users only once it is promoted.
    fn report_servers(&mut self, servers: &[ServerTenants]) {
        let replicas = servers.iter().filter(|server| server.is_replica);
        for ServerTenants { server, users, .. } in replicas {
            let key = format!("replica {server}");
            match users {
                Ok(_) => drop(self.reported.remove(&key)),
                Err(error) => {
                    let error = error.to_string();
                    if self.reported.get(&key) != Some(&error) {
                        tracing::warn!(
                            server,
                            error,
                            "a replica does not get the users of namespaces, trying again"
                        );
                        self.reported.insert(key, error);
                    }
                }
            }
        }
    }

    fn report_foreign(&mut self, decisions: &BTreeMap<String, Decision>) {
        let foreign = decisions.iter().filter_map(|(namespace, decision)| {
            let foreign = decision.foreign.clone()?;
            Some((namespace.clone(), foreign))
        });
        let foreign: BTreeMap<String, Foreign> = foreign.collect();
        for (namespace, foreign) in &foreign {
            if self.foreign.get(namespace) == Some(foreign) {
                continue;
            }
            let event = match foreign {
                Foreign::Program => {
                    tracing::warn!(
                        namespace,
                        "the namespace gets no access: its Secret tenure-access was not made by Tenure, and is left alone; delete or \
                         rename it"
                    );
                    ObjectEvent::AccessForeign
                }
                Foreign::Installation(other) => {
                    tracing::warn!(
                        namespace,
                        other,
                        "the namespace has its access from another installation, whose Secret tenure-access is left alone"
                    );
                    ObjectEvent::AccessOfAnother { other: other.clone() }
                }
            };
            self.publish(namespace, event);
        }
        self.foreign = foreign;
    }

    async fn write_secrets(&mut self, writes: Vec<(String, Write, Option<Secret>)>) {
        for (namespace, write, outcome) in calls::write_secrets(&self.context.client, writes).await {
            match outcome {
                Ok(written) => self.written(&namespace, &write, written),
                Err(failure) => self.failed(&namespace, &failure),
            }
        }
    }

    fn written(&mut self, namespace: &str, write: &Write, written: Option<Secret>) {
        self.context.metrics.access_secret_writes.inc();
        let (what, event) = match write {
            Write::Apply(_, Reason::New, _) => ("made", Some(ObjectEvent::AccessGranted)),
            Write::Apply(_, Reason::Rotated, _) => {
                self.context.metrics.access_rotations.inc();
                ("rotated", Some(ObjectEvent::AccessRotated))
            }
            Write::Apply(_, Reason::Changed, _) => ("changed", None),
            Write::Delete => ("deleted", Some(ObjectEvent::AccessRemoved)),
        };
        tracing::info!(namespace, what, "wrote the Secret tenure-access");
        self.drafts.remove(namespace);
        let before = self.watches.version_of(namespace);
        self.attempts.written(namespace, before, written);
        // A namespace that is being deleted takes no event.
        if let Some(event) = event.filter(|_| self.watches.is_active(namespace)) {
            self.publish(namespace, event);
        }
    }

    fn failed(&mut self, namespace: &str, failure: &Failure) {
        let is_new = self.attempts.failed(namespace, failure, Instant::now());
        if failure.is_outdated() || failure.is_not_found() {
            tracing::debug!(namespace, error = %failure, "the Secret tenure-access has changed meanwhile");
            return;
        }
        self.count(failure.class());
        if is_new {
            tracing::warn!(namespace, error = %failure, "the Secret tenure-access cannot be written, trying again");
            let error = failure.to_string();
            self.publish(namespace, ObjectEvent::AccessFailed { error });
        }
    }

    fn count(&self, class: &'static str) {
        let failures = &self.context.metrics.access_failures;
        failures.get_or_create(&OfAccess { class }).inc();
    }

    /// Reads the authorities again: the file changes when they do.
    async fn read_authorities(&mut self) {
        let Some(path) = self.settings.ca_file.clone() else {
            return;
        };
        match tokio::fs::read_to_string(&path).await {
            Ok(text) => {
                self.settings.binding.ca = Some(text);
                self.reported.remove("--redis-ca-file");
            }
            Err(error) => {
                let error = error.to_string();
                if self.reported.get("--redis-ca-file") != Some(&error) {
                    tracing::warn!(path = %path.display(), error, "the certificate authorities of Redis cannot be read, trying again");
                    self.reported.insert("--redis-ca-file".to_owned(), error);
                }
            }
        }
    }

    fn report_health(&self, problem: Option<Problem>) {
        let mut remark = String::new();
        let mut bad = None;
        if let Some(failing) = self.attempts.failing() {
            // Such as the quota of one namespace: the others have their access.
            let message = if failing.lacks_permission {
                bad.insert(String::new())
            } else {
                &mut remark
            };
            *message = failing.message;
        }
        match problem {
            // Such as one shard of a cluster: the others are served.
            Some(problem) if problem.is_away => remark = problem.message,
            Some(problem) => bad = Some(problem.message),
            None => {}
        }
        let Some(problem) = bad else {
            return self.health.well(CHECK, &remark);
        };
        if self.health.bad(CHECK, &problem) {
            tracing::warn!(problem, "namespaces do not get their access, trying again");
        }
    }

    /// Publishes an event about the Secret of a namespace. Nothing waits for it.
    fn publish(&self, namespace: &str, event: ObjectEvent) {
        let regarding = events::reference("v1", "Secret", Some(namespace), secret::NAME);
        let context = self.context.clone();
        tokio::spawn(async move { context.events.publish(&regarding, &event).await });
    }
}

/// The new password of a namespace, which stays the same until it is written.
fn draft(drafts: &mut BTreeMap<String, Password>, namespace: &str) -> Result<Password, NoRandomness> {
    if let Some(known) = drafts.get(namespace) {
        return Ok(known.clone());
    }
    let password = Password::random()?;
    drafts.insert(namespace.to_owned(), password.clone());
    Ok(password)
}

/// Why a master does not have its users.
struct Problem {
    message: String,
    /// The master does not answer, and others do.
    is_away: bool,
}

impl Pass {
    fn after(&mut self, span: Duration) {
        self.next = Some(self.next.map_or(span, |next| next.min(span)));
    }

    fn until(&mut self, at: Option<Timestamp>, now: Timestamp) {
        let span = at.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        if let Some(span) = span {
            self.after(span);
        }
    }
}
