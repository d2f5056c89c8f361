//! How well and how recently the person behind a token has to be authenticated, and the challenge that says so (RFC 9470 §3, §4).
use std::fmt::Write as _;

use http::HeaderValue;
use serde_json::Value;
use tokens::{access::AccessClaims, acr, confirmation::Scheme};

use crate::admission::LEEWAY;

/// A route's demand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepUp {
    /// Classes, one of which the token's `acr` has to satisfy; empty: any.
    pub acr_values: Vec<String>,
    /// Seconds since the login, at most.
    pub max_age: Option<i64>,
}

/// What a token lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The person was not authenticated well enough.
    Level,
    /// The login is too long ago, or it is not said when it was.
    Recency,
}

impl Lack {
    const fn description(self) -> &'static str {
        match self {
            Self::Level => "A different authentication level is required",
            Self::Recency => "More recent authentication is required",
        }
    }
}

impl StepUp {
    /// Whether it demands nothing.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.acr_values.is_empty() && self.max_age.is_none()
    }

    /// Whether these claims satisfy it. A claim that is not there satisfies nothing.
    ///
    /// # Errors
    /// What they lack.
    pub fn check(&self, claims: &AccessClaims, now: i64) -> Result<(), Lack> {
        if !self.acr_values.is_empty() {
            let reached = claims.raw.get("acr").and_then(Value::as_str).ok_or(Lack::Level)?;
            if !self.acr_values.iter().any(|demanded| acr::satisfies(reached, demanded)) {
                return Err(Lack::Level);
            }
        }
        if let Some(max_age) = self.max_age {
            let at = claims.raw.get("auth_time").and_then(Value::as_i64).ok_or(Lack::Recency)?;
            let age = now.saturating_sub(at);
            // A login that has yet to come would stay recent for as long as it likes.
            if age > max_age || age < -LEEWAY {
                return Err(Lack::Recency);
            }
        }
        Ok(())
    }

    /// `WWW-Authenticate` with everything the next token has to satisfy, whatever this one lacked.
    #[must_use]
    pub fn challenge(&self, scheme: Scheme, lack: Lack) -> HeaderValue {
        let mut text = format!(r#"error="insufficient_user_authentication", error_description="{}""#, lack.description());
        if !self.acr_values.is_empty() {
            let _ = write!(text, r#", acr_values="{}""#, self.acr_values.join(" "));
        }
        if let Some(max_age) = self.max_age {
            let _ = write!(text, r#", max_age="{max_age}""#);
        }
        match scheme {
            Scheme::Dpop => crate::refusal::dpop(&format!("{text}, ")),
            Scheme::Bearer => HeaderValue::from_str(&format!("Bearer {text}"))
                .unwrap_or_else(|_| HeaderValue::from_static(r#"Bearer error="insufficient_user_authentication""#)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokens::acr::{ONE, TWO};

    use super::*;
    use crate::identity::tests::identity;

    fn demand(classes: &[&str], max_age: Option<i64>) -> StepUp {
        StepUp { acr_values: classes.iter().map(|c| (*c).to_owned()).collect(), max_age }
    }

    #[test]
    fn one_of_the_classes_or_a_stronger_one_and_a_recent_login() {
        for (demanded, claims, result) in [
            (demand(&[], None), json!({}), Ok(())),
            (demand(&[TWO], None), json!({"acr": TWO}), Ok(())),
            (demand(&[ONE], None), json!({"acr": TWO}), Ok(())),
            (demand(&["urn:x", ONE], None), json!({"acr": ONE}), Ok(())),
            (demand(&[TWO], None), json!({"acr": ONE}), Err(Lack::Level)),
            (demand(&[TWO], None), json!({}), Err(Lack::Level)),
            (demand(&[TWO], None), json!({"acr": [TWO]}), Err(Lack::Level)),
            (demand(&["urn:x"], None), json!({"acr": TWO}), Err(Lack::Level)),
            (demand(&[], Some(60)), json!({"auth_time": 440}), Ok(())),
            (demand(&[], Some(60)), json!({"auth_time": 510}), Ok(())),
            (demand(&[], Some(60)), json!({"auth_time": 439}), Err(Lack::Recency)),
            (demand(&[], Some(60)), json!({"auth_time": 511}), Err(Lack::Recency)),
            (demand(&[], Some(60)), json!({"auth_time": "440"}), Err(Lack::Recency)),
            (demand(&[], Some(60)), json!({"auth_time": i64::MIN}), Err(Lack::Recency)),
            (demand(&[], Some(60)), json!({"acr": TWO}), Err(Lack::Recency)),
            (demand(&[TWO], Some(60)), json!({"acr": ONE, "auth_time": 0}), Err(Lack::Level)),
        ] {
            let shown: Value = claims.clone();
            assert_eq!(demanded.check(&identity(claims).claims, 500), result, "{demanded:?} {shown}");
        }
    }

    #[test]
    fn the_challenge_names_everything_at_once_in_the_tokens_scheme() {
        let demanded = demand(&[TWO, "urn:x"], Some(300));
        assert_eq!(
            demanded.challenge(Scheme::Bearer, Lack::Level),
            "Bearer error=\"insufficient_user_authentication\", error_description=\"A different authentication level is required\", \
             acr_values=\"urn:doorward:acr:2 urn:x\", max_age=\"300\""
        );
        let bound = demand(&[], Some(5)).challenge(Scheme::Dpop, Lack::Recency);
        let text = bound.to_str().unwrap();
        assert!(text.starts_with("DPoP error=\"insufficient_user_authentication\", error_description=\"More recent"), "{text}");
        assert!(text.contains("max_age=\"5\", algs=\"") && !text.contains("acr_values"), "{text}");
    }
}
