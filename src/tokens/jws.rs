//! Compact JWS read strictly (RFC 7515, RFC 8725): what is not exactly right is refused before its signature is looked at.
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{Alg, Refusal, Verified, b64, jwk::VerifyingKey, strict};

/// The longest token looked at, octets.
pub const MAX_LEN: usize = 16 * 1024;

/// A well-formed signed token whose signature has not been checked. Nothing in it may be believed yet.
#[derive(Debug, Clone)]
pub struct Parsed<'a> {
    /// The algorithm it claims.
    pub alg: Alg,
    /// The key it names.
    pub kid: Option<String>,
    /// The type it claims.
    pub typ: Option<String>,
    signed: &'a str,
    claims: Arc<Map<String, Value>>,
    signature: Vec<u8>,
}

impl<'a> Parsed<'a> {
    /// Reads a compact JWS: three segments of canonical base64url, header and claims JSON objects without duplicate members,
    /// an asymmetric algorithm, no `crit`, `b64` or `zip`, at most 16 KiB.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(token: &'a str) -> Result<Self, Refusal> {
        Self::parse_with_key(token).map(|(parsed, _)| parsed)
    }

    /// The same, with the key that its header carries (RFC 7515 §4.1.3). Only a proof of possession is verified with that.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn parse_with_key(token: &'a str) -> Result<(Self, Option<Value>), Refusal> {
        if token.len() > MAX_LEN {
            return Err(Refusal::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed("segments"))?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::Malformed("segments"))?;
        if claims.contains('.') {
            return Err(Refusal::Malformed("segments"));
        }
        let octets = |segment: &str| b64::decode(segment).ok_or(Refusal::Malformed("base64url"));
        let header = Header::read(&octets(header)?)?;
        let (claims, signature) = (strict::object(&octets(claims)?)?, octets(signature)?);
        if signature.is_empty() {
            return Err(Refusal::Signature);
        }
        let parsed = Self { signed, alg: header.alg, kid: header.kid, typ: header.typ, claims: Arc::new(claims), signature };
        Ok((parsed, header.jwk))
    }

    /// The issuer it claims: good for choosing whose keys to try, for nothing else.
    #[must_use]
    pub fn unverified_issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// The text of a claim before its signature was checked: good for finding out whose keys to try, for nothing else.
    #[must_use]
    pub fn unverified(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// Whether its type is `expected`, in any case, with or without `application/` (RFC 7515 §4.1.9).
    #[must_use]
    pub fn is_typ(&self, expected: &str) -> bool {
        self.typ.as_deref().is_some_and(|typ| {
            let bare = match typ.split_at_checked("application/".len()) {
                Some((media, rest)) if media.eq_ignore_ascii_case("application/") => rest,
                _ => typ,
            };
            bare.eq_ignore_ascii_case(expected)
        })
    }

    /// Checks the signature. The key's one algorithm must be the token's.
    ///
    /// # Errors
    /// [`Refusal::Algorithm`] or [`Refusal::Signature`].
    pub fn verify(&self, key: &VerifyingKey) -> Result<Verified<Arc<Map<String, Value>>>, Refusal> {
        if key.alg() != self.alg {
            return Err(Refusal::Algorithm);
        }
        if !key.verifies(self.signed.as_bytes(), &self.signature) {
            return Err(Refusal::Signature);
        }
        Ok(Verified::new(Arc::clone(&self.claims)))
    }
}

struct Header {
    alg: Alg,
    kid: Option<String>,
    typ: Option<String>,
    jwk: Option<Value>,
}

