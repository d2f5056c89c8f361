//! What waits for a person is carried by the browser, and is worth no more than a row was.
use std::collections::BTreeMap;

use http::StatusCode;
use ledger::ArtefactKind;

use super::browser::{ISSUER, PASSWORD, Seen, Site, Visitor, client, filled, site};

/// The fields of the consent page, of a person who has logged in.
async fn at_consent(visitor: &mut Visitor<'_>, more: &str) -> BTreeMap<String, String> {
    let shown = visitor.authorize(&format!("&prompt=consent{more}")).await;
    consent(visitor, shown).await
}

async fn consent(visitor: &mut Visitor<'_>, mut shown: Seen) -> BTreeMap<String, String> {
    if shown.status == StatusCode::SEE_OTHER {
        let location = shown.location().to_owned();
        shown = visitor.get(&location).await;
    }
    assert_eq!(shown.page(), "consent", "{}", shown.body);
    filled(shown.fields(), &[("decision", "approve")])
}

fn waiting(site: &Site) -> usize {
    site.world.rows.lock().artefacts.keys().filter(|(kind, _)| *kind == ArtefactKind::Interaction.as_str()).count()
}

#[tokio::test]
async fn nothing_is_written_for_a_request_that_waits_and_a_used_one_leaves_its_mark() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    let form = visitor.login_form("", "alice", PASSWORD).await;
    assert!(form["interaction"].starts_with("dwic_") && form["interaction"].len() < 2048, "{}", form["interaction"]);
    assert_eq!((site.commits(), waiting(&site)), (0, 0));
    visitor.post("/login", &form).await;
    assert_eq!((site.commits(), waiting(&site)), (1, 1));
    let form = at_consent(&mut visitor, "").await;
    assert_eq!(site.commits(), 1);
    assert!(visitor.post("/consent", &form).await.told("code").is_some());
    assert_eq!((site.commits(), waiting(&site)), (2, 2));
    // Neither the form nor the page works again, and what was given stays one.
    for decision in ["approve", "deny"] {
        let again = visitor.post("/consent", &filled(form.clone(), &[("decision", decision)])).await;
        assert_eq!((again.status, again.page()), (StatusCode::BAD_REQUEST, "error"));
    }
    let page = visitor.get(&format!("/consent?interaction={}", form["interaction"])).await;
    assert_eq!((page.status, page.page()), (StatusCode::BAD_REQUEST, "error"));
    assert_eq!(site.world.rows.lock().grants.len(), 1);
}

#[tokio::test]
async fn what_was_changed_is_late_or_another_browsers_is_refused() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    let form = at_consent(&mut visitor, "").await;
    let text = form["interaction"].clone();
    for at in [0, 3, 5, 6, 30, text.len() / 2, text.len() - 1] {
        let mut bent = text.clone().into_bytes();
        bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
        let bent = String::from_utf8(bent).expect("text");
        let answer = visitor.get(&format!("/consent?interaction={bent}")).await;
        assert_eq!((answer.status, answer.page()), (StatusCode::BAD_REQUEST, "error"), "octet {at}");
    }
    for cut in ["dwic_", "dwic_AQ", text.get(..40).expect("longer"), text.get(..text.len() - 4).expect("longer")] {
        assert_eq!(visitor.get(&format!("/consent?interaction={cut}")).await.status, StatusCode::BAD_REQUEST, "{cut}");
    }
    // Another browser, signed in as the same person.
    let mut other = Visitor::of(&site);
    other.log_in("", "alice").await;
    assert_eq!(other.post("/consent", &form).await.status, StatusCode::FORBIDDEN);
    assert_eq!(other.get(&format!("/consent?interaction={text}")).await.status, StatusCode::FORBIDDEN);
    // Another text with this form's fields: each form names its own.
    let second = at_consent(&mut visitor, "").await;
    let swapped = filled(form.clone(), &[("interaction", &second["interaction"])]);
    assert_eq!(visitor.post("/consent", &swapped).await.status, StatusCode::FORBIDDEN);
    assert!(visitor.post("/consent", &second).await.told("code").is_some());
    site.later(protocol::Settings::for_issuer(ISSUER).interaction_ttl);
    assert_eq!(visitor.post("/consent", &form).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(visitor.get(&format!("/consent?interaction={text}")).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_is_too_long_to_be_carried_waits_in_a_row() {
    let site = site(ISSUER, &client());
    let mut visitor = Visitor::of(&site);
    visitor.arrive("").await;
    let before = waiting(&site);
    let form = at_consent(&mut visitor, &format!("&nonce={}", "x".repeat(2000))).await;
    assert!(form["interaction"].starts_with("dwi_"), "{}", form["interaction"]);
    assert_eq!(waiting(&site), before + 1);
    assert!(visitor.post("/consent", &form).await.told("code").is_some());
    assert_eq!(visitor.post("/consent", &form).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_browser_with_more_tickets_than_are_believed_logs_in_by_its_last() {
    let site = site(ISSUER, &client());
    let mut jar = Vec::new();
    for _ in 0..17 {
        let mut tab = Visitor::of(&site);
        tab.authorize("").await;
        jar.extend(tab.cookie);
    }
    assert_eq!(jar.len(), 17);
    let jar = jar.join("; ");
    let mut visitor = Visitor::of(&site);
    visitor.cookie = Some(jar.clone());
    let location = visitor.authorize("").await.location().to_owned();
    visitor.cookie = Some(jar.clone());
    let page = visitor.get(&location).await;
    assert_eq!((page.status, page.page()), (StatusCode::OK, "login"), "{}", page.body);
    visitor.cookie = Some(jar);
    let form = filled(page.fields(), &[("username", "alice"), ("password", PASSWORD), ("action", "login")]);
    assert!(visitor.post("/login", &form).await.location().starts_with("/consent"));
}
