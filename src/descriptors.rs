//! File descriptors: as many as the process may have, and some of them never for connections of strangers.
use gateway::Places;
use rustix::process::{Resource, getrlimit, setrlimit};

/// The least and the most that stays for files, the database and calls of our own.
const OURS: (u64, u64) = (64, 4_096);

/// Raises the soft limit to the hard one, and keeps connections below it: all listeners together.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    if before != limit.maximum && setrlimit(Resource::Nofile, limit).is_err() {
        limit.current = before;
    }
    if let Some(all) = limit.current {
        Places::at_most_together(usize::try_from(for_connections(all)).unwrap_or(usize::MAX));
    }
}

/// Of so many descriptors, those for connections.
fn for_connections(all: u64) -> u64 {
    all.saturating_sub((all / 8).clamp(OURS.0, OURS.1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_is_ours() {
        assert_eq!((for_connections(1_024), for_connections(20_000), for_connections(1_048_576)), (896, 17_500, 1_044_480));
        assert_eq!(for_connections(10), 1);
    }
}
