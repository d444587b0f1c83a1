//! Sweeps: the messages of a delivery that expired or were cancelled come to their end, step by step.
//!
//! One step is one write of at most [`SWEEP_STEP`] messages; the answer to it asks for the next one, so the loop never
//! waits. A store that refuses is asked again after [`STORE_RETRY`].

use super::*;

/// Messages swept in one step of expiring or cancelling.
const SWEEP_STEP: u32 = 2_000;

impl Runner {
    pub(super) fn sweep(&mut self, sweep: Sweep, cancel: bool) {
        let inputs = self.inputs.clone();
        let kept = sweep.clone();
        let reply = Box::new(move |answer| {
            let _ = inputs.send(Input::Swept { sweep: kept, cancel, answer });
        });
        let write = if cancel { Write::CancelQueued(sweep) } else { Write::Expire(sweep) };
        self.writer.send(write, reply);
    }

    pub(super) fn swept(
        &mut self,
        now: Timestamp,
        sweep: Sweep,
        cancel: bool,
        answer: Result<Written, StoreFault>,
    ) {
        match answer {
            Ok(Written::Swept(swept)) => {
                if let Some(next) = swept.next {
                    self.sweep(Sweep { from: next, ..sweep }, cancel);
                    return;
                }
                if swept.finished {
                    self.delivery_touched(now, sweep.delivery);
                }
                let event = Event::SweepDone { delivery: sweep.delivery, more: false };
                self.engine.handle(now, event);
            }
            Ok(other) => tracing::error!(?other, "the store answered a sweep with something else"),
            Err(fault) => {
                self.store_failed(now, &fault);
                let inputs = self.inputs.clone();
                self.runtime.spawn(async move {
                    tokio::time::sleep(STORE_RETRY).await;
                    let event = Event::SweepDone { delivery: sweep.delivery, more: true };
                    let _ = inputs.send(Input::Event(event));
                });
            }
        }
    }

    pub(super) fn expire(
        &mut self,
        now: Timestamp,
        delivery: DeliveryId,
        before: Option<Timestamp>,
    ) {
        let through = match before {
            None => None,
            Some(before) => {
                match self.contents.read(|reads| reads.newest_accepted_before(before)) {
                    Ok(Some(through)) => Some(through),
                    // Nothing is that old.
                    Ok(None) => return,
                    Err(fault) => return self.store_failed(now, &fault),
                }
            }
        };
        self.sweep(sweep_of(delivery, through, now, "validity ended"), false);
    }
}

pub(super) fn sweep_of(
    delivery: DeliveryId,
    through: Option<mail::id::MessageId>,
    at: Timestamp,
    reason: &str,
) -> Sweep {
    Sweep {
        delivery,
        from: DomainId::default(),
        through,
        limit: SWEEP_STEP,
        at,
        reason: reason.into(),
    }
}
