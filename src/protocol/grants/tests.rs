//! Redemption and refresh as decisions: what is issued, what is consumed, what ends a family.
use std::sync::atomic::{AtomicU64, Ordering};

use accounts::User;
use ledger::{Artefact, ArtefactKind, Change, EventKind, Grant, ObjectKind, RevocationKind, Step};
use serde_json::{Value, json};
use tokens::{
    Alg, Entropy,
    keyring::{Kept, KeyRing, State},
    secret::{self, MacKey, Plain, SecretKind},
    sign::SigningKey,
};

use super::{Behind, Granted, Refused, client_credentials, code, refresh};
use crate::{
    AuthenticatedClient, Client, Code, Form, ResourceServer, Settings,
    client_auth::tests::authenticated,
    issue::Context,
    resource::ScopeEntry,
    stored::{Authentication, CodeDocument, RefreshDocument},
};

const API: &str = "https://api.example.com";
const NOW_MS: i64 = 1_700_000_000_000;
const NOW: i64 = NOW_MS / 1000;
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const REDEMPTION: &str = "code=x&redirect_uri=https%3A%2F%2Frp%2Fcb&code_verifier=dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

#[derive(Default)]
struct Counting(AtomicU64);
impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        out.iter_mut().for_each(|o| *o = u8::try_from(self.0.fetch_add(1, Ordering::Relaxed) % 256).unwrap());
    }
}

struct World {
    settings: Settings,
    keys: KeyRing,
    mac: MacKey,
    entropy: Counting,
    client: AuthenticatedClient,
    server: ResourceServer,
    user: User,
    grant: Grant,
    now_ms: i64,
}

impl World {
    fn new() -> Self {
        let (key, _) = SigningKey::generate(Alg::ES256).unwrap();
        let client = Client {
            client_id: "web".into(),
            redirect_uris: vec!["https://rp/cb".into()],
            grant_types: vec!["authorization_code".into(), "refresh_token".into(), "client_credentials".into()],
            scope: "openid offline_access read".into(),
            allowed_resources: vec![API.into()],
            id_token_signed_response_alg: Some("ES256".into()),
            ..Client::default()
        };
        let scopes = vec![ScopeEntry { name: "read".into(), description: None }];
        Self {
            settings: Settings::for_issuer("https://id.example.com"),
            keys: KeyRing::new(vec![Kept { state: State::Current, key, changed_at: 0 }]),
            mac: MacKey::new([9; 32]),
            entropy: Counting::default(),
            client: authenticated(client),
            server: ResourceServer { id: "api".into(), identifier: API.into(), scopes, ..ResourceServer::default() },
            user: User { id: "u1".into(), username: "alice".into(), ..User::default() },
            grant: Grant {
                id: "g1".into(),
                subject: "u1".into(),
                client_id: "web".into(),
                session: Some("s1".into()),
                scope: "offline_access openid read".into(),
                document: json!({}),
                created_at: NOW,
                expires_at: NOW + 3600,
                ended_at: None,
            },
            now_ms: NOW_MS,
        }
    }
    fn ctx(&self) -> Context<'_> {
        let Self { settings, keys, mac, entropy, now_ms, .. } = self;
        Context { settings, keys, mac, entropy, now_ms: *now_ms, head: 42, evidence: nothing(), slots: None }
    }
    fn behind(&self) -> Behind<'_> {
        Behind { grant: Some(&self.grant), user: Some(&self.user), server: Some(&self.server) }
    }
    fn code(&self, scope: &str) -> (Artefact, CodeDocument) {
        let document = CodeDocument {
            client_id: "web".into(),
            redirect_uri: "https://rp/cb".into(),
            code_challenge: Some(CHALLENGE.into()),
            nonce: Some("n".into()),
            subject: "u1".into(),
            session: Some("s1".into()),
            scope: scope.into(),
            resource: API.into(),
            authentication: Authentication { auth_time: NOW - 5, acr: None, amr: vec!["pwd".into()] },
            claims: None,
            ..CodeDocument::default()
        };
        let issued = secret::generate(SecretKind::Code, NOW_MS, &self.entropy, &self.mac);
        (artefact(ArtefactKind::Code, issued.id.to_vec(), issued.mac.to_vec(), NOW + 60), document)
    }
    fn redeem(&self, artefact: &Artefact, document: &CodeDocument, form: &str) -> Result<Granted, Refused> {
        let found = code::Found { artefact, document, behind: self.behind() };
        code::decide(&self.ctx(), &self.client, &Form::read(form.as_bytes()).unwrap(), &found)
    }
    fn refresh(&self, family: &Family, successor: Option<&Artefact>, form: &str) -> Result<Granted, Refused> {
        let found = refresh::Found {
            artefact: &family.artefact,
            shown: family.shown(),
            document: &family.document,
            successor,
            behind: self.behind(),
        };
        refresh::decide(&self.ctx(), &self.client, &Form::read(form.as_bytes()).unwrap(), &found)
    }
    fn family(&self) -> Family {
        let (artefact, document) = self.code("offline_access openid read");
        let granted = self.redeem(&artefact, &document, REDEMPTION).unwrap();
        Family::of(&granted.change)
    }
}

