//! `GET /events`: everything that happens, as server-sent events, until the reader goes away or the primary ends.
//!
//! | message | when |
//! |---|---|
//! | `id: N`, `data: {...}` | an event, as in `docs/events.md`; first the last ones, or those after `Last-Event-ID` |
//! | `event: status`, `data: {...}` | with `?with=status`: what `GET /status` says, at once and every second |
//! | `event: output`, `data: {"worker":3,"stream":"stdout","line":"..."}` | with `?with=output`: lines of workers |
//! | `event: lost`, `data: {...,"count":N}` | so many events or lines did not reach a reader that is too slow |
//! | a comment | nothing has happened for a while |
//!
//! `?with=status,output` is for both, `?follow=no` ends with what there is.

use std::convert::Infallible;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Sse, sse};
use axum::routing::get;
use futures_util::stream;
use serde::Deserialize;

use super::Door;
use super::feed::{Feed, Message, Wish};
use super::problem::{Answered, Problem};
use crate::primary::events::json;
use crate::sys::clock;

/// The route, for the router of a door.
pub(super) fn route<S: Clone + Send + Sync + 'static>(door: Door, feed: Feed) -> Router<S> {
    Router::new().route("/events", get(events)).with_state((door, feed))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default)]
    with: String,
    #[serde(default)]
    follow: String,
}

async fn events(
    State((door, feed)): State<(Door, Feed)>,
    headers: HeaderMap,
    options: Result<Query<Options>, QueryRejection>,
) -> Answered<impl IntoResponse> {
    let watcher = feed.watch(door, wish(&headers, options)?)?;
    let messages = stream::unfold(watcher, |mut watcher| async {
        let message = watcher.next().await?;
        Some((Ok::<_, Infallible>(server_sent(message)), watcher))
    });
    Ok(Sse::new(messages))
}

fn wish(headers: &HeaderMap, options: Result<Query<Options>, QueryRejection>) -> Answered<Wish> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let Query(options) = options.map_err(|error| bad(format!("the query cannot be read: {error}")))?;
    // An id that is none of ours is of no use, and no reason to show nothing.
    let last_event = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let follow = match options.follow.as_str() {
        "" | "yes" => true,
        "no" => false,
        other => return Err(bad(format!("follow={other}: give yes or no"))),
    };
    let mut wish = Wish { follow, last_event, ..Wish::default() };
    for what in options.with.split(',').filter(|what| !what.is_empty()) {
        match what {
            "status" => wish.status = true,
            "output" => wish.output = true,
            other => return Err(bad(format!("with={other}: give status, output, or status,output"))),
        }
    }
    Ok(wish)
}

fn server_sent(message: Message) -> sse::Event {
    match message {
        Message::Event(id, json) => sse::Event::default().id(id.to_string()).data(json),
        Message::Output(json) => sse::Event::default().event("output").data(json),
        Message::Status(json) => sse::Event::default().event("status").data(json),
        Message::Lost(count) => sse::Event::default().event("lost").data(json::lost(clock::since_epoch(), count)),
        Message::Heartbeat => sse::Event::default().comment("nothing new"),
    }
}
