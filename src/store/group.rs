//! Changes that can be decided together, where every statement is a way to a server and back: guards that only read, then at most one thing
//! consumed, then new things. Nothing in such a run of changes touches what another's guards look at, so asking all at once is
//! asking one after the other.
use std::collections::HashSet;

use ledger::{Artefact, ArtefactKind, ObjectKind, Step};

/// A guard that reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reads<'a> {
    /// The object has this version.
    Object { kind: ObjectKind, id: &'a str, version: i64 },
    /// The grant is live.
    Grant { id: &'a str, now: i64 },
    /// The session is live.
    Session { id: &'a str, now: i64 },
}

/// A guard that consumes or rotates one row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Takes<'a> {
    Consume { kind: ArtefactKind, id: &'a [u8], now: i64, successor: Option<&'a [u8]> },
    Rotate { kind: ArtefactKind, id: &'a [u8], now: i64, from: &'a [u8], to: &'a [u8], expires_at: i64, born: Option<&'a [u8]>, seq: u64 },
}

impl<'a> Takes<'a> {
    /// Which row it is.
    pub(crate) const fn key(&self) -> (ArtefactKind, &'a [u8]) {
        match *self {
            Self::Consume { kind, id, .. } | Self::Rotate { kind, id, .. } => (kind, id),
        }
    }
}

/// A change of a run: its guards with their places among its steps.
#[derive(Debug, Default)]
pub(crate) struct Plain<'a> {
    pub(crate) reads: Vec<(usize, Reads<'a>)>,
    pub(crate) takes: Option<(usize, Takes<'a>)>,
    pub(crate) puts: Vec<&'a Artefact>,
}

impl<'a> Plain<'a> {
    /// A change as one of a run, if it can be.
    pub(crate) fn of(steps: &'a [Step]) -> Option<Self> {
        let mut plain = Self::default();
        for (at, step) in steps.iter().enumerate() {
            // What reads comes first: a guard that refuses after something was taken would have to undo it.
            let untouched = plain.takes.is_none() && plain.puts.is_empty();
            match step {
                Step::ObjectIs { kind, id, version } if untouched => {
                    plain.reads.push((at, Reads::Object { kind: *kind, id: said(id)?, version: *version }));
                }
                Step::GrantLive { id, now } if untouched => plain.reads.push((at, Reads::Grant { id: said(id)?, now: *now })),
                Step::SessionLive { id, now } if untouched => plain.reads.push((at, Reads::Session { id: said(id)?, now: *now })),
                Step::Consume { kind, id, now, successor } if plain.takes.is_none() => {
                    plain.takes = Some((at, Takes::Consume { kind: *kind, id, now: *now, successor: successor.as_deref() }));
                }
                Step::Rotate { kind, id, now, from, to, expires_at, born, seq } if plain.takes.is_none() => {
                    let (kind, now, expires_at, seq, born) = (*kind, *now, *expires_at, *seq, born.as_deref());
                    plain.takes = Some((at, Takes::Rotate { kind, id, now, from, to, expires_at, born, seq }));
                }
                Step::Put(row) => plain.puts.push(row),
                _ => return None,
            }
        }
        Some(plain)
    }
}

/// A database's text cannot hold NUL: such a name is looked up on its own, and found by nobody.
fn said(name: &str) -> Option<&str> {
    (!name.contains('\0')).then_some(name)
}

/// The longest run that these changes begin with. It ends before a change that takes what one before it takes or puts.
pub(crate) fn run<'a>(changes: impl Iterator<Item = &'a [Step]>) -> Vec<Plain<'a>> {
    let (mut run, mut touched) = (Vec::new(), HashSet::new());
    for steps in changes {
        let Some(plain) = Plain::of(steps) else { break };
        let mut keys = plain.puts.iter().map(|row| (row.kind, row.id.as_slice())).chain(plain.takes.map(|(_, takes)| takes.key()));
        if !keys.all(|key| touched.insert(key)) {
            break;
        }
        run.push(plain);
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::kit::{NOW, artefact, consume};

    fn live(id: &str) -> Step {
        Step::GrantLive { id: id.into(), now: NOW }
    }

    fn length(changes: &[Vec<Step>]) -> usize {
        run(changes.iter().map(Vec::as_slice)).len()
    }

    #[test]
    fn a_run_ends_where_one_change_could_decide_over_another() {
        let refresh = |id: &[u8]| vec![live("g"), consume(ArtefactKind::Refresh, id, NOW), Step::Put(artefact(ArtefactKind::Access, id))];
        assert_eq!(length(&[refresh(b"a"), refresh(b"b"), refresh(b"c")]), 3);
        assert_eq!(length(&[refresh(b"a"), refresh(b"a")]), 1, "of two that take one thing the second is asked alone");
        assert_eq!(length(&[refresh(b"a"), vec![Step::EndGrant { id: "g".into(), now: NOW }], refresh(b"b")]), 1);
        assert_eq!(length(&[vec![Step::Put(artefact(ArtefactKind::Code, b"a"))], vec![consume(ArtefactKind::Code, b"a", NOW)]]), 1);
        assert_eq!(length(&[vec![Step::PutMeta { name: "n".into(), value: vec![] }], refresh(b"b")]), 0);
    }

    #[test]
    fn what_would_have_to_be_undone_is_no_part_of_a_run() {
        let twice = vec![consume(ArtefactKind::Refresh, b"a", NOW), consume(ArtefactKind::Code, b"b", NOW)];
        let late = vec![consume(ArtefactKind::Refresh, b"a", NOW), live("g")];
        assert_eq!((length(&[twice]), length(&[late]), length(&[vec![live("g\0")]])), (0, 0, 0));
        assert_eq!(length(&[vec![], vec![live("g")]]), 2);
    }
}
