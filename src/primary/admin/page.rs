//! The page for people, `GET /`: fixed files, compiled in. What it shows it asks for itself, at `/events`. Which door
//! it is at, and so whether it has buttons, stands in its root element.
//!
//! It shows what workers choose (names, output, messages), so it is served as if one of them could smuggle markup into
//! it: nothing runs but the scripts here, nothing is loaded from or sent to anybody else, text cannot become markup,
//! and no other page may frame it.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;

use super::Door;

const PAGE: &str = include_str!("page/index.html");
/// Where [`PAGE`] says its door. As it stands in the file it is at the one without buttons.
const AT_MONITOR: &str = "data-door=\"monitor\"";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// What [`PAGE`] consists of, besides itself. Paths are relative to it, so that it may stand below another path.
const PARTS: [(&str, &str, &str); 9] = [
    ("/style.css", CSS, include_str!("page/style.css")),
    ("/icon.svg", PICTURE, include_str!("page/icon.svg")),
    ("/script.js", SCRIPT, include_str!("page/script.js")),
    ("/stream.js", SCRIPT, include_str!("page/stream.js")),
    ("/rates.js", SCRIPT, include_str!("page/rates.js")),
    ("/chart.js", SCRIPT, include_str!("page/chart.js")),
    ("/lists.js", SCRIPT, include_str!("page/lists.js")),
    ("/format.js", SCRIPT, include_str!("page/format.js")),
    ("/control.js", SCRIPT, include_str!("page/control.js")),
];

/// Everything from here, nothing inline, and no text that becomes markup or script.
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src 'self'; script-src 'self'; style-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The page at one door, and its parts.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(door: Door) -> Router<S> {
    let page = PAGE.replacen(AT_MONITOR, &format!("data-door=\"{door}\""), 1);
    let page = Router::new().route("/", get(async move || answer(HTML, page)));
    PARTS.iter().fold(page, |router, (path, kind, text)| router.route(path, get(async || answer(kind, *text))))
}

/// Whether a part of the page is at this path.
pub(super) fn is_at(path: &str) -> bool {
    PARTS.iter().any(|(part, _, _)| *part == path)
}

/// It is not kept: another version may answer next time.
fn answer(kind: &'static str, text: impl IntoResponse) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_its_door_once() {
        assert_eq!(PAGE.matches(AT_MONITOR).count(), 1);
    }

    #[test]
    fn every_part_that_is_named_is_served() {
        let texts = PARTS.iter().map(|(_, _, text)| *text).chain([PAGE]);
        let quoted = texts.flat_map(|text| text.split('"'));
        let is_part = |name: &&str| [".css", ".js", ".svg"].iter().any(|end| name.ends_with(end));
        let named: Vec<&str> = quoted.filter(is_part).map(|name| name.trim_start_matches("./")).collect();
        assert!(named.len() >= PARTS.len());
        for name in named {
            assert!(PARTS.iter().any(|(path, _, _)| path[1..] == *name), "{name} is not served");
        }
    }
}
