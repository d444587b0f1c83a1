//! Which message a wave ends with.
//!
//! Waves are shares of the accepted recipients by rank. The numbers of a delivery's messages have
//! gaps where other deliveries were filled at the same time; [`Segment`]s say where, so the message
//! of any rank is found without looking at the messages.

use engine::work::{Wave, WaveSize};
use mail::id::MessageId;

/// A run of contiguous message numbers of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Rank of its first message, from 0.
    pub(crate) first_ordinal: u64,
    /// Its first message.
    pub(crate) first_id: u64,
    /// How many messages.
    pub(crate) count: u64,
}

/// The last rank (counted from 1; 0: none) of each wave of `accepted` recipients.
fn last_ranks(waves: &[Wave], accepted: u64) -> Vec<u64> {
    let mut whole = 0_u64;
    let mut percent = 0.0_f64;
    let mut ranks = Vec::with_capacity(waves.len());
    for wave in waves {
        match wave.size {
            WaveSize::Count(count) => whole = whole.saturating_add(count),
            WaveSize::Percent(share) => percent += share,
        }
        // The shares are added up before they are rounded, so that three thirds make a whole.
        let share = (percent / 100.0 * accepted as f64).round() as u64;
        ranks.push(whole.saturating_add(share).min(accepted));
    }
    if let Some(last) = ranks.last_mut() {
        *last = accepted;
    }
    ranks
}

/// For each wave the highest message that belongs to it.
pub(crate) fn wave_ends(waves: &[Wave], accepted: u64, segments: &[Segment]) -> Vec<MessageId> {
    let message_at = |rank: u64| -> MessageId {
        let Some(ordinal) = rank.checked_sub(1) else { return MessageId(0) };
        let after = segments.partition_point(|segment| segment.first_ordinal <= ordinal);
        let Some(segment) = after.checked_sub(1).and_then(|index| segments.get(index)) else {
            return MessageId(0);
        };
        MessageId(segment.first_id + (ordinal - segment.first_ordinal))
    };
    last_ranks(waves, accepted).into_iter().map(message_at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn wave(size: WaveSize) -> Wave {
        Wave { size, start_after: Duration::ZERO }
    }

    #[test]
    fn ranks_follow_counts_and_shares() {
        use WaveSize::{Count, Percent};
        let third = Percent(100.0 / 3.0);
        let table: &[(&[WaveSize], u64, &[u64])] = &[
            (&[], 10, &[]),
            (&[Count(3)], 10, &[10]),
            (&[Count(3), Count(3), Count(1)], 10, &[3, 6, 10]),
            (&[third, third, third], 100, &[33, 67, 100]),
            (&[Percent(10.0), Count(5), Percent(50.0)], 40, &[4, 9, 40]),
            (&[Percent(0.0), Count(u64::MAX), Count(u64::MAX)], 7, &[0, 7, 7]),
            (&[Count(1), Count(1)], 0, &[0, 0]),
        ];
        for (sizes, accepted, expected) in table {
            let waves: Vec<Wave> = sizes.iter().map(|size| wave(*size)).collect();
            assert_eq!(last_ranks(&waves, *accepted), *expected, "{sizes:?} of {accepted}");
        }
    }

    #[test]
    fn ends_skip_the_gaps_between_segments() {
        let segments = [
            Segment { first_ordinal: 0, first_id: 1, count: 3 },
            Segment { first_ordinal: 3, first_id: 10, count: 2 },
        ];
        let waves = [wave(WaveSize::Count(3)), wave(WaveSize::Count(1)), wave(WaveSize::Count(9))];
        assert_eq!(wave_ends(&waves, 5, &segments), [MessageId(3), MessageId(10), MessageId(11)]);
    }
}
