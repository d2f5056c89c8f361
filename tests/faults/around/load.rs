//! Clients at work while something around the server breaks, and a list of what they were told that is checked afterwards.
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::kit::http::{Answer, Go};
use crate::kit::seed::{APP, GW, Id, SAFE};
use crate::kit::visitor::text;
use crate::kit::{Ask, Server, Visitor};

/// One chain of refresh tokens.
#[derive(Default)]
struct Chain {
    /// Spent and acknowledged, in order.
    spent: Vec<String>,
    /// Acknowledged as given.
    held: String,
    /// What became of `held` is not known: a request with it got no word on it.
    unsure: bool,
}

/// What the clients were told.
#[derive(Default)]
pub struct Told {
    chains: Vec<Chain>,
    issued: Vec<String>,
    revoked: Vec<String>,
    /// Answers that gave what was asked for.
    pub good: usize,
    /// Answers that said that storage is away.
    pub away: usize,
    /// Connections that broke before an answer.
    pub broken: usize,
}

/// Where the clients go, and what they keep.
pub struct Load {
    url: String,
    stop: AtomicBool,
    told: Mutex<Told>,
    acknowledged: AtomicUsize,
    refused: AtomicUsize,
}

/// What may be said while storage is away: to come back later, and nothing of value.
#[track_caller]
pub fn expect_away(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|s| s >= 1), "{:?}", answer.headers);
    assert!(!answer.text().contains("_token\""), "{}", answer.text());
}

impl Load {
    /// `chains` people with a refresh token each, who are logged in already.
    pub fn new(server: &Server, url: &str, chains: usize) -> Self {
        let held = |_| {
            let tokens = Visitor::new().tokens(server, &Ask::new(&APP), "alice");
            Chain { held: text(&tokens, "refresh_token"), ..Chain::default() }
        };
        let told = Told { chains: (0..chains).map(held).collect(), ..Told::default() };
        let (stop, told) = (AtomicBool::new(false), Mutex::new(told));
        Self { url: url.to_owned(), stop, told, acknowledged: AtomicUsize::new(0), refused: AtomicUsize::new(0) }
    }

    /// Works while `act` runs.
    pub fn during(&self, act: impl FnOnce()) {
        self.stop.store(false, Ordering::SeqCst);
        let chains = std::mem::take(&mut self.told.lock().expect("told").chains);
        let done: Vec<Chain> = std::thread::scope(|scope| {
            let spinning: Vec<_> = chains.into_iter().map(|chain| scope.spawn(|| self.spin(chain))).collect();
            let issuing = scope.spawn(|| self.issue());
            struct Stop<'a>(&'a AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::SeqCst);
                }
            }
            let stop = Stop(&self.stop);
            act();
            drop(stop);
            issuing.join().expect("the machine's work");
            spinning.into_iter().map(|chain| chain.join().expect("a chain")).collect()
        });
        self.told.lock().expect("told").chains = done;
    }

    /// How much was acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// How often storage was said to be away so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Sends a form; `None` if nothing is known of what became of it.
    fn ask(&self, who: &Id, path: &str, form: &[(&str, &str)]) -> Option<Answer> {
        let answer = who.post(&format!("{}{path}", self.url), form).try_go();
        let mut told = self.told.lock().expect("told");
        let Ok(answer) = answer else {
            told.broken += 1;
            return None;
        };
        if answer.status >= 500 {
            expect_away(&answer);
            told.away += 1;
            self.refused.fetch_add(1, Ordering::SeqCst);
            return None;
        }
        if answer.status == 200 {
            told.good += 1;
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        Some(answer)
    }

    fn spin(&self, mut chain: Chain) -> Chain {
        while !self.stop.load(Ordering::SeqCst) {
            if chain.held.is_empty() {
                break;
            }
            let form = [("grant_type", "refresh_token"), ("refresh_token", chain.held.as_str())];
            match self.ask(&APP, "/token", &form) {
                None => chain.unsure = true,
                Some(answer) if answer.status == 200 => {
                    let next = text(&answer.json(), "refresh_token");
                    chain.spent.push(std::mem::replace(&mut chain.held, next));
                    chain.unsure = false;
                }
                Some(answer) => {
                    // It was spent by the request that got no word: this was a reuse, and the chain is over.
                    assert!(chain.unsure, "a live chain was refused: {}", answer.text());
                    answer.expect_error(400, "invalid_grant");
                    chain.spent.push(std::mem::take(&mut chain.held));
                }
            }
        }
        chain
    }

    /// Opaque tokens, every other one revoked.
    fn issue(&self) {
        let mut revoke = false;
        while !self.stop.load(Ordering::SeqCst) {
            let Some(given) = self.ask(&SAFE, "/token", &[("grant_type", "client_credentials")]) else { continue };
            let token = text(&given.expect(200).json(), "access_token");
            revoke = !revoke;
            if !revoke {
                self.told.lock().expect("told").issued.push(token);
            } else if let Some(answer) = self.ask(&SAFE, "/revoke", &[("token", &token)]) {
                answer.expect(200);
                self.told.lock().expect("told").revoked.push(token);
            }
        }
    }

    /// Checks everything that was acknowledged; gives the numbers.
    #[track_caller]
    pub fn judge(self, server: &Server) -> Told {
        let told = self.told.into_inner().expect("told");
        let active = |token: &String| {
            let asked = GW.post(&format!("{}/introspect", self.url), &[("token", token)]).go().expect(200).json();
            asked["active"] == true
        };
        let _ = server;
        for token in &told.issued {
            assert!(active(token), "an acknowledged token is gone");
        }
        for token in &told.revoked {
            assert!(!active(token), "a revoked token lives again");
        }
        let refresh = |token: &str| {
            let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
            APP.post(&format!("{}/token", self.url), &form).go()
        };
        for chain in &told.chains {
            if !chain.held.is_empty() {
                let answer = refresh(&chain.held);
                if chain.unsure {
                    assert!([200, 400].contains(&answer.status), "{}", answer.text());
                } else {
                    answer.expect(200);
                }
            }
            for spent in chain.spent.iter().rev().take(3) {
                refresh(spent).expect_error(400, "invalid_grant");
            }
        }
        assert!(told.good > 0, "nothing was under way");
        told
    }
}
