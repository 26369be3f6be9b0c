//! Finds the master by the answers of a majority of Sentinels.
//!
//! They are asked at every connect, all at once, as in Redis' guidelines for clients of Sentinel; but where those take the
//! first answer, this takes that of the majority: a Sentinel that is cut off together with an old master is outvoted.

use std::{sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::Error;
use crate::transport::{endpoint::Access, explain::explain};

/// The Sentinels of a service.
pub(crate) struct Sentinels {
    /// The name of the service.
    pub(crate) service: String,
    pub(crate) asked: Vec<redis::Client>,
    /// The credentials for the Sentinels themselves.
    pub(crate) own: Access,
    /// The credentials for the master.
    pub(crate) access: Arc<Access>,
    pub(crate) patience: Duration,
}

/// The answer of a Sentinel: host and port, or that it does not know the service.
type Answer = Result<Option<(String, u16)>, Error>;

impl Sentinels {
    pub(crate) async fn master(&self) -> Result<redis::Client, Error> {
        let mut answering: FuturesUnordered<_> = self.asked.iter().map(|one| self.ask(one)).collect();
        let mut answers = Vec::with_capacity(self.asked.len());
        while let Some(answer) = answering.next().await {
            answers.push(answer);
            let votes = most_named(&answers).map_or(0, |(_, votes)| votes);
            if votes * 2 > self.asked.len() {
                break;
            }
        }
        match most_named(&answers) {
            Some(((host, port), _)) => self.access.client_at(host, *port),
            None => Err(self.nobody_knows(answers)),
        }
    }

    async fn ask(&self, sentinel: &redis::Client) -> Answer {
        let (sentinel, _) = self.own.current(sentinel, self.patience).await?;
        let config = self.own.connection(self.patience);
        let answer = async {
            let mut connection = sentinel
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            redis::cmd("SENTINEL")
                .arg("GET-MASTER-ADDR-BY-NAME")
                .arg(&self.service)
                .query_async(&mut connection)
                .await
        };
        answer.await.map_err(|error| explain(&sentinel, &error))
    }

    fn nobody_knows(&self, answers: Vec<Answer>) -> Error {
        let errors: Vec<Error> = answers.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() {
            return Error::invalid(
                "url",
                format!(
                    "names the service {:?}, which none of its Sentinels knows",
                    self.service
                ),
                "use the name that stands behind `sentinel monitor` in their configuration",
            );
        }
        if let Some(refused) = errors.iter().find(|error| !error.is_unreachable()) {
            return refused.clone();
        }
        let reasons: Vec<String> = errors.iter().map(Error::bare).collect();
        Error::Unreachable {
            reason: format!(
                "no Sentinel knows the master of {:?}: {}",
                self.service,
                reasons.join("; ")
            ),
        }
    }
}

/// The address that most of them name, and how many do; of equals the first that was heard.
fn most_named(answers: &[Answer]) -> Option<(&(String, u16), usize)> {
    let named = || answers.iter().flatten().flatten();
    named()
        .map(|address| (address, named().filter(|other| *other == address).count()))
        .reduce(|best, one| if one.1 > best.1 { one } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_cut_off_is_outvoted_and_what_has_no_answer_does_not_count() {
        let silent = "";
        for (said, expected) in [
            (["old", "new", "new"], Some(("new", 2))),
            (["old", "new", silent], Some(("old", 1))),
            ([silent, silent, "new"], Some(("new", 1))),
            ([silent, silent, silent], None),
        ] {
            let answers = said.map(|host| match host {
                "" => Err(super::super::unreachable("one:26379", "no answer")),
                host => Ok(Some((host.to_owned(), 6379))),
            });
            let named = most_named(&answers).map(|((host, _), votes)| (host.as_str(), votes));
            assert_eq!(named, expected, "{said:?}");
        }
        assert_eq!(most_named(&[Ok(None)]), None);
    }
}
