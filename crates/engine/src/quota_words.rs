//! From the words of the ledger to those of the engine: its answers, as events carry them. The shell and the
//! simulator both go through here, so that both mean the same.

use quota::{LimitName, Lot, Wait, WaitKind};

use crate::event::{QuotaLimit, QuotaWait, Tokens};

impl From<Lot> for Tokens {
    fn from(lot: Lot) -> Self {
        Self { count: lot.count, lot: lot.id, use_before: lot.use_before }
    }
}

impl From<&Wait> for QuotaWait {
    fn from(wait: &Wait) -> Self {
        let limit = match wait.kind {
            WaitKind::HourWindow => QuotaLimit::Hour,
            WaitKind::Period => QuotaLimit::Period,
            WaitKind::Pace => QuotaLimit::Pace,
            WaitKind::SlotEdge => QuotaLimit::MinuteEnd,
            WaitKind::SourceCap => QuotaLimit::Source,
            WaitKind::WarmUpHour => QuotaLimit::WarmUpHour,
            WaitKind::WarmUpDay => QuotaLimit::WarmUpDay,
            WaitKind::WarmUpProvider => QuotaLimit::WarmUpProvider,
            WaitKind::Cap => QuotaLimit::Delivery,
            WaitKind::ConnectionLimit => QuotaLimit::Connections,
            WaitKind::ConnectRate => QuotaLimit::ConnectionRate,
            WaitKind::MinInterval => QuotaLimit::ConnectionInterval,
            WaitKind::LedgerFull => QuotaLimit::LedgerFull,
        };
        let rule = match &wait.limit {
            LimitName::Budget(key) => Box::from(&*key.rule),
            LimitName::WarmUp { rule: Some(rule), .. } => rule.clone(),
            LimitName::Source(_)
            | LimitName::WarmUp { .. }
            | LimitName::Cap(_)
            | LimitName::Ledger => Box::default(),
        };
        let source = match &wait.limit {
            LimitName::Source(source) | LimitName::WarmUp { source, .. } => Some(*source),
            _ => None,
        };
        let figure = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            until: wait.until,
            limit,
            rule,
            source,
            figure: figure(wait.limit_value),
            used: figure(wait.used),
        }
    }
}
