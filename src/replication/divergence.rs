//! Where the logs of a leader and of a follower part, and what the follower does about it (KIP-101, KIP-279). Pure.
//!
//! An epoch has one leader, which only appends, and followers take its records one after another behind a log that is the leader's.
//! So two logs that both have records of an epoch have the same records up to where it ends in the one where it ends first; and
//! the newest epoch that both have says where they part. Leaders send their whole history at once, so that one message is enough.
//!
//! What is not known of a history is never guessed: logs that share no known epoch have nothing in common, and the follower begins
//! anew. The follower's machine calls this; a crash loses nothing, since both histories are the logs' own.

use crate::log::EpochCache;
use crate::types::Offset;

/// Entries of a history that are sent; what is older counts as not known.
pub const MAX_EPOCHS: usize = 10_000;

/// What a log is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Its leader epochs. The first may have begun earlier than it says.
    pub epochs: EpochCache,
    /// First offset on local disk.
    pub local_log_start: Offset,
    /// Next offset of the log.
    pub log_end: Offset,
}

impl History {
    /// As much of it as is sent.
    pub fn newest(mut self) -> Self {
        let starts = self.epochs.starts();
        if starts.len() > MAX_EPOCHS {
            let newest = starts[starts.len() - MAX_EPOCHS..].to_vec();
            self.epochs = EpochCache::from_starts(newest).expect("a part of what grows grows too");
        }
        self
    }

    /// Where the epoch of an entry ends.
    fn end_of(&self, entry: usize) -> Offset {
        self.epochs.starts().get(entry + 1).map_or(self.log_end, |&(_, start)| start.min(self.log_end))
    }
}

/// What a follower does before it takes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: its log is a part of the leader's.
    Append {
        /// Where it ends.
        from: Offset,
    },
    /// It cuts its log, and appends from there.
    Truncate {
        /// Where it parts from the leader's.
        to: Offset,
    },
    /// It begins anew at the leader's first local record: its log ends before that, or nothing of it is the leader's.
    Reset,
}

/// What a comparison of histories found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is to be done.
    pub remedy: Remedy,
    /// The leader's log lacks something that the follower knows to be committed. Only an unclean election brings that about.
    pub loses_committed: bool,
}

/// What a follower with this history and high watermark does under the leader.
pub fn compare(leader: &History, follower: &History, high_watermark: Offset) -> Verdict {
    let common = common_end(leader, follower);
    let is_within = |end: &Offset| *end >= leader.local_log_start && *end >= follower.local_log_start;
    let remedy = match common.filter(is_within) {
        Some(end) if end == follower.log_end => Remedy::Append { from: end },
        Some(end) => Remedy::Truncate { to: end },
        None => Remedy::Reset,
    };
    let loses_committed = match common {
        Some(end) => end < high_watermark,
        None => high_watermark > follower.local_log_start && begin_otherwise(leader, follower),
    };
    Verdict { remedy, loses_committed }
}

/// Up to where both logs have the same records, if that can be told.
fn common_end(leader: &History, follower: &History) -> Option<Offset> {
    if follower.log_end == Offset::ZERO {
        return Some(Offset::ZERO);
    }
    let (theirs, own) = (leader.epochs.starts(), follower.epochs.starts());
    // An epoch that begins where the log ends has no records.
    let mut with_records = own.iter().enumerate().rev().filter(|(_, (_, start))| *start < follower.log_end);
    with_records.find_map(|(entry, (epoch, _))| {
        let at = theirs.binary_search_by_key(epoch, |&(known, _)| known).ok()?;
        (theirs[at].1 < leader.log_end).then(|| leader.end_of(at).min(follower.end_of(entry)))
    })
}

