//! The browser comes back from the login server: code for tokens, tokens for a session (OpenID Connect Core §3.1.3, RFC 9700 §4.4).
use std::{rc::Rc, sync::Arc};

use edge::{
    admission::LEEWAY,
    id_token::Beside,
    identity::Issuer,
    login::{Answer, Failed, is_return_address},
    session::{Sent, sent},
};
use http::{HeaderValue, Method, Response, StatusCode, header};
use ledger::{ArtefactKind, Change, EventKind, NewEvent, Outcome, Step};
use serde_json::{Map, Value};
use tokens::{
    access, hash,
    jws::Parsed,
    secret::{self, Plain, SecretKind},
};

use super::{
    Place, Sessions, count,
    login::Begun,
    page, place,
    row::{self, Kept},
};
use crate::{asked::Asked, body::AnswerBody, source::Introspection, worker::Worker};

/// Claims that are about a token, not about the person.
const ABOUT_TOKENS: [&str; 16] =
    ["iss", "aud", "azp", "exp", "iat", "nbf", "jti", "nonce", "at_hash", "c_hash", "s_hash", "seq", "from", "cnf", "active", "token_type"];

/// Serves the callback.
pub(super) async fn serve(worker: &Rc<Worker>, sessions: &Arc<Sessions>, asked: &Asked<'_>) -> Response<AnswerBody> {
    if *asked.method != Method::GET {
        return page::method("GET");
    }
    match Box::pin(returned(worker, sessions, asked)).await {
        Ok(answer) => answer,
        Err(failed) => {
            count("login_failed");
            tracing::info!(target: "gateway", error = failed.code, why = failed.why, peer = %asked.peer, "a login did not come to its end");
            page::failed(failed, asked.headers)
        }
    }
}

async fn returned(worker: &Rc<Worker>, sessions: &Arc<Sessions>, asked: &Asked<'_>) -> Result<Response<AnswerBody>, Failed> {
    let wrong = |why| Failed::new("invalid_request", why);
    let place = place(asked).ok_or(wrong("no_tls"))?;
    let answer = asked.query.and_then(Answer::read).ok_or(wrong("answer_unclear"))?;
    let begun = consumed(sessions, asked, &place, &answer).await?;
    let provider = sessions.server.provider(sessions.settings()).await?;
    let code = answer.code(&provider)?.to_owned();
    // Goes on when the browser does not wait: the code is spent, and its tokens would belong to nobody.
    let (own, back) = (Arc::clone(sessions), begun.back.clone());
    let made = tokio::spawn(async move { own.logged_in(&begun, &code).await }).await;
    let kept = made.map_err(|_| Failed::new("server_error", "login_broke_off"))??;
    let before = before(sessions, asked, &place).await?;
    let cookie = started(sessions, &kept, before).await?;
    if let Sent::One(old) = sent(asked.headers, sessions.cookie(&place).name()) {
        worker.seen.borrow_mut().forget(old);
    }
    count("started");
    let back = if is_return_address(&back) { back } else { "/".to_owned() };
    let mut answer = page::plain(StatusCode::FOUND);
    answer.headers_mut().insert(header::LOCATION, HeaderValue::try_from(back).map_err(|_| wrong("return_address"))?);
    let line = sessions.cookie(&place).set(cookie.expose(), None).ok_or(Failed::new("server_error", "cookie"))?;
    answer.headers_mut().append(header::SET_COOKIE, line);
    Ok(answer)
}

