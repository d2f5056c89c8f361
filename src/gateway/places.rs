//! Places for connections at a listener: so many together, so many of one source. When all are taken, those on which nothing is being served
//! make room, the longest unused first, and before them those of a source that holds a large part of all.
use std::{
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::unfinished::Budget;

/// How long those who were asked to leave may take before others are asked.
const PATIENCE: Duration = Duration::from_millis(50);
/// One in so many leaves at a time: who looks through all of them does so seldom.
const BATCH: usize = 128;
/// Shares of all places by which sources are told apart.
const SHARES: usize = 8;

/// All listeners of the process: how many connections they may have, how many they have, and which they are.
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static ALL: Mutex<Vec<Weak<Places>>> = Mutex::new(Vec::new());

/// A connection that holds a place.
pub trait Guest: Send + Sync + 'static {
    /// When it was last used, as told by [`Places::turn`]; `None` while something is being served on it.
    fn idle_since(&self) -> Option<u64>;
    /// Asks it to end.
    fn leave(&self);
}

/// The places of a listener.
pub struct Places {
    name: &'static str,
    most: usize,
    of_source: usize,
    room: Arc<Semaphore>,
    turn: AtomicU64,
    held: Mutex<Held>,
    unfinished: Arc<Budget>,
}

#[derive(Default)]
struct Held {
    guests: AHashMap<u64, Entry>,
    of: AHashMap<IpAddr, usize>,
}

struct Entry {
    source: Option<IpAddr>,
    guest: Arc<dyn Guest>,
    asked: bool,
}

/// A place that is taken; dropping it frees it.
pub struct Place {
    places: Arc<Places>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

/// A source holds as many places as it may, and uses all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

impl Places {
    /// For a listener by that name: `most` together, `of_source` of one address (0: three quarters of all).
    #[must_use]
    pub fn new(name: &'static str, most: usize, of_source: usize) -> Arc<Self> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let of_source = if of_source == 0 { most - most / 4 } else { of_source };
        let room = Arc::new(Semaphore::new(most));
        let places = Arc::new(Self {
            name,
            most,
            of_source,
            room,
            turn: AtomicU64::new(1),
            held: Mutex::default(),
            unfinished: Budget::new(name, most),
        });
        let mut all = ALL.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&places));
        places
    }

    /// So many connections at all listeners of this process together: what it may open is needed for more than them.
    pub fn at_most_together(most: usize) {
        MOST.store(most.max(1), Ordering::Relaxed);
    }

    /// Descriptors have run out: somebody who is not served makes room, at the listener that holds most.
    pub fn relieve() {
        let all: Vec<Arc<Self>> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
        if let Some(fullest) = all.iter().max_by_key(|places| places.taken()) {
            fullest.make_room((fullest.taken() / BATCH).max(1), None);
        }
    }

    /// What a guest notes when it is used: a number that grows with each connection that comes.
    #[must_use]
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// What is held of requests that have not come whole.
    #[must_use]
    pub const fn unfinished(&self) -> &Arc<Budget> {
        &self.unfinished
    }

    /// How many places are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.held.lock().guests.len()
    }

    /// Takes a place for a connection, once there is one. A source that is `None` is a proxy whose clients are many.
    ///
    /// # Errors
    /// The source holds as many as it may, and all of them are in use.
    pub async fn enter(self: &Arc<Self>, source: Option<IpAddr>, guest: Arc<dyn Guest>) -> Result<Place, TooMany> {
        let source = source.map(whole);
        if let Some(source) = source
            && self.of_source < self.most
            && self.held.lock().of.get(&source).is_some_and(|held| *held >= self.of_source)
            && !self.make_room((self.of_source / BATCH).max(1), Some(source))
        {
            metrics::counter!("connections_refused_total", "listener" => self.name).increment(1);
            return Err(TooMany);
        }
        let permit = loop {
            if TAKEN.load(Ordering::Relaxed) >= MOST.load(Ordering::Relaxed) {
                Self::relieve();
                tokio::time::sleep(PATIENCE / 10).await;
                continue;
            }
            if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                break permit;
            }
            self.make_room((self.most / BATCH).max(1), None);
            if let Ok(Ok(permit)) = tokio::time::timeout(PATIENCE, Arc::clone(&self.room).acquire_owned()).await {
                break permit;
            }
        };
        TAKEN.fetch_add(1, Ordering::Relaxed);
        let number = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut held = self.held.lock();
        if let Some(source) = source {
            *held.of.entry(source).or_default() += 1;
        }
        held.guests.insert(number, Entry { source, guest, asked: false });
        Ok(Place { places: Arc::clone(self), number, _permit: permit })
    }

    /// Asks as many as that to leave, of one source or of all; whether there was anybody to ask.
    fn make_room(&self, many: usize, of: Option<IpAddr>) -> bool {
        let mut held = self.held.lock();
        let Held { guests, of: sources } = &mut *held;
        let mut idle: Vec<(usize, u64, u64)> = Vec::new();
        for (number, entry) in guests.iter() {
            if entry.asked || (of.is_some() && entry.source != of) {
                continue;
            }
            let Some(since) = entry.guest.idle_since() else { continue };
            let share = entry.source.and_then(|source| sources.get(&source)).map_or(0, |held| held * SHARES / self.most);
            idle.push((SHARES.saturating_sub(share), since, *number));
        }
        if idle.is_empty() {
            return false;
        }
        let many = many.min(idle.len());
        idle.select_nth_unstable(many - 1);
        for (.., number) in idle.iter().take(many) {
            if let Some(entry) = guests.get_mut(number) {
                entry.asked = true;
                // From now on it is none of its source's.
                if let Some(source) = entry.source.take() {
                    less(sources, source);
                }
                entry.guest.leave();
            }
        }
        metrics::counter!("connections_evicted_total", "listener" => self.name).increment(u64::try_from(many).unwrap_or(0));
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
        let mut held = self.places.held.lock();
        let Some(entry) = held.guests.remove(&self.number) else { return };
        if let Some(source) = entry.source {
            less(&mut held.of, source);
        }
    }
}