impl Header {
    fn read(json: &[u8]) -> Result<Self, Refusal> {
        let mut members = strict::object(json)?;
        for unsupported in ["crit", "b64", "zip"] {
            if members.contains_key(unsupported) {
                return Err(Refusal::Header("crit, b64 and zip are not supported"));
            }
        }
        let mut text = |name: &str, wrong| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong),
        };
        let alg = text("alg", Refusal::Algorithm)?.as_deref().and_then(Alg::read).ok_or(Refusal::Algorithm)?;
        let kid = text("kid", Refusal::Header("kid is not text"))?;
        let typ = text("typ", Refusal::Header("typ is not text"))?;
        Ok(Self { alg, kid, typ, jwk: members.remove("jwk") })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{jwk::Jwk, sign::SigningKey};

    fn joined(header: &str, claims: &str) -> String {
        format!("{}.{}.{}", b64::encode(header.as_bytes()), b64::encode(claims.as_bytes()), b64::encode(&[1; 64]))
    }

    #[test]
    fn es256_example_of_rfc_7515_appendix_a_3() {
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let jwk = Jwk {
            kty: "EC".into(),
            crv: Some("P-256".into()),
            x: Some("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU".into()),
            y: Some("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0".into()),
            ..Jwk::default()
        };
        let key = VerifyingKey::from_jwk(&jwk, Alg::ES256).expect("a key");
        let parsed = Parsed::parse(token).expect("strict");
        assert_eq!(parsed.verify(&key).expect("verifies").get("iss"), Some(&json!("joe")));
    }

    #[test]
    fn what_a_header_may_not_say() {
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS256"}"#,
            r#"{"alg":"es256"}"#,
            r#"{"alg":5}"#,
            r#"{}"#,
            r#"{"alg":"ES256","crit":["exp"]}"#,
            r#"{"alg":"ES256","crit":[]}"#,
            r#"{"alg":"ES256","b64":true}"#,
            r#"{"alg":"ES256","zip":"DEF"}"#,
            r#"{"alg":"ES256","alg":"ES256"}"#,
            r#"{"alg":"ES256","kid":1}"#,
            r#"{"alg":"ES256","typ":null}"#,
            r#"["ES256"]"#,
        ] {
            assert!(Parsed::parse(&joined(header, "{}")).is_err(), "{header}");
        }
        assert!(Parsed::parse(&joined(r#"{"alg":"ES256","x":1}"#, "{}")).is_ok());
        // One algorithm, two names (RFC 9864 §2.2).
        for header in [r#"{"alg":"EdDSA"}"#, r#"{"alg":"Ed25519"}"#] {
            assert_eq!(Parsed::parse(&joined(header, "{}")).unwrap().alg, Alg::EdDSA);
        }
    }

    #[test]
    fn what_a_token_may_not_look_like() {
        let good = joined(r#"{"alg":"ES256"}"#, r#"{"sub":"a"}"#);
        let mut cases = vec![
            String::new(),
            "a".into(),
            "a.b".into(),
            format!("{good}."),
            format!("{good}.x"),
            format!(".{good}"),
            format!("{good}="),
            format!(" {good}"),
            good.rsplit_once('.').map(|(signed, _)| format!("{signed}.")).unwrap_or_default(),
            joined(r#"{"alg":"ES256"}"#, r#"{"sub":"a","sub":"b"}"#),
            joined(r#"{"alg":"ES256"}"#, r#"{"act":{"sub":"a","sub":"b"}}"#),
            joined(r#"{"alg":"ES256"}"#, "\"text\""),
        ];
        cases.push(joined(r#"{"alg":"ES256"}"#, &format!("{{\"pad\":\"{}\"}}", "x".repeat(MAX_LEN))));
        for token in cases {
            assert!(Parsed::parse(&token).is_err(), "{token}");
        }
        assert!(Parsed::parse(&good).is_ok());
    }

    #[test]
    fn a_key_of_another_algorithm_is_never_asked() {
        let (es, rs) = (SigningKey::generate(Alg::ES256).expect("generates").0, SigningKey::generate(Alg::RS256).expect("generates").0);
        let token = es.sign_jwt("JWT", &json!({})).expect("signs");
        assert_eq!(Parsed::parse(&token).expect("strict").verify(&rs.verifying()), Err(Refusal::Algorithm));
    }

    proptest::proptest! {
        #[test]
        fn parsing_anything_never_panics(text in "\\PC{0,200}") {
            let _ = Parsed::parse(&text);
        }

        #[test]
        fn parsing_any_header_and_claims_never_panics(header in "\\PC{0,80}", claims in "\\PC{0,80}") {
            let _ = Parsed::parse(&joined(&header, &claims));
        }

        #[test]
        fn what_we_sign_is_accepted_and_any_changed_octet_is_not(sub in "\\PC{0,40}", at in 0_usize..400) {
            static KEY: std::sync::OnceLock<SigningKey> = std::sync::OnceLock::new();
            let key = KEY.get_or_init(|| SigningKey::generate(Alg::ES256).expect("generates").0);
            let token = key.sign_jwt("at+jwt", &json!({"sub": sub})).expect("signs");
            proptest::prop_assert!(Parsed::parse(&token).expect("strict").verify(&key.verifying()).is_ok());
            let mut bent = token.into_bytes();
            let at = at % bent.len();
            bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
            let bent = String::from_utf8(bent).expect("ascii");
            proptest::prop_assert!(Parsed::parse(&bent).and_then(|p| p.verify(&key.verifying())).is_err());
        }
    }
}
