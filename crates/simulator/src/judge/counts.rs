//! Checker 3, from the other side: what the ledger says that it has counted, while it runs.
//!
//! The ledger's counts are never lower than what the exchangers have seen in the last hour and day, also right behind a
//! crash, a step of the clock or other rules; and where no limit was changed lately, they are never above it.

use core::time::Duration;
use std::collections::BTreeMap;

use mail::id::SourceId;
use mail::time::Timestamp;
use quota::PathKey;

use crate::fleet::Fleet;
use crate::node::Node;

/// A little less than the windows that must be counted: clocks drift.
const HOUR: Duration = Duration::from_secs(3_595);
const DAY: Duration = Duration::from_secs(86_300);

/// After so long a limit that was lowered holds for all that is in the window: a day's window, and its steps.
const SETTLED: Duration = Duration::from_secs(86_400 + 1_200);

/// What is wrong with the ledger's counts now; `changed`: when limits were last replaced.
pub(super) fn judge(now: Timestamp, changed: Timestamp, node: &Node, fleet: &Fleet) -> Vec<String> {
    let own = node.own_time(now);
    let mut hour: BTreeMap<PathKey, u64> = BTreeMap::new();
    let mut day: BTreeMap<SourceId, u64> = BTreeMap::new();
    // They stand in the order of their arrival, which is not before they were sent.
    let lately = fleet.mails.iter().rev().take_while(|mail| now.since(mail.at) < DAY);
    for mail in lately {
        let age = now.since(mail.sent);
        if age < DAY {
            *day.entry(mail.source).or_default() += 1;
        }
        if age < HOUR {
            let path = PathKey { source: mail.source, target: mail.target };
            *hour.entry(path).or_default() += 1;
        }
    }
    let counted: BTreeMap<PathKey, u64> =
        node.ledger.paths(own).into_iter().map(|view| (view.path, view.used_in_window)).collect();
    let days = node.ledger.source_days(own);
    let mut wrong = Vec::new();
    for (path, seen) in hour {
        let counted = counted.get(&path).copied().unwrap_or(0);
        if counted < seen {
            wrong.push(format!(
                "{now} 3: the ledger counts {counted} in the last hour on {path:?}, the exchangers saw {seen}"
            ));
        }
    }
    for (source, seen) in day {
        let of_source = days.iter().find(|view| view.source == source);
        let counted = of_source.map_or(0, |view| view.used_in_day);
        if counted < seen {
            wrong.push(format!(
                "{now} 3: the ledger counts {counted} in the last day for {source}, the exchangers saw {seen}"
            ));
        }
    }
    if now.since(changed) > SETTLED {
        let budgets = node.ledger.budgets(own).into_iter();
        let budgets =
            budgets.map(|view| (view.key, view.used_in_window, Some(view.limit_per_hour)));
        let days = days.into_iter();
        let days = days.map(|view| (view.source.to_string(), view.used_in_day, view.per_day));
        for (key, used, limit) in budgets.chain(days) {
            if let Some(limit) = limit.filter(|limit| used > u64::from(*limit)) {
                wrong
                    .push(format!("{now} 3: the ledger itself counts {used} of {limit} for {key}"));
            }
        }
    }
    wrong.truncate(2);
    wrong
}
