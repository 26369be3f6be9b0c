//! Takes over a lease that another process, or this one, has let go of.
//!
//! [`Lease::detach`] returns the secret of the lease. One command shows it to the server and moves the lease to a token of the
//! adopter's own: so of many who have the secret, one gets the lease, and what is sent again finds it moved already. Until
//! the answer is there the adopter's token is guarded like that of an acquisition: should the future be dropped, or no
//! answer come, what the token may have got is given back.

use crate::{
    Error, Lease,
    lease::{acquire::Handle, hold::Request, machine::request::Event},
    protocol::{
        calls::{Adopt, Adopted},
        secret::Secret,
    },
    transport::later,
};

impl Handle {
    pub(crate) async fn adopt(&self, secret: &str) -> Result<Option<Lease>, Error> {
        let secret = Secret::read(secret)
            .ok_or_else(|| Error::invalid("secret", "is not a lease's", "use what Lease::detach returned"))?;
        let request = self.request(1)?;
        let cause = format!("adopted by {}", self.who());
        let mut claim = self.claim();
        // A lease that ends before it is returned must be noticed.
        let _events = claim.enter_token();
        let link = &self.session.link;
        let token = claim.token.clone();
        let adopt = Adopt {
            secret: secret.reveal(),
            token: &token,
            client: &self.session.client,
            holder: &request.holder,
            why: &cause,
        };
        let until = later(link.response_timeout());
        // An answer that comes after the lease's deadline is asked for again: in the end the lease has run out.
        let lease = loop {
            let reply = link.call(&adopt, &self.target.keys, until).await?;
            let Some(adopted) = reply.value else {
                claim.disarm();
                return Ok(None);
            };
            let Adopted {
                max_hold_ms,
                grace_ms,
                grant,
            } = adopted;
            let terms = Request {
                permits: grant.permits,
                max_hold_ms,
                grace_ms,
                ..request.clone()
            };
            if let Event::Granted {
                granted,
                has_run_out: false,
            } = claim.granted_by_reply(grant, &reply.asked)
            {
                break claim.take_up(granted, terms);
            }
        };
        self.replicated(Some(lease), None).await
    }
}
