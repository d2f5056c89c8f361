//! Signatures judged without the server's own code: a key from the published set, the algorithm's own library, nothing else.
use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use fips204::{
    ml_dsa_65,
    traits::{SerDes as _, Verifier as _},
};
use serde_json::Value;
use sha3::{
    Shake256,
    digest::{ExtendableOutput as _, Update as _},
};

use super::Server;
use super::http::{Go, b64, claims, client, jose_header, unb64};

/// The claims of a JWT that a published key of the server signed; header `alg` and `typ` must be these.
#[track_caller]
pub fn verified(server: &Server, jwt: &str, alg: &str, typ: &str) -> Value {
    let header = jose_header(jwt);
    assert_eq!((&header["alg"], &header["typ"]), (&Value::from(alg), &Value::from(typ)), "{header}");
    let set = client().get(server.url("/jwks")).go().expect(200).json();
    let key = set["keys"].as_array().expect("keys").iter().find(|key| key["kid"] == header["kid"]).expect("the kid is published").clone();
    assert_eq!((&key["alg"], &key["use"]), (&Value::from(alg), &Value::from("sig")), "{key}");
    assert!(believed(&key, jwt), "the signature of {alg} does not verify");
    claims(jwt)
}

/// Whether a JWK's key signed a JWT.
pub fn believed(key: &Value, jwt: &str) -> bool {
    let (signed, signature) = jwt.rsplit_once('.').expect("a signature");
    let member = |name: &str| unb64(key[name].as_str().unwrap_or_else(|| panic!("no {name} in {key}")));
    let (signed, signature) = (signed.as_bytes(), unb64(signature));
    let point = || [vec![4], member("x"), member("y")].concat();
    let rsa = || RsaPublicKeyComponents { n: member("n"), e: member("e") };
    match key["alg"].as_str().expect("alg") {
        "ES256" => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point()).verify(signed, &signature).is_ok(),
        "ES384" => UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point()).verify(signed, &signature).is_ok(),
        "EdDSA" => UnparsedPublicKey::new(&ED25519, member("x")).verify(signed, &signature).is_ok(),
        "RS256" => rsa().verify(&RSA_PKCS1_2048_8192_SHA256, signed, &signature).is_ok(),
        "PS256" => rsa().verify(&RSA_PSS_2048_8192_SHA256, signed, &signature).is_ok(),
        "ML-DSA-65" => {
            let public = ml_dsa_65::PublicKey::try_from_bytes(member("pub").try_into().expect("1952 octets")).expect("a key");
            let Ok(signature) = signature.try_into() else { return false };
            public.verify(signed, &signature, &[])
        }
        other => panic!("{other}"),
    }
}

/// The RFC 7638 thumbprint of a JWK, members taken by name.
pub fn thumbprint(key: &Value) -> String {
    let names: &[&str] = match key["kty"].as_str().expect("kty") {
        "EC" => &["crv", "kty", "x", "y"],
        "RSA" => &["e", "kty", "n"],
        "OKP" => &["crv", "kty", "x"],
        "AKP" => &["alg", "kty", "pub"],
        other => panic!("{other}"),
    };
    let members: Vec<String> = names.iter().map(|name| format!("\"{name}\":{}", key[*name])).collect();
    b64(digest(&SHA256, format!("{{{}}}", members.join(",")).as_bytes()))
}

/// `at_hash` as OpenID Connect Core §3.1.3.6 has it for an algorithm.
pub fn at_hash(alg: &str, token: &str) -> String {
    let hash = match alg {
        "ES384" => digest(&SHA384, token.as_bytes()).as_ref().to_vec(),
        "EdDSA" => digest(&SHA512, token.as_bytes()).as_ref().to_vec(),
        "ML-DSA-65" => {
            let mut shake = Shake256::default();
            shake.update(token.as_bytes());
            let mut out = vec![0; 64];
            shake.finalize_xof_into(&mut out);
            out
        }
        _ => digest(&SHA256, token.as_bytes()).as_ref().to_vec(),
    };
    b64(&hash[..hash.len() / 2])
}
