//! The end of a sequence: with everything delivered, everything is looked at.

use iam_schema::subject::Plane;

use super::{Play, REPLICAS, trusted};
use crate::model::ask::{Ask, Call, Credential, Page, Place, Target, Whom};

impl Play<'_> {
    /// Everything delivered: each replica must tell everything as it is.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        self.note(|| "every message is delivered, and everything is looked at".to_owned());
        for slot in 0..REPLICAS {
            self.bus.mend(slot, &self.worlds[slot].dispatch);
        }
        for slot in 0..REPLICAS {
            self.write_last_used(slot).await;
            self.bus.heartbeat(slot);
        }
        self.deliver_all();
        // The one who died unheard is given up.
        self.clock.advance_ms(6_000);
        self.state.now_ms += 6_000;
        for slot in 0..REPLICAS {
            let known = self.bus.tick(slot, &self.worlds[slot].dispatch);
            self.knows(slot, known);
        }
        let whole = Page { size: 0, after: None, bad_token: false };
        let count = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        for slot in 0..REPLICAS {
            let mut asks = vec![
                trusted(Call::ListUsers(Place::Missing, whole)),
                trusted(Call::ListWorkspaces(whole)),
                trusted(Call::GetJwks),
                trusted(Call::BootstrapStatus),
            ];
            for user in 0..count(self.state.users.len()) {
                let check = |capability, place| (capability, Target::At(Place::At(place)), Target::Absent);
                let everywhere = (0..4).flat_map(|place| [check(0, place), check(2, place)]);
                asks.push(trusted(Call::AuthoriseMany(Whom::Kth(user), None, everywhere.collect())));
                if slot == 0 {
                    asks.push(trusted(Call::ListApiKeys(Whom::Kth(user), Place::Missing, whole)));
                }
            }
            let keys = (0..count(self.state.keys.len())).map(Credential::Key);
            let tokens = (0..count(self.state.tokens.len())).map(Credential::Token);
            asks.extend(keys.chain(tokens).map(|credential| trusted(Call::Authenticate(credential))));
            // A token that is good for the password alone is good for nothing else.
            for token in 0..count(self.state.tokens.len()) {
                let call = Call::ListMyWorkspaces(whole);
                let (plane, credential) = (Plane::Api, Credential::Token(token));
                asks.push(Ask { plane, credential, ..trusted(call) });
            }
            for ask in asks {
                self.one(slot, &ask).await?;
            }
        }
        for list in [
            |page| Call::ListUsers(Place::Missing, page),
            |page| Call::ListUsers(Place::At(0), page),
            |page| Call::ListApiKeys(Whom::Kth(0), Place::Missing, page),
            Call::ListWorkspaces,
        ] {
            self.read_pages(list).await?;
        }
        self.ground.verify()
    }

    /// Reads a list to its end, two at a time.
    async fn read_pages(&mut self, list: fn(Page) -> Call) -> Result<(), String> {
        let mut after = None;
        loop {
            let known = self.state.listings.len();
            let ask = trusted(list(Page { size: 2, after, bad_token: false }));
            self.one(0, &ask).await?;
            if after.is_none() && self.state.listings.len() == known {
                return Ok(());
            }
            after = u8::try_from(self.state.listings.len() - 1).ok();
            if after.is_none() || self.state.listings.last().is_none_or(|listing| listing.token.is_empty()) {
                return Ok(());
            }
        }
    }
}