struct Family {
    artefact: Artefact,
    document: RefreshDocument,
    /// The MAC of the token that is shown, if it is not the current one.
    spent: Option<Vec<u8>>,
}
impl Family {
    fn of(change: &Change) -> Self {
        let artefact = change.steps.iter().find_map(|s| match s {
            Step::Put(a) if a.kind == ArtefactKind::Refresh => Some(a.clone()),
            _ => None,
        });
        let artefact = artefact.expect("a refresh token");
        Self { document: serde_json::from_str(&artefact.document).unwrap(), artefact, spent: None }
    }
    fn shown(&self) -> refresh::Shown<'_> {
        self.spent.as_deref().map_or(refresh::Shown::Current { link: true }, refresh::Shown::Spent)
    }
    /// The row after a rotation, and the token that was current before it.
    fn spent(mut self, change: &Change) -> Self {
        for step in &change.steps {
            if let Step::Rotate { from, to, now, expires_at, born, .. } = step {
                assert_eq!((from, *now), (&self.artefact.mac, NOW), "of two with the same secret one goes on");
                self.spent = Some(std::mem::replace(&mut self.artefact.mac, to.clone()));
                (self.artefact.expires_at, self.artefact.successor) = (*expires_at, born.clone());
            }
        }
        assert!(self.spent.is_some());
        self
    }
}

fn artefact(kind: ArtefactKind, id: Vec<u8>, mac: Vec<u8>, expires_at: i64) -> Artefact {
    let grant = Some("g1".to_owned());
    Artefact { kind, id, mac, grant, document: String::new(), created_at: NOW, expires_at, consumed_at: None, successor: None, seq: 1 }
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&tokens::b64::decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// Nothing is given to a client that changed since it was looked at.
fn believed() -> Step {
    Step::ObjectIs { kind: ObjectKind::Client, id: "web".into(), version: 7 }
}

fn kills(change: &Change) -> bool {
    change.steps.iter().any(|s| matches!(s, Step::Revoke(r) if r.kind == RevocationKind::Grant && r.id == "g1"))
        && change.steps.iter().any(|s| matches!(s, Step::EndGrant { id, .. } if id == "g1"))
}

/// A request that proves no key.
fn nothing() -> &'static crate::Evidence {
    static NOTHING: std::sync::OnceLock<crate::Evidence> = std::sync::OnceLock::new();
    NOTHING.get_or_init(crate::Evidence::default)
}

