//! Routes from a file: read when the process starts and whenever the file changes; a bad one is refused and the old routes stay.
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use admin::{Failure, Objects, declared};
use ledger::Mistake;

use crate::foundation::Foundation;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What tells one version of the file from the next.
type Mark = Option<(SystemTime, u64)>;

/// The file, and what was seen of it.
pub struct RoutesFile {
    path: PathBuf,
    seen: Mark,
}

impl RoutesFile {
    /// Takes the file in for the first time.
    pub async fn open(path: PathBuf, objects: &Objects) -> Self {
        let mut file = Self { path, seen: None };
        file.look(objects).await;
        file
    }

    /// Follows the file for as long as it is polled.
    pub async fn follow(mut self, objects: Objects) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look(&objects).await;
        }
    }

    async fn mark(&self) -> Mark {
        let meta = tokio::fs::metadata(&self.path).await.ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }

    /// Takes in what has changed.
    async fn look(&mut self, objects: &Objects) {
        let mark = self.mark().await;
        if mark.is_some() && mark == self.seen {
            return;
        }
        let refused = |mistakes: &[String]| {
            metrics::counter!("routes_file_total", "outcome" => "refused").increment(1);
            for why in mistakes {
                tracing::error!(file = %self.path.display(), why, "the routes file cannot be used; the old routes stay");
            }
        };
        let text = match tokio::fs::read(&self.path).await {
            Ok(text) => text,
            Err(error) => {
                // Said once, not with every look.
                if self.seen.is_some() || mark.is_some() {
                    refused(&[error.to_string()]);
                }
                self.seen = mark;
                return;
            }
        };
        match declared::apply(objects, &text, &Foundation::actor("routes_file")).await {
            Ok(Some(report)) => {
                metrics::counter!("routes_file_total", "outcome" => "applied").increment(1);
                tracing::info!(file = %self.path.display(), %report, "the routes file was taken in");
            }
            Ok(None) => {}
            Err(Failure::Invalid(mistakes)) => refused(&mistakes.iter().map(told).collect::<Vec<_>>()),
            // Tried again with the next look.
            Err(failure @ (Failure::Store(_) | Failure::Stale | Failure::Busy)) => return refused(&[failure.to_string()]),
            Err(failure) => refused(&[failure.to_string()]),
        }
        self.seen = mark;
    }
}

fn told(mistake: &Mistake) -> String {
    format!("{}: {}", mistake.at, mistake.why)
}

/// What is wrong with a file by itself, for `check`.
#[must_use]
pub fn mistakes(path: &std::path::Path) -> Vec<String> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => return vec![format!("gateway.routes_file: {error}")],
    };
    match declared::check(&text) {
        Err(Failure::Invalid(mistakes)) => mistakes.iter().map(|mistake| format!("gateway.routes_file: {}", told(mistake))).collect(),
        Err(failure) => vec![format!("gateway.routes_file: {failure}")],
        Ok(_) => Vec::new(),
    }
}