/// The login that this browser began here, taken so that it works once.
async fn consumed(sessions: &Sessions, asked: &Asked<'_>, place: &Place<'_>, answer: &Answer) -> Result<Begun, Failed> {
    let wrong = |why| Failed::new("invalid_request", why);
    let away = |_| Failed::new("temporarily_unavailable", "session_storage");
    let parts = &sessions.parts;
    let shown = secret::parse(SecretKind::Login, &answer.state, &sessions.mac).ok_or(wrong("state_unknown"))?;
    let kind = ArtefactKind::Login;
    let row = parts.store.artefact(kind, &shown.id).await.map_err(away)?.ok_or(wrong("state_unknown"))?;
    if !shown.matches(&row.mac) {
        return Err(wrong("state_unknown"));
    }
    let begun: Begun = row::open(&parts.kek, &row).ok_or(wrong("state_unknown"))?;
    let Sent::One(binding) = sent(asked.headers, sessions.binding(place).name()) else { return Err(wrong("other_browser")) };
    if !hash::eq(sessions.bound(binding).as_bytes(), begun.binding.as_bytes()) {
        return Err(wrong("other_browser"));
    }
    if begun.redirect_uri != sessions.redirect_uri(place) {
        return Err(wrong("other_host"));
    }
    let step = Step::Consume { kind, id: row.id, now: parts.clock.now(), successor: None };
    match parts.store.apply(Change::new().step(step)).await.map_err(away)? {
        Outcome::Applied { .. } => Ok(begun),
        Outcome::Refused(_) => Err(wrong("state_used_or_expired")),
    }
}

/// The session that the browser had, if it had one: the new one takes its place.
async fn before(sessions: &Sessions, asked: &Asked<'_>, place: &Place<'_>) -> Result<Option<([u8; 16], Kept)>, Failed> {
    let Sent::One(value) = sent(asked.headers, sessions.cookie(place).name()) else { return Ok(None) };
    let found = sessions.find(value).await.map_err(|_| Failed::new("temporarily_unavailable", "session_storage"))?;
    Ok(found.map(|(id, kept, _)| (id, kept)))
}

/// Makes the session durable: what the cookie refers to.
async fn started(sessions: &Sessions, kept: &Kept, before: Option<([u8; 16], Kept)>) -> Result<Plain, Failed> {
    let (parts, settings) = (&sessions.parts, sessions.settings());
    let away = || Failed::new("temporarily_unavailable", "session_storage");
    let now_ms = sessions.now_ms();
    let now = now_ms.div_euclid(1000);
    let issued = secret::generate(SecretKind::Session, now_ms, &*parts.entropy, &sessions.mac);
    let kind = ArtefactKind::GatewaySession;
    let document = row::seal(&parts.kek, kind, &issued.id, kept, &*parts.entropy).ok_or_else(away)?;
    let row = row::artefact(kind, &issued.id, &issued.mac, document, now, now.saturating_add(settings.idle).min(kept.until));
    let mut event = NewEvent::new(EventKind::GatewaySessionStarted, now_ms).subject(&kept.subject).client(&settings.client_id);
    if let Some(sid) = &kept.sid {
        event = event.session(sid);
    }
    let event = event.with("gateway_session", kept.name.as_str()).with("issuer", settings.issuer.as_str());
    let put = Change::new().step(Step::Put(row)).event(event);
    let (change, alone) = match &before {
        Some((id, old)) => {
            let ending = row::ending(id, old, &sessions.issuer, &settings.client_id, "new_login", now_ms);
            (ending.and(put.clone()), Some(put))
        }
        None => (put, None),
    };
    let mut outcome = parts.store.apply(change).await.map_err(|_| away())?;
    if let (Outcome::Refused(_), Some(put)) = (outcome, alone) {
        // The old one ended by itself in this moment.
        outcome = parts.store.apply(put).await.map_err(|_| away())?;
    }
    if let Some((_, old)) = before {
        sessions.revoke_tokens(&old).await;
    }
    if outcome.applied() { Ok(issued.plain) } else { Err(away()) }
}