#[test]
fn a_code_gives_tokens_in_one_change_that_consumes_it_under_a_live_grant() {
    let world = World::new();
    let (artefact, document) = world.code("offline_access openid read");
    let Granted { change, answer } = world.redeem(&artefact, &document, REDEMPTION).unwrap();
    assert!(matches!(&change.steps[3], Step::UpdateGrant { .. }), "a consumed code stays until its grant's end");
    assert!(matches!(&change.steps[4], Step::Consume { kind: ArtefactKind::Code, id, .. } if *id == artefact.id));
    assert_eq!(change.steps[0], believed(), "of the client that was believed");
    assert!(change.steps.contains(&Step::GrantLive { id: "g1".into(), now: NOW }));
    assert!(change.steps.contains(&Step::SessionLive { id: "s1".into(), now: NOW }));
    assert_eq!(change.events.iter().map(|e| e.kind).collect::<Vec<_>>(), [EventKind::TokenIssued]);
    let access = claims(answer.access_token.expose());
    let told = |name: &str| access[name].clone();
    assert_eq!((told("sub"), told("aud"), told("client_id")), (json!("u1"), json!(API), json!("web")));
    assert_eq!(
        (told("grant"), told("sid"), told("seq"), told("scope")),
        (json!("g1"), json!("s1"), json!(42), json!("offline_access openid read"))
    );
    let id = claims(answer.id_token.as_deref().unwrap());
    assert_eq!((&id["nonce"], &id["aud"], &id["auth_time"], &id["sid"]), (&json!("n"), &json!("web"), &json!(NOW - 5), &json!("s1")));
    assert_eq!(id["at_hash"], tokens::hash::left_half(answer.access_token.expose()));
    let wire: Value = serde_json::from_slice(&answer.json()).unwrap();
    assert_eq!((&wire["token_type"], &wire["expires_in"]), (&json!("Bearer"), &json!(300)));
}

#[test]
fn what_was_taken_since_is_not_given_for_a_code() {
    let mut world = World::new();
    let (artefact, document) = world.code("offline_access openid read");
    let less = Client { scope: "openid read".into(), ..world.client.client().clone() };
    world.client = authenticated(less);
    let Granted { answer, .. } = world.redeem(&artefact, &document, REDEMPTION).unwrap();
    assert_eq!(claims(answer.access_token.expose())["scope"], "openid read");
    assert!(answer.refresh_token.is_none());
    world.server.scopes.clear();
    let Granted { answer, .. } = world.redeem(&artefact, &document, REDEMPTION).unwrap();
    assert_eq!(claims(answer.access_token.expose())["scope"], "openid");
    let (artefact, document) = world.code("read");
    assert_eq!(world.redeem(&artefact, &document, REDEMPTION).unwrap_err().error.code, Code::InvalidGrant);
}

#[test]
fn no_text_of_a_token_is_in_its_change() {
    let world = World::new();
    let (artefact, document) = world.code("offline_access openid read");
    let Granted { change, answer } = world.redeem(&artefact, &document, REDEMPTION).unwrap();
    let written = format!("{change:?}");
    for text in [Some(answer.access_token.expose()), answer.refresh_token.as_ref().map(Plain::expose), answer.id_token.as_deref()] {
        assert!(!written.contains(text.unwrap()));
    }
}

#[test]
fn a_refresh_token_comes_with_offline_access_only() {
    let world = World::new();
    let (artefact, document) = world.code("openid read");
    assert!(world.redeem(&artefact, &document, REDEMPTION).unwrap().answer.refresh_token.is_none());
}

#[test]
fn a_spent_code_ends_its_grant_if_its_own_client_brings_it() {
    let mut world = World::new();
    let (mut artefact, document) = world.code("openid read");
    artefact.consumed_at = Some(NOW - 1);
    let refused = world.redeem(&artefact, &document, REDEMPTION).unwrap_err();
    assert_eq!(refused.error.code, Code::InvalidGrant);
    let change = refused.change.unwrap();
    assert!(kills(&change));
    assert_eq!(change.steps[0], Step::GrantLive { id: "g1".into(), now: i64::MIN }, "of two that notice at once one tells");
    assert_eq!(change.events[0].kind, EventKind::CodeReplayed);
    world.client = authenticated(Client { client_id: "other".into(), ..world.client.client().clone() });
    assert!(world.redeem(&artefact, &document, REDEMPTION).unwrap_err().change.is_none());
}

