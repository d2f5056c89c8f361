//! Lists and answers made with `openssl ca` and `openssl ocsp`; certificates, lists and answers are valid for a hundred years from November 2026.
use base64::Engine as _;

use super::{
    Signer,
    crl::{Crl, Unusable},
    ocsp::{About, Status, Unbelieved},
};

const CA: &str = "MIIBYTCCAQagAwIBAgIUBL+b3lKDHfrCj3TseixHwjnSfiIwCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EwIBcNMjYxMTIyMTI0NzExWhgPMjEyNjEwMjkxMjQ3MTFaMA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEwlU6oFzWKEjJXuDc22K/OAGOvWru414Wzq77oIxC3BPmsg9TIBL4PMmYeXfxcA9D640sB3d4yDWk1UEYsAPiHaNCMEAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFHTz0yOUvaYRtwTI5zLYXSluD5HRMAoGCCqGSM49BAMCA0kAMEYCIQCppl9VZz4mt1GmEdZYStBt8sZ4itVL7+s2I+XXSZiz/AIhAIXuzzjP3KQtM/klxgidz4tZnJjG2/qE+AKTCpZqr5XZ";
/// The same name with another key.
const FALSE_CA: &str = "MIIBYTCCAQagAwIBAgIULhtTndLDGQrqHIIOHLDpffDyYUowCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EwIBcNMjYxMTIyMTI0NzExWhgPMjEyNjEwMjkxMjQ3MTFaMA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEyJl4qNwuLRe8QumFDI4B3eZVUr44OjOMDQV4hzWzi251wtqjJ0WJm4tvK9lUt+PTl7SzZPES+VpVVmLVPVzDHaNCMEAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFDmaRWsPZFDG6JX7oMcT2kjJuHC2MAoGCCqGSM49BAMCA0kAMEYCIQDZISw6qcvwyOgMQFxQ3sIUgJoATdsjEcT8eu96BUsIjQIhAM/ORmclHZTBDDpL9PQvaTxScDhYZvTLRk141r7FjLi8";
const GOOD: &str = "MIIBZTCCAQugAwIBAgICEAEwCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EwIBcNMjYxMTIyMTI0OTE0WhgPMjEyNjEwMjkxMjQ5MTRaMA8xDTALBgNVBAMMBGdvb2QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASkMlnq847TBFb/Id3Tw+wAtGdiX4qgQvQzmSn/gANXFOqYedldcW5I7fG95JknTfvJiR4iHkqoMqbH9GwWHcFao1cwVTATBgNVHSUEDDAKBggrBgEFBQcDAjAdBgNVHQ4EFgQUCKVCNfvRN1uEW2vHc6r3kz2i9ekwHwYDVR0jBBgwFoAUdPPTI5S9phG3BMjnMthdKW4PkdEwCgYIKoZIzj0EAwIDSAAwRQIgUgFtmLUVuG/hmkVcFqLPMw/lz4z/flMo9gUq9kV6kvMCIQDBcYw089+osOBeXpl07ND982S0QdXHciBPaotcYKiXLg==";
const BAD: &str = "MIIBZTCCAQqgAwIBAgICEAIwCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EwIBcNMjYxMTIyMTI0OTE0WhgPMjEyNjEwMjkxMjQ5MTRaMA4xDDAKBgNVBAMMA2JhZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEZi1Wh8cQ6vLcvxvDZvU3kWz4XFOp5gQ0Hbdq+nI01/WK5qO3y/89xg9lvJVb2YG6PIeYBwZzwYpoU5c/Jphp6jVzBVMBMGA1UdJQQMMAoGCCsGAQUFBwMCMB0GA1UdDgQWBBT91Tf69Oes/8TWV8e6sREAsLBJLzAfBgNVHSMEGDAWgBR089MjlL2mEbcEyOcy2F0pbg+R0TAKBggqhkjOPQQDAgNJADBGAiEA4JpjMLuqFstAi55drn9TZRtaW8YroQ6jnCnvNzejnZsCIQC4gveeQDZ2mganAGGg6/r7AvjCSmS6e+C9C8i5mizSRg==";
const LIST: &str = "MIG9MGUCAQEwCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EXDTI2MTEyMjEyNDkxNFoYDzIxMjYxMDI5MTI0OTE0WjAVMBMCAhACFw0yNjExMjIxMjQ5MTRaoA4wDDAKBgNVHRQEAwIBATAKBggqhkjOPQQDAgNIADBFAiBNbyolLu0tjGX/Z7SbIVJGeN8GIVffZcO0/UhPcvAYDQIhAMeRIUIqiXNv+Wb1b4+ZPlDz/kTKFznxn7XxwO/ZsKiD";
const PARTIAL: &str = "MIHNMHYCAQEwCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EXDTI2MTEyMjEyNDkxNFoYDzIxMjYxMDI5MTI0OTE0WjAVMBMCAhACFw0yNjExMjIxMjQ5MTRaoB8wHTAPBgNVHRwBAf8EBTADgQH/MAoGA1UdFAQDAgECMAoGCCqGSM49BAMCA0cAMEQCIEcb+MChJ65+ImGcTD5nU2NN+P1l9YXAMEnbf79rLACVAiAFpf7Fn/dJblJnkJKQHM6Yh5NsQ6TRNJ9wwA5ZJWInUA==";
const DELTA: &str = "MIHNMHQCAQEwCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EXDTI2MTEyMjEyNDkxNFoYDzIxMjYxMDI5MTI0OTE0WjAVMBMCAhACFw0yNjExMjIxMjQ5MTRaoB0wGzANBgNVHRsBAf8EAwIBATAKBgNVHRQEAwIBAzAKBggqhkjOPQQDAgNJADBGAiEA07k4lKI02SWFiJm9Otz9KD9mfHBNOXHnCkCvljg3/7cCIQC98ZNbG+YI7YD5WfUwol3GtdJAWWKLVh7hep+xViErUg==";
const ABOUT_GOOD: &str = "MIICcwoBAKCCAmwwggJoBgkrBgEFBQcwAQEEggJZMIICVTCBi6ERMA8xDTALBgNVBAMMBG9jc3AYDzIwMjYxMTIyMTI0OTE0WjBlMGMwOzAJBgUrDgMCGgUABBQRBIzSDLNZIwfQGf0IiVYrYtNkkgQUdPPTI5S9phG3BMjnMthdKW4PkdECAhABgAAYDzIwMjYxMTIyMTI0OTE0WqARGA8yMTI2MTAyOTEyNDkxNFowCgYIKoZIzj0EAwIDRwAwRAIgLKjgidK6w2FREJsYcL1QMPj10KB7kwNTeVbtSBpjRsUCICisoBRSxWdaYVTMiLnGA0pSIhqdf7Qw/QYEWg/XS3tyoIIBbjCCAWowggFmMIIBC6ADAgECAgIQAzAKBggqhkjOPQQDAjANMQswCQYDVQQDDAJjYTAgFw0yNjExMjIxMjQ5MTRaGA8yMTI2MTAyOTEyNDkxNFowDzENMAsGA1UEAwwEb2NzcDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIfvbOx8vIHh5ITyS1wYQV/5XU+qawnao8lhBpJZZp2x28Nr4aBuuSaOu93x4tkkLASyjRkjsl/mXfSu8nNWfDqjVzBVMBMGA1UdJQQMMAoGCCsGAQUFBwMJMB0GA1UdDgQWBBSr6eEes4jsxjFyCv1qI6YlUbyXMDAfBgNVHSMEGDAWgBR089MjlL2mEbcEyOcy2F0pbg+R0TAKBggqhkjOPQQDAgNJADBGAiEA8O3gVNCe78Ulp0TVCWxbzq4Y/RThOcg59Sl0cTHpM+UCIQCoKBmd2M9sAGPHMFt7tJwd61lKFKEQXCnW7IYpa2Pylg==";
const ABOUT_BAD: &str = "MIIChQoBAKCCAn4wggJ6BgkrBgEFBQcwAQEEggJrMIICZzCBnKERMA8xDTALBgNVBAMMBG9jc3AYDzIwMjYxMTIyMTI0OTE0WjB2MHQwOzAJBgUrDgMCGgUABBQRBIzSDLNZIwfQGf0IiVYrYtNkkgQUdPPTI5S9phG3BMjnMthdKW4PkdECAhACoREYDzIwMjYxMTIyMTI0OTE0WhgPMjAyNjExMjIxMjQ5MTRaoBEYDzIxMjYxMDI5MTI0OTE0WjAKBggqhkjOPQQDAgNIADBFAiABYB/JlG3Oc3ZjxCYyRbyvn7IEEgNFQ835PwaJZar7JgIhAPm4h3KDGLnYK0FP4vD+6j3ZtM8EjZBUeuDsMMCcOMVJoIIBbjCCAWowggFmMIIBC6ADAgECAgIQAzAKBggqhkjOPQQDAjANMQswCQYDVQQDDAJjYTAgFw0yNjExMjIxMjQ5MTRaGA8yMTI2MTAyOTEyNDkxNFowDzENMAsGA1UEAwwEb2NzcDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIfvbOx8vIHh5ITyS1wYQV/5XU+qawnao8lhBpJZZp2x28Nr4aBuuSaOu93x4tkkLASyjRkjsl/mXfSu8nNWfDqjVzBVMBMGA1UdJQQMMAoGCCsGAQUFBwMJMB0GA1UdDgQWBBSr6eEes4jsxjFyCv1qI6YlUbyXMDAfBgNVHSMEGDAWgBR089MjlL2mEbcEyOcy2F0pbg+R0TAKBggqhkjOPQQDAgNJADBGAiEA8O3gVNCe78Ulp0TVCWxbzq4Y/RThOcg59Sl0cTHpM+UCIQCoKBmd2M9sAGPHMFt7tJwd61lKFKEQXCnW7IYpa2Pylg==";
/// Signed by the authority itself.
const BY_CA: &str = "MIICbAoBAKCCAmUwggJhBgkrBgEFBQcwAQEEggJSMIICTjCBiaEPMA0xCzAJBgNVBAMMAmNhGA8yMDI2MTEyMjEyNDkxNFowZTBjMDswCQYFKw4DAhoFAAQUEQSM0gyzWSMH0Bn9CIlWK2LTZJIEFHTz0yOUvaYRtwTI5zLYXSluD5HRAgIQAYAAGA8yMDI2MTEyMjEyNDkxNFqgERgPMjEyNjEwMjkxMjQ5MTRaMAoGCCqGSM49BAMCA0cAMEQCIFAeqlGVXYXA/NwmNrW2Q3+z6z+Ihaugp9cHWqknIBnKAiApznFxYofq+rKcgk7h3PRhNTM85IbeKcu6PyLlLNbYxqCCAWkwggFlMIIBYTCCAQagAwIBAgIUBL+b3lKDHfrCj3TseixHwjnSfiIwCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EwIBcNMjYxMTIyMTI0NzExWhgPMjEyNjEwMjkxMjQ3MTFaMA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEwlU6oFzWKEjJXuDc22K/OAGOvWru414Wzq77oIxC3BPmsg9TIBL4PMmYeXfxcA9D640sB3d4yDWk1UEYsAPiHaNCMEAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFHTz0yOUvaYRtwTI5zLYXSluD5HRMAoGCCqGSM49BAMCA0kAMEYCIQCppl9VZz4mt1GmEdZYStBt8sZ4itVL7+s2I+XXSZiz/AIhAIXuzzjP3KQtM/klxgidz4tZnJjG2/qE+AKTCpZqr5XZ";
/// Signed by a certificate that is for clients.
const BY_CLIENT: &str = "MIICcgoBAKCCAmswggJnBgkrBgEFBQcwAQEEggJYMIICVDCBi6ERMA8xDTALBgNVBAMMBGdvb2QYDzIwMjYxMTIyMTI0OTE0WjBlMGMwOzAJBgUrDgMCGgUABBQRBIzSDLNZIwfQGf0IiVYrYtNkkgQUdPPTI5S9phG3BMjnMthdKW4PkdECAhABgAAYDzIwMjYxMTIyMTI0OTE0WqARGA8yMTI2MTAyOTEyNDkxNFowCgYIKoZIzj0EAwIDRwAwRAIgXLOrNfexv9glvzS8oEyTylXd5CL6ILFx1AR6NtDWS5gCIE62hZwA9J/QISktdEoY9rfRtyJZpdb8tBbb8Q6bEE4GoIIBbTCCAWkwggFlMIIBC6ADAgECAgIQATAKBggqhkjOPQQDAjANMQswCQYDVQQDDAJjYTAgFw0yNjExMjIxMjQ5MTRaGA8yMTI2MTAyOTEyNDkxNFowDzENMAsGA1UEAwwEZ29vZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKQyWerzjtMEVv8h3dPD7AC0Z2JfiqBC9DOZKf+AA1cU6ph52V1xbkjt8b3kmSdN+8mJHiIeSqgypsf0bBYdwVqjVzBVMBMGA1UdJQQMMAoGCCsGAQUFBwMCMB0GA1UdDgQWBBQIpUI1+9E3W4Rba8dzqveTPaL16TAfBgNVHSMEGDAWgBR089MjlL2mEbcEyOcy2F0pbg+R0TAKBggqhkjOPQQDAgNIADBFAiBSAW2YtRW4b+GaRVwWos8zD+XPjP9+Uyj2BSr2RXqS8wIhAMFxjDTz36iw4F5emXTs0P3zZLRB1cdyIE9qi1xgqJcu";
/// With the nonce of somebody's question.
const WITH_NONCE: &str = "MIICmgoBAKCCApMwggKPBgkrBgEFBQcwAQEEggKAMIICfDCBsKERMA8xDTALBgNVBAMMBG9jc3AYDzIwMjYxMTIyMTI0OTE0WjBlMGMwOzAJBgUrDgMCGgUABBQRBIzSDLNZIwfQGf0IiVYrYtNkkgQUdPPTI5S9phG3BMjnMthdKW4PkdECAhABgAAYDzIwMjYxMTIyMTI0OTE0WqARGA8yMTI2MTAyOTEyNDkxNFqhIzAhMB8GCSsGAQUFBzABAgQSBBBotXg+jvyraIjvJ6GtBkEMMAoGCCqGSM49BAMCA0kAMEYCIQCqnqfHqFjF7wwHO95rqx/C2H+Ihhr5VkFU3KTqNeHFrQIhAN56mwyZPxUnayo6hrZ0Dwsrt7kNTmmqDF4He8HZSUODoIIBbjCCAWowggFmMIIBC6ADAgECAgIQAzAKBggqhkjOPQQDAjANMQswCQYDVQQDDAJjYTAgFw0yNjExMjIxMjQ5MTRaGA8yMTI2MTAyOTEyNDkxNFowDzENMAsGA1UEAwwEb2NzcDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIfvbOx8vIHh5ITyS1wYQV/5XU+qawnao8lhBpJZZp2x28Nr4aBuuSaOu93x4tkkLASyjRkjsl/mXfSu8nNWfDqjVzBVMBMGA1UdJQQMMAoGCCsGAQUFBwMJMB0GA1UdDgQWBBSr6eEes4jsxjFyCv1qI6YlUbyXMDAfBgNVHSMEGDAWgBR089MjlL2mEbcEyOcy2F0pbg+R0TAKBggqhkjOPQQDAgNJADBGAiEA8O3gVNCe78Ulp0TVCWxbzq4Y/RThOcg59Sl0cTHpM+UCIQCoKBmd2M9sAGPHMFt7tJwd61lKFKEQXCnW7IYpa2Pylg==";
const NOW: i64 = 1_800_000_000;

