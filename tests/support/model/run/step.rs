//! One step: requests, time, messages, and replicas that end or die.

use super::{Play, REPLICAS, trusted};
use crate::model::ask::{Call, Credential, Place, Profile, Whom};
use crate::model::bus::Known;
use crate::model::steps::Step;

impl Play<'_> {
    fn slot(n: u8) -> usize {
        usize::from(n) % REPLICAS
    }

    pub(super) async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Ask(slot, ask) => self.ask(Self::slot(*slot), ask).await?,
            Step::DieAfter(slot, ask) => {
                let slot = Self::slot(*slot);
                self.note(|| format!("replica {slot} dies before it has told anybody of this:"));
                self.one(slot, ask).await?;
                self.learn_changed_ring(ask).await?;
                self.die(slot).await;
            }
            Step::Pass(ms) => self.pass(*ms),
            Step::Gap(slot, k) => self.gap(Self::slot(*slot), *k).await?,
            Step::Deliver(slot, n) => {
                let slot = Self::slot(*slot);
                self.note(|| format!("up to {n} messages reach replica {slot}"));
                for _ in 0..(*n).into() {
                    self.deliver(slot, 0, false);
                }
            }
            Step::Overtake(slot, n, again) => {
                let slot = Self::slot(*slot);
                if let Some(index) = usize::from(*n).checked_rem(self.bus.waiting(slot)) {
                    self.note(|| {
                        format!("message {index} reaches replica {slot} out of turn, again {again}")
                    });
                    self.deliver(slot, index, *again);
                }
            }
            Step::Lose(slot, n) => {
                let slot = Self::slot(*slot);
                if let Some(index) = usize::from(*n).checked_rem(self.bus.waiting(slot)) {
                    self.note(|| format!("message {index} to replica {slot} is lost"));
                    self.bus.lose(slot, index);
                }
            }
            Step::Heartbeat(slot) => {
                self.note(|| format!("replica {slot} sends a heartbeat"));
                self.bus.heartbeat(Self::slot(*slot));
                self.deliver_promptly();
            }
            Step::Cut(slot) => {
                self.note(|| format!("replica {slot} is cut off"));
                self.bus.cut(Self::slot(*slot));
            }
            Step::Mend(slot) => {
                self.note(|| format!("replica {slot} is connected again"));
                let slot = Self::slot(*slot);
                self.bus.mend(slot, &self.worlds[slot].dispatch);
            }
            Step::WriteLastUsed(slot) => self.write_last_used(Self::slot(*slot)).await,
            Step::Restart(slot) => {
                let slot = Self::slot(*slot);
                self.note(|| format!("replica {slot} ends and starts anew"));
                self.write_last_used(slot).await;
                self.bus.bye(slot);
                self.die(slot).await;
                self.deliver_promptly();
            }
            Step::Die(slot) => {
                self.note(|| format!("replica {slot} dies and starts anew"));
                self.die(Self::slot(*slot)).await;
            }
            Step::RestartAll => {
                self.note(|| "everything ends and starts anew".to_owned());
                for slot in 0..REPLICAS {
                    self.write_last_used(slot).await;
                }
                self.reopen(false).await?;
            }
            Step::CrashAll => {
                self.note(|| "everything dies and starts anew".to_owned());
                self.reopen(true).await?;
            }
        }
        Ok(())
    }

    fn pass(&mut self, ms: i64) {
        self.note(|| format!("{ms} ms pass"));
        self.clock.advance_ms(ms);
        self.state.now_ms += ms;
        for slot in 0..REPLICAS {
            if self.sequence.prompt {
                self.bus.heartbeat(slot);
            }
        }
        self.deliver_promptly();
        for slot in 0..REPLICAS {
            let known = self.bus.tick(slot, &self.worlds[slot].dispatch);
            self.knows(slot, known);
        }
    }

    /// See [`Step::Gap`].
    async fn gap(&mut self, slot: usize, k: u8) -> Result<(), String> {
        const HALF_MS: i64 = 3_500;
        let other = (slot + 1) % REPLICAS;
        if self.sequence.prompt || self.bus.is_cut(slot) || self.bus.is_cut(other) {
            return Ok(());
        }
        let known = trusted(Call::Authenticate(Credential::TokenOf(k)));
        self.one(slot, &known).await?;
        self.tell_bus(other, &trusted(Call::RevokeUserTokens(Whom::Kth(k), Place::Missing))).await?;
        self.note(|| format!("replica {slot} misses that"));
        while self.bus.waiting(slot) > 0 {
            self.bus.lose(slot, 0);
        }
        self.pass(HALF_MS);
        let nothing = Profile { roles: None, name: None, email: None, enabled: None, must_change: None };
        let profile = Profile { name: Some(k), email: Some(k / 4), ..nothing };
        let ask = trusted(Call::UpdateUser(Whom::Kth(0), None, None, profile, Place::Missing));
        self.tell_bus(other, &ask).await?;
        self.deliver_to(slot);
        self.pass(HALF_MS);
        self.note(|| format!("replica {slot} hears a heartbeat again"));
        self.bus.heartbeat(other);
        self.deliver_to(slot);
        self.one(slot, &known).await.map(drop)
    }

    /// A replica starts anew, with nothing in memory.
    async fn die(&mut self, slot: usize) {
        self.worlds[slot] = self.world().await;
        self.bus.restart(slot);
        self.uses[slot].clear();
        self.failures.clear();
        self.knows(slot, [Known::Everything]);
    }

    /// Everything starts anew, in order or after a crash.
    async fn reopen(&mut self, crash: bool) -> Result<(), String> {
        let copy = if crash { self.ground.copy()? } else { None };
        self.worlds.clear();
        self.ground.restart(copy);
        for slot in 0..REPLICAS {
            let world = self.world().await;
            self.worlds.push(world);
            self.bus.restart(slot);
            self.uses[slot].clear();
            self.knows(slot, [Known::Everything]);
        }
        self.failures.clear();
        Ok(())
    }

    fn deliver(&mut self, slot: usize, index: usize, again: bool) {
        let known = self.bus.deliver(slot, index, again, &self.worlds[slot].dispatch);
        self.knows(slot, known);
    }

    pub(super) fn deliver_promptly(&mut self) {
        if self.sequence.prompt {
            self.deliver_all();
        }
    }

    pub(super) fn deliver_all(&mut self) {
        for slot in 0..REPLICAS {
            self.deliver_to(slot);
        }
    }

    fn deliver_to(&mut self, slot: usize) {
        while self.bus.waiting(slot) > 0 {
            self.deliver(slot, 0, false);
        }
    }

    /// The uses of keys that a replica noted are in the store from here on.
    pub(super) async fn write_last_used(&mut self, slot: usize) {
        /// A use is written at most so often.
        const EVERY_MS: i64 = 300_000;
        self.worlds[slot].dispatch.write_last_used().await;
        for (key, at) in std::mem::take(&mut self.uses[slot]) {
            let least = self.state.key_used[key].unwrap_or(i64::MIN).max(at - EVERY_MS + 1);
            self.state.key_used[key] = Some(least);
        }
    }
}
