//! What a message carries: any JSON value, kept as text. Pure.
//!
//! Neither the primary nor the library looks into it: it is checked to be JSON once, on the way out of its packet, and
//! parsed by whoever it is for, if they like. Clones share the text.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The body of a message.
#[derive(Clone)]
pub struct Body(Arc<RawValue>);

impl Body {
    /// The JSON of `value`. Its size is looked at when it is sent:
    /// [`PACKET_MAX_BYTES`](super::control::PACKET_MAX_BYTES).
    ///
    /// # Errors
    /// What JSON cannot say: a map whose keys are no strings, or what `value` itself refuses.
    pub fn of(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        serde_json::value::to_raw_value(value).map(Self::from)
    }

    /// As a value of `T`.
    ///
    /// # Errors
    /// It is none. The sender may be another program, or another version of this one: it is bad input, not a bug.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.as_str())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl From<Box<RawValue>> for Body {
    fn from(text: Box<RawValue>) -> Self {
        Self(text.into())
    }
}

impl PartialEq for Body {
    /// The same text; `1.0` is not `1`.
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Body {}

impl fmt::Debug for Body {
    /// Its size only: bodies are other people's data, and this goes into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.as_str().len())
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::from)
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn any_json_survives_and_comes_out_as_what_it_was() {
        let body = Body::of(&("requests", 3, [1.5, 2.0])).unwrap();
        assert_eq!(body.as_str(), r#"["requests",3,[1.5,2.0]]"#);
        assert_eq!(body.parse::<(String, u32, [f64; 2])>().unwrap(), ("requests".into(), 3, [1.5, 2.0]));
        assert_eq!(Body::of(&()).unwrap().as_str(), "null");
    }

    #[test]
    fn what_is_no_json_and_what_is_something_else_are_errors() {
        assert!(Body::of(&BTreeMap::from([((1, 2), "a pair is no key")])).is_err());
        assert!(Body::of("three").unwrap().parse::<u32>().is_err());
    }

    #[test]
    fn a_log_line_shows_no_content() {
        assert_eq!(format!("{:?}", Body::of("secret").unwrap()), "Body(8 bytes)");
    }
}
