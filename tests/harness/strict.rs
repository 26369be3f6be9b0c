//! Refuses what managed services refuse. A [`Proxy`](crate::Proxy) that is strict has these rules.
//!
//! A refused request becomes one that the server itself refuses, so that its reply comes in turn: a command that does not
//! exist, or a version of the protocol that does not.

use std::env;

use anyhow::{Context, bail};

use crate::Result;

/// The most keys that a call of the library has on one server: those of a hundred objects that are renewed together. In a cluster
/// such a call has more for each object, but only the objects of one slot.
pub const MOST_KEYS: usize = 100;

/// The features that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
pub struct Strict {
    /// Refuses `CONFIG`.
    pub config: bool,
    /// Refuses `SCRIPT KILL`.
    pub script_kill: bool,
    /// Refuses `CLIENT KILL`.
    pub client_kill: bool,
    /// Refuses `HELLO 3`.
    pub resp3: bool,
    /// Takes `run_id` out of the reply to `INFO`.
    pub run_id: bool,
    /// Refuses calls of scripts with more keys.
    pub keys: Option<usize>,
}

impl Strict {
    /// Refuses nothing.
    pub const NOTHING: Self = Self {
        config: false,
        script_kill: false,
        client_kill: false,
        resp3: false,
        run_id: false,
        keys: None,
    };
    /// Refuses all that the library does without.
    pub const NEEDLESS: Self = Self {
        config: true,
        script_kill: true,
        client_kill: true,
        keys: Some(MOST_KEYS),
        ..Self::NOTHING
    };

    /// The rules that `TENURE_TEST_STRICT` names: `1` all that the library does without, or some of `config`, `script-kill`,
    /// `client-kill`, `resp3`, `run-id` and `keys=N`, with commas in between. `None` if it is not set.
    pub fn of_environment() -> Result<Option<Self>> {
        match env::var("TENURE_TEST_STRICT") {
            Ok(text) => Self::parse(&text).map(Some).context("TENURE_TEST_STRICT"),
            Err(_) => Ok(None),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        if text == "1" {
            return Ok(Self::NEEDLESS);
        }
        let mut strict = Self::NOTHING;
        for name in text.split(',') {
            match name {
                "config" => strict.config = true,
                "script-kill" => strict.script_kill = true,
                "client-kill" => strict.client_kill = true,
                "resp3" => strict.resp3 = true,
                "run-id" => strict.run_id = true,
                _ => match name.strip_prefix("keys=") {
                    Some(most) => strict.keys = Some(most.parse().context("keys=N needs a number")?),
                    None => bail!("{name:?} is no feature that can be refused"),
                },
            }
        }
        Ok(strict)
    }

    /// The request in place of this one, if it is refused.
    pub(crate) fn request(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut words = request.split(|byte| *byte == b'\n').skip(2).step_by(2);
        let mut word = || {
            String::from_utf8_lossy(words.next().unwrap_or_default())
                .trim()
                .to_ascii_uppercase()
        };
        let name = word();
        let refused = match name.as_str() {
            "CONFIG" => self.config.then(|| name.clone()),
            "SCRIPT" if self.script_kill => (word() == "KILL").then(|| "SCRIPT|KILL".to_owned()),
            "CLIENT" if self.client_kill => (word() == "KILL").then(|| "CLIENT|KILL".to_owned()),
            "HELLO" if self.resp3 && word() == "3" => {
                return Some(b"*2\r\n$5\r\nHELLO\r\n$1\r\n9\r\n".to_vec());
            }
            "EVALSHA" | "EVAL" => {
                let _script = word();
                let keys = word().parse().unwrap_or(0);
                self.keys
                    .filter(|most| keys > *most)
                    .map(|most| format!("{keys}-KEYS-ARE-MORE-THAN-{most}"))
            }
            _ => None,
        };
        refused.map(|name| {
            let name = format!("REFUSED|{name}");
            format!("*1\r\n${}\r\n{name}\r\n", name.len()).into_bytes()
        })
    }

    /// The reply in place of this one, if something is taken out of it.
    pub(crate) fn reply(&self, reply: &[u8]) -> Option<Vec<u8>> {
        if !self.run_id || !matches!(reply.first(), Some(b'$' | b'=')) {
            return None;
        }
        let text = String::from_utf8_lossy(reply);
        let (_, body) = text.strip_suffix("\r\n")?.split_once("\r\n")?;
        let (before, rest) = body.split_once("\r\nrun_id:")?;
        let (_, after) = rest.split_once("\r\n")?;
        let body = format!("{before}\r\n{after}");
        Some(format!("{}{}\r\n{body}\r\n", char::from(reply[0]), body.len()).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> Vec<u8> {
        let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let words: Vec<_> = words.collect();
        format!("*{}\r\n{}", words.len(), words.concat()).into_bytes()
    }

    #[test]
    fn each_switch_refuses_its_command_and_no_other() {
        let keys = |count: &str| request(&["evalsha", "0a", count, "k1", "k2", "k3"]);
        let all = [
            ("config", request(&["CONFIG", "GET", "dir"])),
            ("script-kill", request(&["script", "kill"])),
            ("client-kill", request(&["CLIENT", "KILL", "ID", "7"])),
            ("resp3", request(&["HELLO", "3", "SETNAME", "x"])),
            ("keys=2", keys("3")),
        ];
        for (switch, _) in &all {
            let strict = Strict::parse(switch).unwrap();
            for (other, refused) in &all {
                assert_eq!(
                    strict.request(refused).is_some(),
                    switch == other,
                    "{switch}: {other}"
                );
            }
            for passed in [
                request(&["SCRIPT", "LOAD", "return 1"]),
                request(&["CLIENT", "ID"]),
                request(&["HELLO", "2"]),
                keys("2"),
            ] {
                assert_eq!(strict.request(&passed), None, "{switch}");
            }
        }
        assert!(Strict::parse("everything").is_err() && Strict::parse("keys=some").is_err());
    }

    #[test]
    fn the_run_id_is_taken_out_of_the_reply_to_info_alone() {
        let strict = Strict::parse("run-id").unwrap();
        let info = b"=48\r\ntxt:# Server\r\nrun_id:abc\r\nredis_version:7.0.15\r\n\r\n";
        let expected = b"=36\r\ntxt:# Server\r\nredis_version:7.0.15\r\n\r\n";
        let cut = strict.reply(info).unwrap();
        assert_eq!(String::from_utf8(cut).unwrap().as_bytes(), expected);
        assert_eq!(strict.reply(b"$6\r\nrun_id\r\n"), None);
        assert_eq!(Strict::NEEDLESS.reply(info), None);
    }
}