impl Sessions {
    /// Redeems the code and believes what it gave.
    async fn logged_in(&self, begun: &Begun, code: &str) -> Result<Kept, Failed> {
        let settings = self.settings();
        let provider = self.server.provider(settings).await?;
        // Whatever is revoked from here on kills what is given now.
        let head = self.parts.revoked.head();
        let form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", begun.redirect_uri.as_str()),
            ("code_verifier", begun.verifier.as_str()),
        ];
        // Likewise: what the login server ends from here on is not older than the session.
        let now_ms = self.now_ms();
        let since = now_ms.div_euclid(1000);
        let granted = self.server.tokens(settings, &provider, form).await?;
        let id_token = granted.id_token.as_ref().ok_or(Failed::new("server_error", "no_id_token"))?;
        let beside = Beside { nonce: Some(&begun.nonce), access_token: granted.access.expose(), max_age: begun.max_age };
        let (person, kid) = self.server.person(settings, id_token.expose(), &beside).await?;
        let mut kept = Kept {
            name: row::new_name(now_ms, &*self.parts.entropy),
            subject: person.sub.clone(),
            sub: person.sub,
            sid: person.sid,
            grant: None,
            token: None,
            kid,
            seq: head,
            scope: granted.scope.clone().unwrap_or_else(|| settings.scope.clone()),
            claims: Map::new(),
            access: granted.access.expose().to_owned(),
            access_until_ms: granted.access_until_ms,
            refresh: granted.refresh.as_ref().map(|token| token.expose().to_owned()),
            id_token: id_token.expose().to_owned(),
            generation: 0,
            since,
            until: since.saturating_add(settings.lifetime),
        };
        if !self.learn(&mut kept).await {
            return Err(Failed::new("temporarily_unavailable", "access_token_unknown"));
        }
        take_over(&mut kept.claims, &person.claims);
        if let Some(endpoint) = provider.userinfo_endpoint.as_deref().filter(|_| settings.userinfo) {
            let told = self.server.userinfo(endpoint, &kept.access).await;
            let same = told.as_ref().and_then(|told| told.get("sub")).and_then(Value::as_str) == Some(kept.sub.as_str());
            match told {
                Some(Value::Object(told)) if same => take_over(&mut kept.claims, &told),
                _ => return Err(Failed::new("server_error", "userinfo")),
            }
        }
        Ok(kept)
    }

    /// Learns from an access token of our own authorization server what it can be revoked by, and what it says of the person. Access
    /// tokens of others are for their APIs to read. False: it cannot be had, and the session could not be ended by it.
    pub(super) async fn learn(&self, kept: &mut Kept) -> bool {
        if self.issuer != Issuer::Own {
            return true;
        }
        let own = &self.parts.own;
        let claims = match Parsed::parse(&kept.access) {
            Ok(parsed) => {
                let key = match own.keys.find(parsed.kid.as_deref(), parsed.alg) {
                    Some(key) => Some(key),
                    None => {
                        own.keys.refresh().await;
                        own.keys.find(parsed.kid.as_deref(), parsed.alg)
                    }
                };
                let expected = access::Expected {
                    issuer: &own.issuer,
                    audience: None,
                    typ: &[access::TYP],
                    now: self.parts.clock.now(),
                    leeway: LEEWAY,
                };
                key.and_then(|key| access::believe(&parsed, &key, &expected).ok()).map(tokens::Verified::into_inner)
            }
            Err(_) => match own.introspect.introspect(&kept.access).await {
                Ok(Introspection::Active(claims)) => Some(*claims),
                _ => None,
            },
        };
        let Some(claims) = claims else { return false };
        take_over(&mut kept.claims, &claims.raw);
        kept.token = claims.jti;
        kept.grant = claims.grant;
        kept.access_until_ms = kept.access_until_ms.min(claims.exp.saturating_mul(1000));
        if !claims.sub.is_empty() {
            kept.subject = claims.sub;
        }
        if claims.sid.is_some() {
            kept.sid = claims.sid;
        }
        if claims.seq > 0 {
            kept.seq = claims.seq;
        }
        true
    }
}

/// Takes claims over that are about the person.
fn take_over(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (name, value) in from.iter().filter(|(name, _)| !ABOUT_TOKENS.contains(&name.as_str())) {
        into.insert(name.clone(), value.clone());
    }
}
