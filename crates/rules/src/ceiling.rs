//! How much the rules allow in an hour: the arithmetic of DESIGN 5.2.

use crate::words::Scope;

/// How many budgets a rule has for so many sources and targets.
///
/// `source`: one per source; `path`: one per source and target; `rule`: one in all. Without a source
/// or without a target there is no path and therefore no budget.
#[must_use]
pub fn budgets(scope: Scope, sources: u64, targets: u64) -> u64 {
    if sources == 0 || targets == 0 {
        return 0;
    }
    match scope {
        Scope::Source => sources,
        Scope::Path => sources.saturating_mul(targets),
        Scope::Rule => 1,
    }
}

/// The most messages that all budgets of a rule together allow in any hour. Saturates at
/// `u64::MAX`.
#[must_use]
pub fn ceiling_per_hour(scope: Scope, messages_per_hour: u32, sources: u64, targets: u64) -> u64 {
    budgets(scope, sources, targets).saturating_mul(u64::from(messages_per_hour))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_comes_out() {
        for (sources, targets, scope, per_hour, want_budgets, ceiling) in [
            (2, 7, Scope::Source, 10_000, 2, 20_000),
            (2, 7, Scope::Path, 10_000, 14, 140_000),
            (1, 5, Scope::Source, 1_000, 1, 1_000),
            (1, 5, Scope::Path, 1_000, 5, 5_000),
            (2, 7, Scope::Rule, 10_000, 1, 10_000),
            (0, 7, Scope::Rule, 10_000, 0, 0),
            (2, 0, Scope::Source, 10_000, 0, 0),
            (u64::MAX, 2, Scope::Path, 10_000, u64::MAX, u64::MAX),
        ] {
            assert_eq!(
                budgets(scope, sources, targets),
                want_budgets,
                "{sources} {targets} {scope}"
            );
            assert_eq!(ceiling_per_hour(scope, per_hour, sources, targets), ceiling, "{scope}");
        }
    }

    #[test]
    fn yahoo_with_two_sources_has_32_paths() {
        // Three MX hosts with eight addresses each, of which 16 are distinct.
        assert_eq!(budgets(Scope::Path, 2, 16), 32);
    }
}
