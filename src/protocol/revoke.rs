//! Revocation (RFC 7009): a client gives a token back.
use ledger::{ArtefactKind, Change, EventKind, Grant, NewEvent, RevocationKind, Step};

use crate::{AuthenticatedClient, OAuthError, grants, introspect::Known, stored::RefreshDocument};

/// Gives an access token back. `row` is the id of an opaque one's row.
///
/// # Errors
/// `invalid_grant` if it is another client's: nothing happens to it (RFC 7009 §2.1).
pub fn access(caller: &AuthenticatedClient, known: &Known, row: Option<&[u8]>, now_ms: i64) -> Result<Change, OAuthError> {
    if known.client_id != caller.id() {
        return Err(OAuthError::grant("another client's token"));
    }
    let mut event =
        NewEvent::new(EventKind::TokenRevoked, now_ms).subject(&known.subject).client(&known.client_id).with("jti", known.jti.as_str());
    event.grant.clone_from(&known.grant);
    event.session.clone_from(&known.session);
    let change = Change::new().revoke(RevocationKind::Token, &known.jti, now_ms, known.expires_at + crate::Settings::LEEWAY).event(event);
    Ok(match row {
        Some(id) => change.step(Step::Remove { kind: ArtefactKind::Access, id: id.to_vec() }),
        None => change,
    })
}

/// Gives a refresh token back, and with it everything of its grant (RFC 7009 §2.1). Nothing if the grant has ended already.
///
/// # Errors
/// `invalid_grant` if it is another client's.
pub fn refresh(
    caller: &AuthenticatedClient,
    document: &RefreshDocument,
    grant: Option<&Grant>,
    now_ms: i64,
) -> Result<Option<Change>, OAuthError> {
    if document.client_id != caller.id() {
        return Err(OAuthError::grant("another client's token"));
    }
    let Some(grant) = grant.filter(|g| g.ended_at.is_none()) else { return Ok(None) };
    Ok(Some(grants::end(&grant.id, &grant.subject, &grant.client_id, now_ms, &[EventKind::TokenRevoked, EventKind::GrantEnded])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, client_auth::tests::authenticated};

    fn known() -> Known {
        Known {
            jti: "j".into(),
            subject: "u".into(),
            client_id: "c".into(),
            scope: String::new(),
            audience: Vec::new(),
            expires_at: 100,
            issued_at: 1,
            grant: None,
            session: None,
            seq: 5,
            kid: None,
            ..Known::default()
        }
    }
    fn caller(id: &str) -> AuthenticatedClient {
        authenticated(Client { client_id: id.into(), ..Client::default() })
    }

    #[test]
    fn a_token_goes_with_its_row_and_stays_dead_until_it_would_have_expired() {
        let change = access(&caller("c"), &known(), Some(b"row"), 1000).unwrap();
        assert!(
            change
                .steps
                .iter()
                .any(|s| matches!(s, Step::Revoke(r) if r.kind == RevocationKind::Token && r.id == "j" && r.expires_at == 110))
        );
        assert!(change.steps.contains(&Step::Remove { kind: ArtefactKind::Access, id: b"row".to_vec() }));
        assert_eq!(change.events.len(), 1);
    }

    #[test]
    fn another_clients_token_is_left_alone() {
        assert!(access(&caller("d"), &known(), None, 0).is_err());
    }
}