/// Whether the leader has another record where the follower's local log begins.
fn begin_otherwise(leader: &History, follower: &History) -> bool {
    let first = follower.local_log_start;
    if first >= leader.log_end || first >= follower.log_end {
        return false;
    }
    match (leader.epochs.epoch_at(first), follower.epochs.epoch_at(first)) {
        (Some(theirs), Some(own)) => theirs != own,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::types::LeaderEpoch;

    fn history(starts: &[(i32, i64)], local_log_start: i64, log_end: i64) -> History {
        let starts = starts.iter().map(|&(epoch, start)| (LeaderEpoch(epoch), Offset(start))).collect();
        let epochs = EpochCache::from_starts(starts).unwrap();
        History { epochs, local_log_start: Offset(local_log_start), log_end: Offset(log_end) }
    }

    fn remedy(leader: &History, follower: &History) -> Remedy {
        compare(leader, follower, Offset::ZERO).remedy
    }

    #[test]
    fn a_follower_that_has_a_part_of_the_leaders_log_goes_on_where_it_ends() {
        let leader = history(&[(1, 0), (3, 10), (4, 30)], 0, 30);
        assert_eq!(remedy(&leader, &history(&[(1, 0), (3, 10)], 0, 20)), Remedy::Append { from: Offset(20) });
        assert_eq!(remedy(&leader, &history(&[(1, 0)], 0, 10)), Remedy::Append { from: Offset(10) });
        assert_eq!(remedy(&leader, &history(&[], 0, 0)), Remedy::Append { from: Offset(0) });
        let begins_later = history(&[(3, 15)], 15, 25);
        assert_eq!(remedy(&leader, &begins_later), Remedy::Append { from: Offset(25) });
    }

    #[test]
    fn what_an_earlier_leader_did_not_get_to_the_new_one_is_cut_off() {
        // KIP-101: the follower led in epoch 2 and has two records that nobody else got.
        let leader = history(&[(1, 0), (3, 10)], 0, 15);
        assert_eq!(remedy(&leader, &history(&[(1, 0), (2, 10)], 0, 12)), Remedy::Truncate { to: Offset(10) });
        // KIP-279: both have epochs that the other lacks, one after another.
        let leader = history(&[(1, 0), (4, 8), (6, 20)], 0, 25);
        let follower = history(&[(1, 0), (3, 12), (5, 14)], 0, 30);
        assert_eq!(remedy(&leader, &follower), Remedy::Truncate { to: Offset(8) });
    }

    #[test]
    fn a_follower_begins_anew_where_its_log_does_not_meet_the_leaders_local_log() {
        let leader = history(&[(1, 0), (3, 10), (4, 30)], 25, 40);
        assert_eq!(remedy(&leader, &history(&[(1, 0), (3, 10)], 0, 20)), Remedy::Reset);
        assert_eq!(remedy(&leader, &history(&[], 0, 0)), Remedy::Reset);
        assert_eq!(remedy(&leader, &history(&[(1, 0), (2, 5)], 0, 60)), Remedy::Reset);
        let beyond = history(&[(3, 50)], 50, 60);
        assert_eq!(remedy(&leader, &beyond), Remedy::Reset);
    }

    #[test]
    fn the_loss_of_committed_records_is_told() {
        let leader = history(&[(1, 0), (3, 10)], 0, 15);
        let follower = history(&[(1, 0), (2, 10)], 0, 14);
        assert!(compare(&leader, &follower, Offset(12)).loses_committed);
        assert!(!compare(&leader, &follower, Offset(10)).loses_committed);
        let unrelated = history(&[(2, 0)], 0, 14);
        let verdict = compare(&leader, &unrelated, Offset(3));
        assert_eq!(verdict, Verdict { remedy: Remedy::Reset, loses_committed: true });
    }

    #[test]
    fn only_the_newest_part_of_a_long_history_is_sent() {
        let starts: Vec<_> = (0..12_000).map(|epoch| (epoch, i64::from(epoch) * 2)).collect();
        let sent = history(&starts, 0, 24_000).newest();
        assert_eq!(sent.epochs.starts().len(), MAX_EPOCHS);
        assert_eq!(sent.epochs.starts()[0], (LeaderEpoch(2_000), Offset(4_000)));
        let follower = history(&starts[..5_000], 0, 10_000);
        assert_eq!(remedy(&sent, &follower), Remedy::Append { from: Offset(10_000) });
        let older = history(&starts[..1_000], 0, 2_000);
        assert_eq!(remedy(&sent, &older), Remedy::Reset, "what is not known is not guessed");
    }

    /// The epoch of each offset in the logs of a partition's leaders, one after another: each goes on from a part of an
    /// earlier one.
    fn logs_of_leaders(steps: &[(usize, usize, usize)]) -> Vec<Vec<i32>> {
        let mut logs: Vec<Vec<i32>> = vec![Vec::new()];
        for (index, &(from, kept, appended)) in steps.iter().enumerate() {
            let from = &logs[from % logs.len()];
            let mut log = from[..kept % (from.len() + 1)].to_vec();
            log.extend(std::iter::repeat_n(i32::try_from(index).unwrap(), appended));
            logs.push(log);
        }
        logs
    }

    fn history_of(log: &[i32], local_log_start: usize) -> History {
        let mut epochs = EpochCache::default();
        for (offset, &epoch) in log.iter().enumerate() {
            epochs.assign(LeaderEpoch(epoch), Offset(offset.try_into().unwrap()));
        }
        let [local_log_start, log_end] = [local_log_start, log.len()].map(|at| Offset(at.try_into().unwrap()));
        History { epochs, local_log_start, log_end }
    }

    fn part(log: &[i32], length: usize) -> &[i32] {
        &log[..log.len() - length % (log.len() + 1)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn histories_say_what_a_comparison_of_every_record_says(
            steps in vec((any::<usize>(), any::<usize>(), 0..4_usize), 1..9),
            picked in any::<[usize; 6]>(),
            high_watermark in any::<usize>(),
            are_trimmed in any::<bool>(),
        ) {
            let logs = logs_of_leaders(&steps);
            let leader = part(&logs[picked[0] % logs.len()], picked[1]);
            let follower = part(&logs[picked[2] % logs.len()], picked[3]);
            let high_watermark = high_watermark % (follower.len() + 1);
            let same = leader.iter().zip(follower).take_while(|(theirs, own)| theirs == own).count();
            let (theirs, own) = (picked[4] % (leader.len() + 1), picked[5] % (follower.len() + 1));
            let (mut leader, mut follower) = (history_of(leader, theirs), history_of(follower, own));
            if are_trimmed {
                leader.epochs.advance_log_start(leader.local_log_start);
                follower.epochs.advance_log_start(follower.local_log_start);
            }
            let at = Offset(same.try_into().unwrap());
            let expected = if same < theirs || same < own || (same == 0 && follower.log_end > Offset::ZERO) {
                Remedy::Reset
            } else if at == follower.log_end {
                Remedy::Append { from: at }
            } else {
                Remedy::Truncate { to: at }
            };
            let verdict = compare(&leader, &follower, Offset(high_watermark.try_into().unwrap()));
            if are_trimmed && (same <= theirs || same <= own) {
                // The epoch before the first local record may not be known.
                prop_assert!(verdict.remedy == expected || verdict.remedy == Remedy::Reset);
            } else {
                prop_assert_eq!(verdict.remedy, expected);
                prop_assert!(same == 0 || verdict.loses_committed == (same < high_watermark));
            }
        }
    }
}
