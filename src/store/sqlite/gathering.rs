//! Waiting a moment for more changes to share a commit with, for as long as that finds any: a commit costs the same for one change and for
//! thirty (decision 0026).
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use crate::writer::{BATCH, Job};

/// One step of waiting.
const STEP: Duration = Duration::from_micros(300);
/// So many steps at most, while each finds somebody.
const STEPS: usize = 8;
/// So many while the process uses every processor it may use: what it is busy with are mostly the next changes, and to commit before
/// them would only take the processor from them.
const BUSY_STEPS: usize = 32;
/// And so long, however late the system comes back from a step.
const LONGEST: Duration = Duration::from_micros(STEP.as_micros() as u64 * BUSY_STEPS as u64);
/// So many steps may find nobody while the process is busy.
const PATIENCE: usize = 1;
/// Changes that come by no more than so many a step come one by one.
const SLOW: usize = 3;
/// Batches to go without waiting, after a wait that found nobody.
const PAUSE: u8 = 64;
/// Of a step so many parts in a hundred, for each processor, are a busy process.
const BUSY: u128 = 60;

/// What was learned from the last batches.
pub(super) struct Gathering {
    /// Batches to go without waiting.
    pause: u8,
    /// How many shared the last commit: they are answered together and come back together.
    last: usize,
    processors: u128,
}

/// One step: how many there are, when the last came, and whether the process was busy meanwhile.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// How many were made before this one.
    at: usize,
    jobs: usize,
    /// How many steps ago somebody came.
    empty: usize,
    busy: bool,
}

impl Step {
    /// Whether another is worth it.
    const fn again(self, wanted: usize) -> bool {
        if self.jobs >= BATCH {
            return false;
        }
        if self.busy {
            // Where changes come slowly because each is much work, those who come back together are more than have come.
            let slow = self.jobs <= SLOW * (self.at + 1);
            return (self.jobs < wanted || slow) && self.empty <= PATIENCE && self.at + 1 < BUSY_STEPS;
        }
        self.at + 1 < STEPS && self.empty == 0 && self.jobs < wanted
    }
}

impl Gathering {
    pub(super) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u128);
        Self { pause: 0, last: 0, processors }
    }

    /// Waits for more changes, as long as it is worth it.
    pub(super) fn more(&mut self, jobs: &mut Vec<Job>, waiting: &mut mpsc::Receiver<Job>) {
        if self.pause > 0 {
            self.pause -= 1;
            self.last = jobs.len();
            return;
        }
        let wanted = self.last.clamp(2, BATCH);
        if jobs.len() < wanted {
            let began = Instant::now();
            let (mut worked, mut last, mut empty) = (worked(), began, 0);
            for at in 0.. {
                std::thread::sleep(STEP);
                let before = jobs.len();
                while jobs.len() < BATCH
                    && let Ok(job) = waiting.try_recv()
                {
                    jobs.push(job);
                }
                let now = Instant::now();
                let busy = self.busy(&mut worked, now - std::mem::replace(&mut last, now));
                empty = if jobs.len() > before { 0 } else { empty + 1 };
                if now - began >= LONGEST || !(Step { at, jobs: jobs.len(), empty, busy }).again(wanted) {
                    break;
                }
            }
        }
        if jobs.len() == 1 {
            self.pause = PAUSE;
        }
        self.last = jobs.len();
    }

    /// Whether the process was busy in a step that took so long.
    fn busy(&self, worked: &mut Duration, took: Duration) -> bool {
        let before = std::mem::replace(worked, self::worked());
        worked.saturating_sub(before).as_nanos() * 100 >= took.as_nanos() * BUSY * self.processors
    }
}

/// What this process has had of the processors.
fn worked() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(spent.tv_sec).unwrap_or(0), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(at: usize, jobs: usize, empty: usize, busy: bool, wanted: usize) -> bool {
        Step { at, jobs, empty, busy }.again(wanted)
    }

    #[test]
    fn an_idle_process_is_waited_for_while_each_step_finds_somebody() {
        assert!(again(0, 3, 0, false, 30));
        assert!(!again(0, 3, 1, false, 30), "nobody came");
        assert!(!again(STEPS - 1, 3, 0, false, 30), "long enough");
        assert!(!again(0, 30, 0, false, 30), "as many as last time");
    }

    #[test]
    fn a_busy_process_is_waited_for_longer_but_not_for_ever() {
        assert!(again(STEPS, 3, PATIENCE, true, 30), "each change is much work");
        assert!(!again(STEPS, 3, PATIENCE + 1, true, 30), "it is busy with something else");
        assert!(!again(BUSY_STEPS - 1, 3, 0, true, 30));
        assert!(!again(0, 30, 0, true, 30), "as many as last time, at once");
        assert!(again(STEPS, 9, PATIENCE, true, 4), "as many as last time, one by one: there may be more");
        assert!(!again(STEPS, 9, 1, false, 4), "all of them wait");
        assert!(!again(0, BATCH, 0, true, 30));
    }

    #[test]
    fn work_is_measured() {
        let before = worked();
        while worked() < before + Duration::from_millis(1) {}
        assert!(worked() > before);
        let one = Gathering { pause: 0, last: 0, processors: 1 };
        assert!(one.busy(&mut before.clone(), Duration::from_millis(1)));
        assert!(!one.busy(&mut worked(), Duration::from_secs(3600)), "a step that was long for other reasons");
    }
}
