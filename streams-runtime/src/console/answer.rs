//! Answers as JSON, and requests that cannot be answered with their status and reason.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use streams_core::broker::{BrokerError, BrokerErrorKind};

pub(super) const JSON: &str = "application/json";

/// A value as the body of an answer.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(CONTENT_TYPE, JSON)], Body::from(body)).into_response(),
            Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

/// Why a request is not answered.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The error of a look for a name. Our own refusals have no cause: the name is not there.
    pub(super) fn unknown(error: BrokerError) -> Self {
        let is_ours = error.kind() == BrokerErrorKind::Refused && std::error::Error::source(&error).is_none();
        if is_ours { Self::new(StatusCode::NOT_FOUND, error.to_string()) } else { error.into() }
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        let is_ours = std::error::Error::source(&error).is_none();
        let status = match error.kind() {
            BrokerErrorKind::Refused if is_ours => StatusCode::CONFLICT,
            BrokerErrorKind::Refused => StatusCode::FORBIDDEN,
            BrokerErrorKind::Unavailable | BrokerErrorKind::Indefinite | BrokerErrorKind::Full => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
