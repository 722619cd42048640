//! Which threads go first where there are more of them than cores.

/// Added to the niceness of a thread that yields: beside a thread of niceness 0 on one core,
/// Linux gives it 1.5% of the time, so it moves on but holds nobody up.
const NICENESS: i32 = 19;

/// Lowers the priority of the calling thread alone, which is what Linux does.
pub fn give_way() {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, "a thread that should give way runs at the priority of the others");
    }
}
