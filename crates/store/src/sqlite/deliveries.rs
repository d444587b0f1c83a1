//! Deliveries, their content, refusals, and keys that take effect once.

use engine::work::{DeliveryOptions, DeliveryState};
use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;
use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::batch::{Batch, Stop};
use super::codec::{column, delivery_code, floor_ms, number, unexpected};
use crate::limits::{REFUSALS_KEPT, cut_refusal};
use crate::waves::{Segment, wave_ends};
use crate::words::{
    AuditEntry, ContentKind, Earlier, NewContent, NewRefusal, Once, RefusedWrite, Started, Written,
};

/// The code of a kind of content.
pub(super) const fn content_code(kind: ContentKind) -> i64 {
    match kind {
        ContentKind::Template => 0,
        ContentKind::Message => 1,
    }
}

impl Batch<'_> {
    /// Creates a delivery.
    pub(super) fn create_delivery(
        &mut self,
        options: &DeliveryOptions,
        content: Option<&NewContent>,
        at: Timestamp,
        once: Option<&Once>,
    ) -> Result<Written, Stop> {
        if let Some(earlier) = self.find_once(once)? {
            return Ok(Written::Repeated(earlier));
        }
        let text = serde_json::to_string(options)
            .map_err(|_| RefusedWrite::BadOptions("they cannot be written as JSON"))?;
        let content_id = content.map_or(Ok(0), |content| self.put_content(content))?;
        let id = DeliveryId(self.memory.next.delivery);
        self.memory.next.delivery += 1;
        let state = if options.stream { DeliveryState::Running } else { DeliveryState::Draft };
        self.connection
            .prepare_cached(
                "INSERT INTO delivery (id, state, stream, options, content_id, created_at, \
                 started_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                column(id.0),
                delivery_code(state),
                options.stream,
                text,
                column(content_id),
                floor_ms(at),
                options.stream.then(|| floor_ms(at)),
            ])?;
        self.keep_once(once, Earlier { delivery: id, first: None, accepted: 0 }, at)?;
        Ok(Written::Created(id))
    }

    /// Sets the content of a draft.
    pub(super) fn set_content(
        &mut self,
        delivery: DeliveryId,
        content: &NewContent,
    ) -> Result<Written, Stop> {
        let state = self.account(delivery)?.state;
        if state != DeliveryState::Draft {
            let needed = "its content can be set only before it is started";
            return Err(RefusedWrite::WrongState { delivery, state, needed }.into());
        }
        let id = self.put_content(content)?;
        let account = self.account(delivery)?;
        let before = std::mem::replace(&mut account.content, id);
        account.dirty = true;
        if before != id {
            self.store_accounts()?;
            self.drop_unused_content(column(before))?;
        }
        Ok(Written::Done)
    }

    /// Stores a delivery's content, or finds the same one stored before.
    fn put_content(&mut self, content: &NewContent) -> rusqlite::Result<u64> {
        let kind = content_code(content.kind);
        let mut digest = Sha256::new();
        digest.update(kind.to_le_bytes());
        digest.update(&content.body);
        let digest: [u8; 32] = digest.finalize().into();
        let known: Option<i64> = self
            .connection
            .prepare_cached("SELECT id FROM content WHERE digest = ?1")?
            .query_row([digest], |row| row.get(0))
            .optional()?;
        if let Some(id) = known {
            return number(id);
        }
        self.insert_content(Some(&digest), content)
    }

    /// Stores the content that some messages of a stream share.
    pub(super) fn put_stream_content(
        &mut self,
        content: &NewContent,
        uses: u32,
    ) -> rusqlite::Result<()> {
        let id = self.insert_content(None, content)?;
        if uses > 1 {
            self.memory.shares_contents = true;
            self.connection
                .prepare_cached("INSERT INTO content_use (content_id, uses) VALUES (?1, ?2)")?
                .execute(params![column(id), uses])?;
        }
        Ok(())
    }

    fn insert_content(
        &mut self,
        digest: Option<&[u8; 32]>,
        content: &NewContent,
    ) -> rusqlite::Result<u64> {
        let id = self.memory.next.content;
        self.memory.next.content += 1;
        self.connection
            .prepare_cached("INSERT INTO content (id, digest, kind, body) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![column(id), digest, content_code(content.kind), &content.body[..]])?;
        Ok(id)
    }

    /// A message that used this content is at its end; with the last of them the content goes.
    pub(super) fn release_content(&self, id: u64) -> rusqlite::Result<()> {
        if id == 0 {
            return Ok(());
        }
        let left: Option<i64> = if self.memory.shares_contents {
            self.connection
                .prepare_cached(
                    "UPDATE content_use SET uses = uses - 1 WHERE content_id = ?1 RETURNING uses",
                )?
                .query_row([column(id)], |row| row.get(0))
                .optional()?
        } else {
            None
        };
        if left.is_some_and(|uses| uses > 0) {
            return Ok(());
        }
        if left.is_some() {
            self.connection
                .prepare_cached("DELETE FROM content_use WHERE content_id = ?1")?
                .execute([column(id)])?;
        }
        self.connection
            .prepare_cached("DELETE FROM content WHERE id = ?1")?
            .execute([column(id)])?;
        Ok(())
    }

    /// Starts a draft.
    pub(super) fn start(&mut self, delivery: DeliveryId, at: Timestamp) -> Result<Written, Stop> {
        let account = self.account(delivery)?;
        let state = account.state;
        if state != DeliveryState::Draft {
            let needed = "only a draft can be started";
            return Err(RefusedWrite::WrongState { delivery, state, needed }.into());
        }
        if account.content == 0 {
            return Err(RefusedWrite::NoContent(delivery).into());
        }
        let accepted = account.counters.accepted;
        let options: String = self
            .connection
            .prepare_cached("SELECT options FROM delivery WHERE id = ?1")?
            .query_row([column(delivery.0)], |row| row.get(0))?;
        let options: DeliveryOptions = serde_json::from_str(&options)
            .map_err(|error| unexpected(&format!("options of {delivery}: {error}")))?;
        let segments = if options.waves.is_empty() { Vec::new() } else { self.segments(delivery)? };
        let ends = wave_ends(&options.waves, accepted, &segments);
        let text = serde_json::to_string(&ends)
            .map_err(|error| unexpected(&format!("wave of {delivery}: {error}")))?;
        self.connection
            .prepare_cached("UPDATE delivery SET started_at = ?2, wave_ends = ?3 WHERE id = ?1")?
            .execute(params![column(delivery.0), floor_ms(at), text])?;
        let account = self.account(delivery)?;
        account.state = DeliveryState::Running;
        account.dirty = true;
        let finished = account.finish_if_done();
        Ok(Written::Started(Started { wave_ends: ends, finished }))
    }

    fn segments(&self, delivery: DeliveryId) -> rusqlite::Result<Vec<Segment>> {
        self.connection
            .prepare_cached(
                "SELECT first_ordinal, first_id, count FROM segment WHERE delivery_id = ?1 \
                 ORDER BY first_ordinal",
            )?
            .query_map([column(delivery.0)], |row| {
                Ok(Segment {
                    first_ordinal: number(row.get(0)?)?,
                    first_id: number(row.get(1)?)?,
                    count: number(row.get(2)?)?,
                })
            })?
            .collect()
    }

    /// Pauses, resumes or cancels.
    pub(super) fn set_state(
        &mut self,
        delivery: DeliveryId,
        wanted: DeliveryState,
        who: &str,
        why: &str,
        at: Timestamp,
    ) -> Result<Written, Stop> {
        let account = self.account(delivery)?;
        if let Some(needed) = transition_fault(account.state, wanted) {
            let state = account.state;
            return Err(RefusedWrite::WrongState { delivery, state, needed }.into());
        }
        account.state = wanted;
        account.dirty = true;
        let what = format!("{delivery} set to {wanted:?}").to_lowercase();
        self.put_audit(&AuditEntry { at, who: who.into(), what: what.into(), why: why.into() })
    }

    /// Counts and records refused recipients.
    pub(super) fn refuse(
        &mut self,
        delivery: DeliveryId,
        refusals: &[NewRefusal],
    ) -> Result<Written, Stop> {
        let account = self.account(delivery)?;
        account.counters.refused += refusals.len() as u64;
        account.dirty = true;
        self.keep_refusals(delivery, refusals)?;
        Ok(Written::Done)
    }

    /// Records refusals, as many as are kept.
    pub(super) fn keep_refusals(
        &mut self,
        delivery: DeliveryId,
        refusals: &[NewRefusal],
    ) -> Result<(), Stop> {
        if refusals.is_empty() {
            return Ok(());
        }
        let kept = self.account(delivery)?.refusals_kept;
        let room = usize::try_from(REFUSALS_KEPT.saturating_sub(kept)).unwrap_or(usize::MAX);
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO refusal (delivery_id, ordinal, line, address, reason) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let mut ordinal = kept;
        for refusal in refusals.iter().take(room) {
            insert.execute(params![
                column(delivery.0),
                column(ordinal),
                column(refusal.line),
                cut_refusal(&refusal.address),
                cut_refusal(&refusal.reason),
            ])?;
            ordinal += 1;
        }
        drop(insert);
        let account = self.account(delivery)?;
        account.refusals_kept = ordinal;
        account.dirty = true;
        Ok(())
    }

    /// What an earlier request with the same key led to.
    pub(super) fn find_once(&self, once: Option<&Once>) -> Result<Option<Earlier>, Stop> {
        let Some(once) = once else { return Ok(None) };
        let known = self
            .connection
            .prepare_cached(
                "SELECT digest, delivery_id, first_id, accepted FROM once \
                 WHERE tenant = ?1 AND key = ?2",
            )?
            .query_row(params![once.tenant, once.key], |row| {
                let first = number(row.get(2)?)?;
                let earlier = Earlier {
                    delivery: DeliveryId(number(row.get(1)?)?),
                    first: (first > 0).then_some(MessageId(first)),
                    accepted: number(row.get(3)?)?,
                };
                Ok((row.get::<_, [u8; 32]>(0)?, earlier))
            })
            .optional()?;
        match known {
            None => Ok(None),
            Some((digest, earlier)) if digest == once.digest => Ok(Some(earlier)),
            Some(_) => Err(RefusedWrite::KeyReused.into()),
        }
    }

    /// Remembers what a request led to.
    pub(super) fn keep_once(
        &self,
        once: Option<&Once>,
        led_to: Earlier,
        at: Timestamp,
    ) -> rusqlite::Result<()> {
        let Some(once) = once else { return Ok(()) };
        self.connection
            .prepare_cached(
                "INSERT INTO once (tenant, key, digest, delivery_id, first_id, accepted, \
                 created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                once.tenant,
                once.key,
                once.digest,
                column(led_to.delivery.0),
                column(led_to.first.map_or(0, |first| first.0)),
                column(led_to.accepted),
                floor_ms(at),
            ])?;
        Ok(())
    }
}

/// Why a change of state is not allowed, if it is not.
pub(crate) fn transition_fault(from: DeliveryState, to: DeliveryState) -> Option<&'static str> {
    use DeliveryState::{Cancelled, Draft, Finished, Paused, Running};
    match (from, to) {
        (Running, Paused) | (Paused, Running) | (Draft | Running | Paused, Cancelled) => None,
        (_, Paused) => Some("only a running delivery can be paused"),
        (_, Running) => Some("only a paused delivery can be resumed"),
        (_, Cancelled) => Some("it is at its end already"),
        (_, Draft | Finished) => Some("only running, paused and cancelled can be asked for"),
    }
}
