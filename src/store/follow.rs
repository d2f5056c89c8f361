//! Hearing of commits that this node's writer did not tell of: other nodes', and those whose outcome was in doubt.
use ledger::{Event, StoreError};

use crate::{exec::Exec, read, writer::Shared};

/// Events read at once.
const AT_ONCE: u32 = 1000;

/// Tells the listeners of everything committed after what they know, in order. At its end, everything that was
/// committed before it began has been told.
pub(crate) async fn catch_up<E: Exec>(e: &mut E, shared: &Shared) -> Result<(), StoreError> {
    let (head, _) = read::head(e).await?;
    while shared.known() < head {
        let known = shared.known();
        let mut events = read::events(e, known, AT_ONCE).await?;
        let mut revocations = read::revocations(e, known, i64::MIN, AT_ONCE).await?;
        while let Some(last) = revocations.last().map(|r| r.seq) {
            let more = read::revocations(e, last, i64::MIN, AT_ONCE).await?;
            if more.is_empty() {
                break;
            }
            revocations.extend(more);
        }
        // No event where the head says there are some: they were truncated meanwhile.
        let reached = events.last().map_or(head, |event| event.seq);
        if events.first().is_none_or(|first| first.seq != known + 1) {
            events.insert(0, gap(known + 1, shared.clock.now_ms()));
        }
        shared.tell(events, revocations, reached);
        shared.told(reached);
    }
    Ok(())
}

/// Stands for what was committed and truncated before this node read it: whoever keeps anything in memory forgets it.
fn gap(seq: u64, at_ms: i64) -> Event {
    Event { seq, at_ms, kind: "storage.gap".to_owned(), document: "{}".to_owned(), hash: [0; 32] }
}