/// One connection less of a source.
fn less(of: &mut AHashMap<IpAddr, usize>, source: IpAddr) {
    if let Some(count) = of.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            of.remove(&source);
        }
    }
}

/// An IPv6 address counts by its /64.
fn whole(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::sync::Notify;

    use super::*;

    #[derive(Default)]
    struct Visitor {
        busy: AtomicBool,
        since: AtomicU64,
        asked: AtomicBool,
        rung: Notify,
    }

    impl Guest for Visitor {
        fn idle_since(&self) -> Option<u64> {
            (!self.busy.load(Ordering::SeqCst)).then(|| self.since.load(Ordering::SeqCst))
        }
        fn leave(&self) {
            self.asked.store(true, Ordering::SeqCst);
            self.rung.notify_one();
        }
    }

    /// Somebody with a place, who gives it up when asked.
    async fn sits(places: &Arc<Places>, source: u8) -> Result<Arc<Visitor>, TooMany> {
        let visitor = Arc::new(Visitor::default());
        visitor.since.store(places.turn(), Ordering::SeqCst);
        let place = places.enter(Some(IpAddr::from([192, 0, 2, source])), Arc::clone(&visitor) as _).await?;
        let leaving = Arc::clone(&visitor);
        tokio::spawn(async move {
            leaving.rung.notified().await;
            drop(place);
        });
        Ok(visitor)
    }

    fn asked(visitors: &[Arc<Visitor>]) -> Vec<bool> {
        visitors.iter().map(|v| v.asked.load(Ordering::SeqCst)).collect()
    }

    #[tokio::test]
    async fn the_longest_unused_leaves_when_all_places_are_taken_and_none_that_is_served() {
        let places = Places::new("test", 8, 8);
        let mut open = Vec::new();
        for source in 0..8 {
            open.push(sits(&places, source).await.unwrap());
        }
        open[0].busy.store(true, Ordering::SeqCst);
        open[1].since.store(places.turn(), Ordering::SeqCst);
        assert!(asked(&open).iter().all(|asked| !asked), "nobody before somebody comes");
        let _ninth = sits(&places, 9).await.unwrap();
        assert_eq!(asked(&open), [false, false, true, false, false, false, false, false]);
        assert_eq!(places.taken(), 8);
    }

    #[tokio::test]
    async fn a_crowd_leaves_before_others_however_fresh_it_is() {
        let places = Places::new("test", 16, 16);
        let old = sits(&places, 1).await.unwrap();
        let mut crowd = Vec::new();
        for _ in 0..15 {
            crowd.push(sits(&places, 2).await.unwrap());
        }
        let _next = sits(&places, 3).await.unwrap();
        assert!(!old.asked.load(Ordering::SeqCst));
        assert_eq!(asked(&crowd).iter().filter(|asked| **asked).count(), 1);
        assert!(crowd[0].asked.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn one_source_holds_its_part_and_no_more() {
        let places = Places::new("test", 16, 0);
        let mut crowd = Vec::new();
        for _ in 0..12 {
            crowd.push(sits(&places, 1).await.unwrap());
        }
        for one in &crowd {
            one.busy.store(true, Ordering::SeqCst);
        }
        assert_eq!(sits(&places, 1).await.err(), Some(TooMany));
        assert!(sits(&places, 2).await.is_ok());
        crowd[5].busy.store(false, Ordering::SeqCst);
        assert!(sits(&places, 1).await.is_ok(), "in the place of its own that is idle");
        assert!(crowd[5].asked.load(Ordering::SeqCst));
        let last = sits(&places, 1).await.expect("in the place of the one before, which is idle");
        last.busy.store(true, Ordering::SeqCst);
        assert_eq!(sits(&places, 1).await.err(), Some(TooMany), "who was asked to go counts for nobody");
    }

    #[tokio::test]
    async fn a_source_at_its_limit_gives_up_several_of_many_at_once() {
        let places = Places::new("test", 1024, 512);
        let mut crowd = Vec::new();
        for _ in 0..513 {
            crowd.push(sits(&places, 1).await.unwrap());
        }
        assert_eq!(asked(&crowd).iter().filter(|asked| **asked).count(), 512 / BATCH, "or each one that comes costs a look at all");
    }

    #[tokio::test]
    async fn where_all_are_served_the_next_waits_for_a_place() {
        let places = Places::new("test", 1, 0);
        let busy = sits(&places, 1).await.unwrap();
        busy.busy.store(true, Ordering::SeqCst);
        assert!(tokio::time::timeout(PATIENCE * 3, sits(&places, 2)).await.is_err());
        busy.leave();
        sits(&places, 2).await.unwrap();
    }

    #[test]
    fn an_ipv6_source_is_its_network() {
        let at = |text: &str| whole(text.parse().unwrap());
        assert_eq!(at("2001:db8:1:2:3:4:5:6"), at("2001:db8:1:2::9"));
        assert_ne!(at("2001:db8:1:2::"), at("2001:db8:1:3::"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
    }
}
