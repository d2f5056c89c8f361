//! The URLs under which shared counters are found.
use redis::{ErrorKind, RedisError, RedisResult};

const SCHEMES: [(&str, &str, bool); 8] = [
    ("redis", "redis", false),
    ("rediss", "rediss", false),
    ("valkey", "redis", false),
    ("valkeys", "rediss", false),
    ("redis-cluster", "redis", true),
    ("rediss-cluster", "rediss", true),
    ("valkey-cluster", "redis", true),
    ("valkeys-cluster", "rediss", true),
];

fn malformed(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, why))
}

/// The URLs of a server, or of some nodes of a cluster (and then `true`): `redis://host[:port][/db]`, with TLS `rediss://`, both also
/// written `valkey`; several nodes after each other, each a URL of its own or what comes after the scheme of the one before, whose user and
/// password it then has; or one node of a cluster as `redis-cluster://` or with `?cluster=true`.
///
/// # Errors
/// What is wrong. The text holds nothing of the URL: there may be a password in it.
pub(super) fn read(text: &str) -> RedisResult<(Vec<String>, bool)> {
    let (text, mut cluster) = match text.split_once('?') {
        Some((text, "cluster=true")) => (text, true),
        Some(_) => return Err(malformed("only the parameter cluster=true is known")),
        None => (text, false),
    };
    let (mut urls, mut before): (Vec<String>, Option<(&str, &str)>) = (Vec::new(), None);
    for one in text.split(',').map(str::trim) {
        let (scheme, place) = match (one.split_once("://"), before) {
            (Some((scheme, place)), _) => {
                let known = SCHEMES.iter().find(|(name, ..)| *name == scheme);
                let (_, scheme, of_cluster) = known.ok_or_else(|| {
                    malformed("must begin with redis://, rediss://, valkey://, valkeys:// or one of them with -cluster; nodes of a cluster are separated by commas")
                })?;
                cluster |= of_cluster;
                (*scheme, place)
            }
            (None, Some((scheme, _))) => (scheme, one),
            (None, None) => return Err(malformed("must begin with redis://, rediss://, valkey:// or valkeys://")),
        };
        if place.is_empty() {
            return Err(malformed("a host is missing"));
        }
        let user = before.map_or("", |(_, user)| user);
        let whole = if place.contains('@') || one.contains("://") { place.to_owned() } else { format!("{user}{place}") };
        let user = place.rfind('@').and_then(|at| place.get(..=at)).unwrap_or(if one.contains("://") { "" } else { user });
        before = Some((scheme, user));
        urls.push(format!("{scheme}://{whole}"));
    }
    cluster |= urls.len() > 1;
    Ok((urls, cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_or_some_nodes_of_a_cluster() {
        let all = |text: &str| {
            let (urls, cluster) = read(text).unwrap();
            (urls.join(" "), cluster)
        };
        assert_eq!(all("redis://a"), ("redis://a".into(), false));
        assert_eq!(all("valkeys://u:p@a:1/2"), ("rediss://u:p@a:1/2".into(), false));
        assert_eq!(all("redis://a:1,b:2, redis://c:3"), ("redis://a:1 redis://b:2 redis://c:3".into(), true));
        assert_eq!(all("rediss://u:p,w@a:1"), ("rediss://u:p rediss://w@a:1".into(), true), "a comma in a password is written %2C");
        assert_eq!(all("rediss://u:p%2C@a:1,b:2"), ("rediss://u:p%2C@a:1 rediss://u:p%2C@b:2".into(), true));
        assert_eq!(all("redis-cluster://a:1"), ("redis://a:1".into(), true));
        assert_eq!(all("valkeys-cluster://:p@a:1,b"), ("rediss://:p@a:1 rediss://:p@b".into(), true));
        assert_eq!(all("redis://a?cluster=true"), ("redis://a".into(), true));
        for wrong in ["http://hush@x", "a:1", "redis://", "redis://a,", "redis://a?db=1", "redis://a,http://b"] {
            let why = read(wrong).unwrap_err().to_string();
            assert!(!why.contains("hush"), "{why}");
        }
    }
}