#[test]
fn a_code_is_refused_without_its_verifier_address_time_grant_person_or_resource() {
    let world = World::new();
    let (artefact, document) = world.code("openid read");
    let refused = |form: &str| world.redeem(&artefact, &document, form).unwrap_err();
    assert_eq!(refused("redirect_uri=https%3A%2F%2Frp%2Fcb").error.code, Code::InvalidGrant);
    assert_eq!(refused(&format!("redirect_uri=https%3A%2F%2Frp%2F&code_verifier={VERIFIER}")).error.code, Code::InvalidGrant);
    assert_eq!(refused(&format!("{REDEMPTION}&resource=https%3A%2F%2Fother")).error.code, Code::InvalidTarget);
    let late = World { now_ms: NOW_MS + 61_000, ..World::new() };
    assert_eq!(late.redeem(&artefact, &document, REDEMPTION).unwrap_err().error.code, Code::InvalidGrant);
    let mut ended = World::new();
    ended.grant.ended_at = Some(NOW);
    assert_eq!(ended.redeem(&artefact, &document, REDEMPTION).unwrap_err().error.code, Code::InvalidGrant);
    let mut disabled = World::new();
    disabled.user.disabled = true;
    assert_eq!(disabled.redeem(&artefact, &document, REDEMPTION).unwrap_err().error.code, Code::InvalidGrant);
}

#[test]
fn a_refresh_puts_the_next_token_in_the_place_of_the_one_that_was_shown_and_keeps_the_whole_scope() {
    let world = World::new();
    let family = world.family();
    let Granted { change, answer } = world.refresh(&family, None, "scope=read").unwrap();
    assert_eq!(family.document.scope, "offline_access openid read");
    assert!(!change.steps.iter().any(|s| matches!(s, Step::Put(_) | Step::Consume { .. })), "a chain is one row");
    let next = answer.refresh_token.as_ref().unwrap().expose();
    let read = secret::parse(SecretKind::Refresh, next, &world.mac).unwrap();
    assert_eq!(read.id.as_slice(), family.artefact.id);
    assert!(secret::is_link(SecretKind::Refresh, next, &world.mac));
    assert_eq!(claims(answer.access_token.expose())["scope"], "read");
    assert!(answer.id_token.is_none());
    assert_eq!(change.steps[0], believed());
    assert!(matches!(&change.steps[2], Step::Rotate { from, to, .. } if *from == family.artefact.mac && *to == read.mac));
    assert_eq!(change.events.iter().map(|e| e.kind).collect::<Vec<_>>(), [EventKind::TokenIssued, EventKind::TokenRefreshed]);
    assert_eq!(world.refresh(&family, None, "scope=read+write").unwrap_err().error.code, Code::InvalidScope);
}

#[test]
fn a_spent_refresh_token_kills_the_family_and_a_strangers_does_not() {
    let mut world = World::new();
    let family = world.family();
    let change = world.refresh(&family, None, "").unwrap().change;
    let family = family.spent(&change);
    let refused = world.refresh(&family, None, "").unwrap_err();
    let change = refused.change.unwrap();
    assert!(kills(&change) && refused.error.code == Code::InvalidGrant);
    assert_eq!(change.events[0].kind, EventKind::RefreshReused);
    world.client = authenticated(Client { client_id: "other".into(), ..world.client.client().clone() });
    let refused = world.refresh(&family, None, "").unwrap_err();
    assert!(refused.change.is_none() && refused.error.code == Code::InvalidGrant);
}