fn octets(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
fn signer(text: &str) -> Signer {
    Signer::read(&octets(text)).unwrap()
}

#[test]
fn a_list_is_of_whose_key_signed_it() {
    let list = Crl::read(&octets(LIST)).unwrap();
    assert!(!list.is_of(&signer(FALSE_CA)) && list.is_of(&signer(CA)) && !list.is_of(&signer(FALSE_CA)) && !list.is_of(&signer(GOOD)));
    assert!(list.revokes(signer(BAD).serial()) && !list.revokes(signer(GOOD).serial()));
    assert_eq!((list.len(), list.is_empty()), (1, false));
    assert!(list.this_update() < NOW && list.next_update().is_some_and(|next| next > NOW));
}

#[test]
fn lists_that_are_not_whole_are_refused() {
    assert_eq!(Crl::read(&octets(PARTIAL)).unwrap_err(), Unusable::Partial);
    assert_eq!(Crl::read(&octets(DELTA)).unwrap_err(), Unusable::Delta);
    assert_eq!(Crl::read(b"nonsense").unwrap_err(), Unusable::Malformed);
    let mut longer = octets(LIST);
    longer.push(0);
    assert_eq!(Crl::read(&longer).unwrap_err(), Unusable::Malformed);
}

#[test]
fn an_answer_counts_if_who_may_has_signed_it_about_this_certificate_in_time() {
    let (good, bad) = (About::new(&signer(GOOD), &signer(CA)), About::new(&signer(BAD), &signer(CA)));
    let status = |about: &About, text: &str| about.believe(&octets(text), b"", NOW).map(|answer| answer.status);
    assert_eq!(status(&good, ABOUT_GOOD), Ok(Status::Good));
    assert_eq!(status(&good, BY_CA), Ok(Status::Good));
    assert_eq!(status(&bad, ABOUT_BAD), Ok(Status::Revoked));
    assert_eq!(status(&bad, ABOUT_GOOD), Err(Unbelieved::Other));
    assert_eq!(status(&good, BY_CLIENT), Err(Unbelieved::Signature));
    assert_eq!(status(&About::new(&signer(GOOD), &signer(FALSE_CA)), ABOUT_GOOD), Err(Unbelieved::Signature));
    assert_eq!(status(&good, WITH_NONCE), Err(Unbelieved::Nonce));
    assert_eq!(good.believe(&octets(ABOUT_GOOD), b"", 0).unwrap_err(), Unbelieved::Signature, "the signer is not valid yet");
    assert_eq!(good.believe(&octets(BY_CA), b"", 0).unwrap_err(), Unbelieved::Stale);
    assert_eq!(good.believe(&octets(BY_CA), b"", NOW * 4).unwrap_err(), Unbelieved::Stale);
    // What a responder says when it does not answer: tryLater.
    assert_eq!(good.believe(&[0x30, 3, 0x0a, 1, 3], b"", NOW).unwrap_err(), Unbelieved::Refused);
}

#[test]
fn no_changed_octet_is_believed_and_none_is_fatal() {
    let (about, authority) = (About::new(&signer(GOOD), &signer(CA)), signer(CA));
    let (answer, list) = (octets(ABOUT_GOOD), octets(LIST));
    for at in 0..answer.len() {
        let mut changed = answer.clone();
        changed[at] ^= 0x55;
        let got = about.believe(&changed, b"", NOW);
        // Certificates that come along and are not needed may be anything.
        assert!(got.is_err() || got.is_ok_and(|got| got.status == Status::Good), "octet {at}");
        let _ = about.believe(&answer[..at], b"", NOW).unwrap_err();
    }
    for at in 0..list.len() {
        let mut changed = list.clone();
        changed[at] ^= 0x55;
        assert!(!Crl::read(&changed).is_ok_and(|list| list.is_of(&authority)), "octet {at}");
        assert!(Crl::read(&list[..at]).is_err());
    }
}

#[test]
fn a_question_names_the_certificate_and_the_nonce() {
    let question = About::new(&signer(GOOD), &signer(CA)).question(b"0123456789abcdef");
    let has = |part: &[u8]| question.windows(part.len()).any(|window| window == part);
    assert!(has(signer(GOOD).serial()) && has(b"0123456789abcdef"));
}
