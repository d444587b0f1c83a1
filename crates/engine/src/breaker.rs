//! The circuit breaker of an MX group: after many failures in a row of messages nothing is sent there for some
//! hours (DESIGN 5.4).

use mail::time::Timestamp;

use crate::settings::BreakerSettings;

/// Counts of the messages since the last judgement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    messages: u32,
    errors: u32,
    /// Open until then.
    pub(crate) open_until: Timestamp,
}

impl Breaker {
    /// Counts one message; returns whether the breaker opened now.
    pub(crate) fn count(
        &mut self,
        now: Timestamp,
        error: bool,
        settings: &BreakerSettings,
    ) -> bool {
        if settings.messages == 0 {
            return false;
        }
        self.messages += 1;
        self.errors += u32::from(error);
        if self.messages < settings.messages {
            return false;
        }
        let share = u64::from(self.errors) * 100;
        let opens = share >= u64::from(self.messages) * u64::from(settings.error_percent);
        self.messages = 0;
        self.errors = 0;
        if opens {
            self.open_until = now + settings.rest;
        }
        opens
    }

    /// Whether nothing may be sent at `now`.
    pub(crate) fn is_open(&self, now: Timestamp) -> bool {
        now < self.open_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_messages_switches_it_off() {
        let settings = BreakerSettings { messages: 0, ..BreakerSettings::default() };
        let mut breaker = Breaker::default();
        for second in 0..1_000 {
            assert!(!breaker.count(Timestamp::from_secs(second), true, &settings));
        }
    }

    #[test]
    fn opens_at_ninety_percent_of_three_hundred() {
        let settings = BreakerSettings::default();
        let now = Timestamp::from_secs(1_000);
        let mut breaker = Breaker::default();
        for number in 0..300 {
            let opened = breaker.count(now, number >= 31, &settings);
            assert!(!opened, "269 of 300 is below 90 %");
        }
        for number in 0..300 {
            assert_eq!(breaker.count(now, number >= 30, &settings), number == 299);
        }
        assert!(breaker.is_open(now + core::time::Duration::from_secs(3 * 3_600 - 1)));
        assert!(!breaker.is_open(now + settings.rest));
    }
}
