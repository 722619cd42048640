//! The roll-out of a key epoch: written besides the active one, filled, switched to, and
//! kept for the way back until it is ended.
//!
//! Workers read the control item every few seconds and stop when they can't for a minute.
//! So after [`SETTLE`] none is left that does not know of a step, and the next step may
//! rely on that: whoever reads an epoch's postings can count on all others to write them.

use std::time::Duration;

use jiff::Timestamp;
use shared::item::{KEY_EPOCHS, KeyEpochsItem};

/// How long after a step the next one may come: longer than a worker goes on with what it
/// knows, and than one event takes.
pub const SETTLE: Duration = Duration::from_secs(10 * 60);

/// Why a step may not be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    #[error("key epoch {also} is being rolled out or kept to go back to; `key-epoch end` it first")]
    Busy { also: u32 },
    #[error("key epoch {number} is the active one")]
    Active { number: u32 },
    #[error("no key epoch is being rolled out or kept; `key-epoch begin` one first")]
    NothingToSwitch,
    #[error("products may lack postings under key epoch {also}; run `reconcile` to its end first")]
    Incomplete { also: u32 },
    #[error("workers may not have heard of the last step; wait until {until:.0}")]
    TooSoon { until: Timestamp },
    #[error("key epoch {number} is in use")]
    InUse { number: u32 },
}

/// What workers use before anything was rolled out.
pub fn shipped() -> KeyEpochsItem {
    KeyEpochsItem {
        name: KEY_EPOCHS.to_owned(),
        active: 0,
        also: None,
        also_is_complete: false,
        since: Timestamp::UNIX_EPOCH,
        revision: 0,
    }
}

/// From now on postings are written under `number` as well.
pub fn begin(item: &KeyEpochsItem, number: u32, now: Timestamp) -> Result<KeyEpochsItem, RolloutError> {
    match item.also {
        Some(also) => Err(RolloutError::Busy { also }),
        None if number == item.active => Err(RolloutError::Active { number }),
        None => Ok(step(item, item.active, Some(number), now)),
    }
}

/// Every product has been planned, by a run that began at `began`: its postings are there
/// under both epochs.
pub fn complete(item: &KeyEpochsItem, began: Timestamp) -> Result<KeyEpochsItem, RolloutError> {
    settled(item, began)?;
    Ok(KeyEpochsItem { also_is_complete: true, revision: item.revision + 1, ..item.clone() })
}

/// Look-ups change to the other epoch; postings go on to be written under both. A second
/// switch is the way back.
pub fn switch(item: &KeyEpochsItem, now: Timestamp) -> Result<KeyEpochsItem, RolloutError> {
    let also = item.also.ok_or(RolloutError::NothingToSwitch)?;
    settled(item, now)?;
    if !item.also_is_complete {
        return Err(RolloutError::Incomplete { also });
    }
    Ok(KeyEpochsItem { also_is_complete: true, ..step(item, also, Some(item.active), now) })
}

/// Postings are no longer written under the other epoch.
pub fn end(item: &KeyEpochsItem, now: Timestamp) -> Result<KeyEpochsItem, RolloutError> {
    item.also.ok_or(RolloutError::NothingToSwitch)?;
    settled(item, now)?;
    Ok(step(item, item.active, None, now))
}

/// Whether an epoch's postings may be removed.
pub fn may_drop(item: &KeyEpochsItem, number: u32, now: Timestamp) -> Result<(), RolloutError> {
    if number == item.active || Some(number) == item.also {
        return Err(RolloutError::InUse { number });
    }
    settled(item, now)
}

fn step(item: &KeyEpochsItem, active: u32, also: Option<u32>, now: Timestamp) -> KeyEpochsItem {
    let revision = item.revision + 1;
    KeyEpochsItem { name: item.name.clone(), active, also, also_is_complete: false, since: now, revision }
}

fn settled(item: &KeyEpochsItem, now: Timestamp) -> Result<(), RolloutError> {
    let until = item.since.saturating_add(SETTLE).unwrap_or(Timestamp::MAX);
    if now < until { Err(RolloutError::TooSoon { until }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minutes * 60).expect("in range")
    }

    #[test]
    fn a_roll_out_goes_there_and_back() {
        let begun = begin(&shipped(), 3, minute(0)).expect("nothing is rolled out");
        assert_eq!((begun.active, begun.also, begun.revision), (0, Some(3), 1));
        let filled = complete(&begun, minute(10)).expect("all workers write both");
        let there = switch(&filled, minute(11)).expect("complete");
        assert_eq!((there.active, there.also), (3, Some(0)));
        let back = switch(&there, minute(21)).expect("the old postings were kept");
        assert_eq!((back.active, back.also), (0, Some(3)));
        let ended = end(&back, minute(31)).expect("settled");
        assert_eq!((ended.active, ended.also, ended.revision), (0, None, 5));
        assert_eq!(may_drop(&ended, 3, minute(41)), Ok(()));
    }

    #[test]
    fn no_step_comes_before_workers_know_of_the_last() {
        let too_soon = RolloutError::TooSoon { until: minute(10) };
        let begun = begin(&shipped(), 3, minute(0)).expect("nothing is rolled out");
        assert_eq!(complete(&begun, minute(9)), Err(too_soon.clone()));
        assert_eq!(switch(&begun, minute(9)), Err(too_soon.clone()));
        assert_eq!(end(&begun, minute(9)), Err(too_soon.clone()));
        assert_eq!(may_drop(&begun, 4, minute(9)), Err(too_soon));
        assert_eq!(switch(&begun, minute(60)), Err(RolloutError::Incomplete { also: 3 }));
    }

    #[test]
    fn steps_out_of_turn_are_refused() {
        let begun = begin(&shipped(), 3, minute(0)).expect("nothing is rolled out");
        assert_eq!(begin(&begun, 4, minute(60)), Err(RolloutError::Busy { also: 3 }));
        assert_eq!(begin(&shipped(), 0, minute(0)), Err(RolloutError::Active { number: 0 }));
        assert_eq!(switch(&shipped(), minute(0)), Err(RolloutError::NothingToSwitch));
        assert_eq!(end(&shipped(), minute(0)), Err(RolloutError::NothingToSwitch));
        for number in [0, 3] {
            assert_eq!(may_drop(&begun, number, minute(60)), Err(RolloutError::InUse { number }));
        }
    }
}
