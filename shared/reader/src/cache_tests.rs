use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;
use tokio::time::advance;

use super::*;

const TTL: Duration = Duration::from_secs(5);

/// A cache of numbers that are twice their key, and how many reads filled it.
struct Fixture {
    cache: Arc<Cache<u32, u32>>,
    reads: Arc<AtomicUsize>,
}

impl Fixture {
    fn new(entries_max: usize) -> Self {
        Self { cache: Arc::new(Cache::new(entries_max, TTL)), reads: Arc::default() }
    }

    async fn get(&self, keys: &[u32]) -> Vec<u32> {
        let reads = self.reads.clone();
        let read = |keys: Vec<u32>| async move {
            reads.fetch_add(1, Ordering::SeqCst);
            Ok(keys.into_iter().map(|key| (key, 2 * key)).collect())
        };
        let mut values: Vec<u32> = self.cache.get(keys, soon(), read).await.values.into_values().collect();
        values.sort();
        values
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    fn held(&self) -> usize {
        let state = self.cache.lock();
        state.young.len() + state.old.len()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

fn failed() -> ReaderError {
    ReaderError::NoActiveModel { table: "t".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_not_read_again_until_its_time_is_up() {
    let fixture = Fixture::new(10);
    assert_eq!(fixture.get(&[1, 2]).await, [2, 4]);
    assert_eq!((fixture.get(&[2, 1]).await, fixture.reads()), (vec![2, 4], 1));
    assert_eq!((fixture.get(&[2, 3]).await, fixture.reads()), (vec![4, 6], 2), "only the new key is read");
    advance(TTL).await;
    assert_eq!((fixture.get(&[1]).await, fixture.reads()), (vec![2], 3));
}

#[tokio::test]
async fn the_bound_holds_and_what_is_read_often_stays() {
    let fixture = Fixture::new(8);
    for key in 0..1_000 {
        fixture.get(&[0]).await;
        fixture.get(&[key]).await;
        assert!(fixture.held() <= 8, "{} entries after {key}", fixture.held());
    }
    assert_eq!(fixture.reads(), 1_000, "the key 0 was read once");
}

#[tokio::test]
async fn all_who_ask_meanwhile_share_one_read() {
    let fixture = Fixture::new(10);
    let (go, gone) = oneshot::channel::<()>();
    let first = {
        let cache = fixture.cache.clone();
        tokio::spawn(async move {
            let read = |keys: Vec<u32>| async move {
                gone.await.expect("sent below");
                Ok(keys.into_iter().map(|key| (key, 7)).collect())
            };
            cache.get(&[1, 2], soon(), read).await.values
        })
    };
    while fixture.cache.lock().flights.len() < 2 {
        tokio::task::yield_now().await;
    }
    let second = fixture.get(&[2, 3]);
    let sent = async { go.send(()).expect("the first read waits") };
    let (second, ()) = tokio::join!(second, sent);
    assert_eq!((second, fixture.reads()), (vec![6, 7], 1), "2 came from the first read, 3 from the second");
    assert_eq!(first.await.expect("ends"), HashMap::from([(1, 7), (2, 7)]));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_late_answers_the_next_one() {
    let fixture = Fixture::new(10);
    let slow = |keys: Vec<u32>| async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(keys.into_iter().map(|key| (key, 9)).collect())
    };
    let late = fixture.cache.get(&[1], soon(), slow).await;
    assert!(late.values.is_empty() && late.error.is_none());
    // Joins the read under way, which lands within its own deadline.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((fixture.get(&[1]).await, fixture.reads()), (vec![9], 0));
}

#[tokio::test(start_paused = true)]
async fn what_has_landed_by_the_deadline_is_given_and_kept() {
    let fixture = Fixture::new(10);
    let halting = |keys: Vec<u32>, landing: Arc<Landing<u32, u32>>| async move {
        landing.found(keys.into_iter().take(2).map(|key| (key, 9)).collect());
        // Longer than anybody waits.
        tokio::time::sleep(Duration::from_secs(3)).await;
        Err(failed())
    };
    let answers = fixture.cache.get_in_parts(&[1, 2, 3], soon(), halting).await;
    assert_eq!(answers.values, HashMap::from([(1, 9), (2, 9)]));
    assert!(answers.error.is_none(), "it has not failed by then");
    assert_eq!((fixture.get(&[1, 2]).await, fixture.reads()), (vec![9, 9], 0), "they are kept");
    assert_eq!((fixture.get(&[3]).await, fixture.reads()), (vec![], 0), "the read is still under way");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((fixture.get(&[3]).await, fixture.reads()), (vec![6], 1));
}

#[tokio::test]
async fn a_read_that_fails_says_why_and_is_tried_again() {
    let fixture = Fixture::new(10);
    let answers = fixture.cache.get(&[1], soon(), |_| async { Err(failed()) }).await;
    assert!(answers.values.is_empty() && matches!(answers.error, Some(ReaderError::NoActiveModel { .. })));
    assert_eq!((fixture.get(&[1]).await, fixture.reads()), (vec![2], 1));
}

#[tokio::test]
async fn a_read_that_dies_is_no_flight_to_wait_for() {
    let fixture = Fixture::new(10);
    let dies = |_| async { panic!("as a bug would") };
    assert!(fixture.cache.get(&[1], soon(), dies).await.values.is_empty());
    assert_eq!((fixture.get(&[1]).await, fixture.reads()), (vec![2], 1));
}
