//! The last lives, in which everything works: all is archived, read back and swept, and nothing is left over.

use std::sync::Arc;

use super::clients::Client;
use super::world::{PATIENCE, SWEEP_INTERVAL, World, runtime};
use super::{Check, Part, ensure};
use crate::archive::store::simulated::Weather;
use crate::types::Offset;

impl World {
    /// Two last lives in which everything works: all of it is archived, read back, and swept.
    pub(super) fn end(&mut self) -> Check {
        for is_last in [false, true] {
            self.bucket.set_weather(Weather::default());
            let process = runtime();
            let lived = process.block_on(self.last_life(is_last));
            self.broker = None;
            self.machine.kill();
            self.bucket.abandon();
            drop(process);
            lived?;
        }
        self.verify()?;
        let orphans = self.heads.orphans(&self.bucket);
        ensure!(orphans.is_empty(), "orphans stay: {orphans:?}");
        let strays = self.heads.strays(&self.parts);
        ensure!(strays.is_empty(), "heads of deleted topics stay: {strays:?}");
        Ok(())
    }

    async fn last_life(&mut self, is_last: bool) -> Check {
        ensure!(self.open().await?, "the power went");
        self.create_topics().await?;
        let parts: Vec<_> = self.parts.values().cloned().collect();
        for part in &parts {
            self.archive_all(part).await?;
        }
        // Sweeps come at random times. In the first life they find what is left of those before, in the second what that left.
        let sweeps = self.machine.runtime().clock.monotonic() + 3 * SWEEP_INTERVAL;
        while self.machine.runtime().clock.monotonic() < sweeps || self.bucket.is_busy() {
            self.turn().await?;
        }
        for part in parts.iter().filter(|_| is_last) {
            self.read_all(part).await?;
        }
        Ok(())
    }

    /// Waits until a partition can be used, appends to it, and waits until all of it is archived and away.
    pub(super) async fn archive_all(&mut self, part: &Arc<Part>) -> Check {
        let mut appended = false;
        for look in 0..PATIENCE {
            if let Some(client) = self.client(part)? {
                self.check_tiers(&client)?;
                let log = Arc::clone(client.leader.partition.log());
                if !appended && !part.model.lock().is_appending {
                    appended = true;
                    self.append(client);
                } else if !part.model.lock().is_appending {
                    let offsets = log.offsets();
                    if offsets.archived_to == offsets.log_end && offsets.high_watermark == offsets.log_end {
                        return Ok(());
                    }
                    if look % 200 == 0 {
                        log.request_roll();
                        self.give_up_what_is_gone(part, client);
                    }
                }
            }
            self.turn().await?;
        }
        let offsets = self.client(part)?.map(|client| client.leader.partition.log().offsets());
        Err(format!("{} is not archived: {offsets:?}", part.name()))
    }

    /// What an operator is told to do where neither tier has records: here they were deleted, and the checkpoint that knew
    /// it was lost.
    fn give_up_what_is_gone(&self, part: &Arc<Part>, client: Client) {
        let offsets = client.leader.partition.log().offsets();
        let archived_to = self.heads.of(part.id).map_or(Offset::ZERO, |head| head.next_offset);
        let lost_history = part.model.lock().lost_history;
        if lost_history && offsets.local_log_start > archived_to.max(offsets.log_start) {
            client.clone().spawn("deletion", client.delete_records(offsets.local_log_start));
        }
    }

    pub(super) async fn read_all(&mut self, part: &Arc<Part>) -> Check {
        let client = self.client(part)?.ok_or("behind the archive")?;
        let mut at = client.leader.partition.log().offsets().log_start;
        for _ in 0..PATIENCE {
            let offsets = client.leader.partition.log().offsets();
            at = at.max(offsets.log_start);
            if at >= offsets.high_watermark {
                return Ok(());
            }
            let (reader, max_bytes) = (client.clone(), 1 + usize::try_from(self.random.below(8000)).expect("small"));
            let fetched = self.until("fetch", async move { reader.fetch(at, max_bytes).await }).await?;
            at = fetched.ok_or("the power went")?.map_err(|error| format!("{}: {error}", part.name()))?;
        }
        Err(format!("{} is not read to its end: {at}", part.name()))
    }
}
