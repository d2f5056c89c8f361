//! The kinds of values a key may hold, and how each is read from TOML or from an environment variable.
use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use toml::Value;
use zeroize::Zeroizing;

/// A value that a key of the configuration may hold.
pub trait Setting: Sized {
    /// What the manual calls it.
    const SHAPE: &'static str;
    /// Reads it; relative paths are resolved against `base`.
    ///
    /// # Errors
    /// What is wrong and what would be right.
    fn read(value: &Value, base: &Path) -> Result<Self, String>;
    /// The TOML value that an environment variable's text stands for.
    fn from_text(text: &str) -> Value {
        Value::String(text.to_owned())
    }
    /// What an absent key means, if that is allowed.
    fn absent() -> Option<Self> {
        None
    }
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("a string is expected, not {}", article(value)))
}

fn article(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}

fn scalar(text: &str) -> Value {
    if let Ok(flag) = text.parse::<bool>() {
        return Value::Boolean(flag);
    }
    text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::Integer)
}

impl Setting for String {
    const SHAPE: &'static str = "string";
    fn read(value: &Value, _: &Path) -> Result<Self, String> {
        text(value).map(str::to_owned)
    }
}

impl Setting for bool {
    const SHAPE: &'static str = "boolean";
    fn read(value: &Value, _: &Path) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("true or false is expected, not {}", article(value)))
    }
    fn from_text(text: &str) -> Value {
        scalar(text)
    }
}

impl Setting for u32 {
    const SHAPE: &'static str = "number";
    fn read(value: &Value, _: &Path) -> Result<Self, String> {
        let number = value.as_integer().ok_or_else(|| format!("a whole number is expected, not {}", article(value)))?;
        Self::try_from(number).map_err(|_| format!("{number} is out of range"))
    }
    fn from_text(text: &str) -> Value {
        scalar(text)
    }
}

/// A duration in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub i64);

impl Setting for Seconds {
    const SHAPE: &'static str = "duration";
    fn read(value: &Value, _: &Path) -> Result<Self, String> {
        let given = text(value).map_err(|why| format!("{why}; write a duration such as \"60s\", \"5m\", \"12h\" or \"30d\""))?;
        if given == "0s" {
            return Ok(Self(0));
        }
        tokens::duration::parse(given)
            .map(Self)
            .ok_or_else(|| format!("\"{given}\" is not a duration of at least one second, such as \"60s\", \"5m\", \"12h\" or \"30d\""))
    }
}

impl Seconds {
    /// As a standard duration.
    #[must_use]
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(u64::try_from(self.0).unwrap_or(0))
    }
}

impl Setting for PathBuf {
    const SHAPE: &'static str = "path";
    fn read(value: &Value, base: &Path) -> Result<Self, String> {
        match text(value)? {
            "" => Err("the path is empty".into()),
            path => Ok(base.join(path)),
        }
    }
}

impl Setting for SocketAddr {
    const SHAPE: &'static str = "address:port";
    fn read(value: &Value, _: &Path) -> Result<Self, String> {
        let given = text(value)?;
        let named = given.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        named
            .as_deref()
            .unwrap_or(given)
            .parse()
            .map_err(|_| format!("\"{given}\" is not an address and port, such as \"127.0.0.1:8080\" or \"[::1]:0\""))
    }
}

impl Setting for IpNet {
    const SHAPE: &'static str = "network";
    fn read(value: &Value, _: &Path) -> Result<Self, String> {
        let given = text(value)?;
        given
            .parse()
            .or_else(|_| given.parse::<std::net::IpAddr>().map(Self::from))
            .map_err(|_| format!("\"{given}\" is not a network, such as \"10.0.0.0/8\""))
    }
}

/// A part that this process plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The authorization server.
    Auth,
    /// The API gateway.
    Gateway,
    /// The administration API.
    Admin,
    /// The device protocols; not in this version.
    Devices,
}

impl Setting for Role {
    const SHAPE: &'static str = "role";
    fn read(value: &Value, _: &Path) -> Result<Self, String> {
        match text(value)? {
            "auth" => Ok(Self::Auth),
            "gateway" => Ok(Self::Gateway),
            "admin" => Ok(Self::Admin),
            "devices" => Err("the role \"devices\" is not supported by this version".into()),
            other => Err(format!("\"{other}\" is not a role; the roles are \"auth\", \"gateway\" and \"admin\"")),
        }
    }
}

/// A secret; shows nothing when printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"…\"")
    }
}

impl Setting for Secret {
    const SHAPE: &'static str = "secret";
    fn read(value: &Value, _: &Path) -> Result<Self, String> {
        match value.as_str() {
            Some("") => Err("the secret is empty".into()),
            Some(secret) => Ok(Self(Zeroizing::new(secret.to_owned()))),
            None => Err(format!("a string is expected, not {}", article(value))),
        }
    }
}

impl<T: Setting> Setting for Option<T> {
    const SHAPE: &'static str = T::SHAPE;
    fn read(value: &Value, base: &Path) -> Result<Self, String> {
        T::read(value, base).map(Some)
    }
    fn from_text(text: &str) -> Value {
        T::from_text(text)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Setting> Setting for Vec<T> {
    const SHAPE: &'static str = "list";
    fn read(value: &Value, base: &Path) -> Result<Self, String> {
        let items = value.as_array().ok_or_else(|| format!("a list is expected, not {}", article(value)))?;
        items.iter().map(|item| T::read(item, base)).collect()
    }
    /// Either a TOML array or items separated by commas.
    fn from_text(text: &str) -> Value {
        if let Ok(mut table) = format!("v = {text}").parse::<toml::Table>()
            && let Some(Value::Array(items)) = table.remove("v")
        {
            return Value::Array(items);
        }
        Value::Array(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(T::from_text).collect())
    }
    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}
