//! Where ECV is asked, as people write it.

use std::fmt;
use std::str::FromStr;

use super::super::{page, routes};

/// The longest path, in bytes.
const PATH_MAX_BYTES: usize = 256;

/// The path of ECV: `/ecv`, or another one that nothing else answers at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcvPath(String);

/// A text that is no path for ECV.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It is not written as one.
    #[error("give a path like /ecv, of letters, digits and . _ ~ -, without a slash at its end")]
    Malformed,
    /// Something else is there.
    #[error("something else answers there; give another path, like /ecv")]
    Taken,
}

impl EcvPath {
    pub(in crate::primary::admin) fn as_str(&self) -> &str {
        &self.0
    }

    pub(in crate::primary::admin) fn to_enable(&self) -> String {
        format!("{self}/enable")
    }

    pub(in crate::primary::admin) fn to_disable(&self) -> String {
        format!("{self}/disable")
    }
}

impl Default for EcvPath {
    fn default() -> Self {
        Self("/ecv".into())
    }
}

impl FromStr for EcvPath {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<Self, BadPath> {
        let is_fit = |it: char| it.is_ascii_alphanumeric() || "._~-".contains(it);
        let is_segment = |segment: &str| !segment.is_empty() && segment.chars().all(is_fit) && !is_dots(segment);
        let inside = text.strip_prefix('/').filter(|_| text.len() <= PATH_MAX_BYTES).ok_or(BadPath::Malformed)?;
        if !inside.split('/').all(is_segment) {
            return Err(BadPath::Malformed);
        }
        let is_taken = inside.split('/').next().is_some_and(|first| routes::FIRST_SEGMENTS.contains(&first));
        if is_taken || page::is_at(text) {
            return Err(BadPath::Taken);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Clients resolve those themselves.
fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

impl fmt::Display for EcvPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_that_nothing_else_answers_at() {
        for text in ["/ecv", "/health", "/_ah/health", "/lb.check", "/Status", "/ecv/status"] {
            assert_eq!(text.parse::<EcvPath>().unwrap().as_str(), text);
        }
        for text in ["", "/", "ecv", "//", "/ecv/", "/a//b", "/{x}", "/*x", "/a?b", "/a b", "/ä", "/..", "/a/./b"] {
            assert_eq!(text.parse::<EcvPath>(), Err(BadPath::Malformed), "{text}");
        }
        assert_eq!(format!("/{}", "x".repeat(256)).parse::<EcvPath>(), Err(BadPath::Malformed));
        for text in ["/status", "/workers/1", "/stop", "/metrics/ecv", "/script.js"] {
            assert_eq!(text.parse::<EcvPath>(), Err(BadPath::Taken), "{text}");
        }
    }
}
