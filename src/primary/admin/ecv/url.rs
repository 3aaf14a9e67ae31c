//! What `--ecv-monitor` asks, as people write it.

use std::fmt;
use std::str::FromStr;

use axum::http::Uri;
use axum::http::uri::{PathAndQuery, Scheme};

/// The port of a URL that names none.
const PORT: u16 = 80;

/// `http://HOST[:PORT][/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorUrl(Uri);

/// A text that is no [`MonitorUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("give http://HOST:PORT/PATH, like http://127.0.0.1:8000/health (http only, without a user)")]
pub struct BadUrl;

impl FromStr for MonitorUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let uri: Uri = text.parse().map_err(|_| BadUrl)?;
        let authority = uri.authority().ok_or(BadUrl)?;
        let has_port = authority.as_str().len() > authority.host().len();
        let is_fit = uri.scheme() == Some(&Scheme::HTTP)
            && !authority.host().is_empty()
            && !authority.as_str().contains('@')
            && (!has_port || uri.port_u16().is_some_and(|port| port > 0));
        if is_fit { Ok(Self(uri)) } else { Err(BadUrl) }
    }
}

impl fmt::Display for MonitorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl MonitorUrl {
    /// Without brackets.
    pub(super) fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(PORT)
    }

    /// For the host header.
    pub(super) fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    /// With the query, which may follow the host at once.
    pub(super) fn path(&self) -> String {
        match self.0.path_and_query().map_or("/", PathAndQuery::as_str) {
            path if path.starts_with('/') => path.to_owned(),
            query => format!("/{query}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_one_of_http() {
        let parts = |text: &str| {
            let url: MonitorUrl = text.parse().unwrap();
            (url.host().to_owned(), url.port(), url.authority().to_owned(), url.path())
        };
        let own = |host: &str, port, authority: &str, path: &str| (host.into(), port, authority.into(), path.into());
        assert_eq!(parts("http://127.0.0.1:8000/a?b=c"), own("127.0.0.1", 8000, "127.0.0.1:8000", "/a?b=c"));
        assert_eq!(parts("http://[::1]:8000"), own("::1", 8000, "[::1]:8000", "/"));
        assert_eq!(parts("http://host?x"), own("host", 80, "host", "/?x"));
        for text in [
            "",
            "/",
            "host",
            "host:80",
            "127.0.0.1:80/x",
            "https://h/",
            "ftp://h/",
            "http://",
            "http:///x",
            "http://:80/",
            "http://h:0/",
            "http://h:x/",
            "http://h:/",
            "http://h:99999/",
            "http://u:p@h/",
            "http://h/a b",
            "http://h h/",
        ] {
            assert_eq!(text.parse::<MonitorUrl>(), Err(BadUrl), "{text}");
        }
    }
}