#[test]
fn a_retry_within_the_grace_period_gets_the_same_successor_unless_that_was_used() {
    let mut world = World::new();
    world.settings.refresh_grace = 2;
    let family = world.family();
    let first = world.refresh(&family, None, "").unwrap();
    let family = family.spent(&first.change);
    world.now_ms += 2000;
    let again = world.refresh(&family, None, "").unwrap();
    assert_eq!(again.answer.refresh_token, first.answer.refresh_token);
    assert!(!again.change.steps.iter().any(|s| matches!(s, Step::Consume { .. } | Step::Rotate { .. })));
    let used = Artefact { mac: vec![1; 32], ..family.artefact.clone() };
    let used = Family { artefact: used, document: family.document.clone(), spent: family.spent.clone() };
    assert!(world.refresh(&used, None, "").unwrap_err().change.is_some_and(|c| kills(&c)));
    world.now_ms += 1;
    assert!(world.refresh(&family, None, "").unwrap_err().change.is_some_and(|c| kills(&c)));
}

#[test]
fn a_token_that_is_no_link_of_a_chain_is_consumed_and_begins_one() {
    let world = World::new();
    let family = world.family();
    let found = |family: &Family| {
        let shown = refresh::Shown::Current { link: false };
        let found =
            refresh::Found { artefact: &family.artefact, shown, document: &family.document, successor: None, behind: world.behind() };
        refresh::decide(&world.ctx(), &world.client, &Form::read(b"").unwrap(), &found)
    };
    let Granted { change, answer } = found(&family).unwrap();
    let next = Family::of(&change);
    assert!(change.steps.iter().any(|s| matches!(s, Step::Consume { successor: Some(id), .. } if *id == next.artefact.id)));
    assert!(secret::is_link(SecretKind::Refresh, answer.refresh_token.unwrap().expose(), &world.mac));
    let mut spent = world.family();
    spent.artefact.consumed_at = Some(NOW);
    assert!(found(&spent).unwrap_err().change.is_some_and(|c| kills(&c)));
}

#[test]
fn a_resource_that_was_taken_from_the_client_is_not_given_any_more() {
    let mut world = World::new();
    let ((artefact, document), family) = (world.code("openid read"), world.family());
    world.client = authenticated(Client { allowed_resources: vec!["https://else".into()], ..world.client.client().clone() });
    assert_eq!(world.redeem(&artefact, &document, REDEMPTION).unwrap_err().error.code, Code::InvalidTarget);
    assert_eq!(world.refresh(&family, None, "").unwrap_err().error.code, Code::InvalidTarget);
}

#[test]
fn a_family_ends_when_idle_or_old() {
    let world = World::new();
    let family = world.family();
    assert_eq!(family.artefact.expires_at, NOW + world.settings.refresh_idle);
    assert_eq!(family.document.family_expires_at, NOW + world.settings.refresh_token_ttl);
    let idle = World { now_ms: family.artefact.expires_at * 1000, ..World::new() };
    assert_eq!(idle.refresh(&family, None, "").unwrap_err().error.code, Code::InvalidGrant);
}

#[test]
fn a_machine_gets_a_token_of_its_own_in_the_format_of_the_api() {
    let mut world = World::new();
    let form = Form::read(b"scope=read").unwrap();
    let decide = |w: &World| {
        let target = client_credentials::target(&w.ctx(), &w.client, &form).unwrap();
        client_credentials::decide(&w.ctx(), &w.client, &form, &target, Some(&w.server)).unwrap()
    };
    let signed = decide(&world);
    let told = claims(signed.answer.access_token.expose());
    assert_eq!((&told["sub"], &told["aud"], told.get("grant")), (&json!("web"), &json!(API), None));
    assert!(signed.change.steps == [believed()] && signed.change.events.len() == 1 && signed.answer.refresh_token.is_none());
    world.server.access_token_format = "opaque".into();
    world.server.access_token_ttl = Some("10s".into());
    let opaque = decide(&world);
    assert!(opaque.answer.access_token.expose().starts_with("dwa_") && opaque.answer.expires_in == 10);
    assert!(
        matches!(&opaque.change.steps[..], [Step::ObjectIs { .. }, Step::Put(a)] if a.kind == ArtefactKind::Access && a.expires_at == NOW + 10)
    );
}
