//! A request that is not answered as asked: a status and `{"error": "..."}`.

use std::fmt;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;

use super::audit::Reason;
use crate::primary::commands::{Refused, Unsent};

/// Why a request was not answered as asked.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    /// For people.
    pub(super) error: String,
}

/// What a request comes to.
pub(super) type Answered<T> = Result<T, Problem>;

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl From<Unsent> for Problem {
    fn from(unsent: Unsent) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, unsent.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Stopping => StatusCode::CONFLICT,
            Refused::NoSuchWorker(_) => StatusCode::NOT_FOUND,
            Refused::OutOfRange { .. } => StatusCode::BAD_REQUEST,
            Refused::NotReady(_) | Refused::NotStarted(_) | Refused::NoUpgrade(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refused::BadConfiguration(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refused::TooManyWaiting => StatusCode::TOO_MANY_REQUESTS,
        };
        Self::new(status, refused.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.error }));
        (self.status, Extension(Reason(self.error)), body).into_response()
    }
}
