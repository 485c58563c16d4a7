//! The doors of the console: which host is meant, who may act, how many read at once, and the headers of every answer.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::answer::{JSON, Problem};
use super::shared::Shared;

/// Nothing runs or loads but the console's own files, and no other page shows it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// Around every request: refuses foreign names of a local console, and adds the headers.
pub(super) async fn around(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = if shared.is_local && !names_this_machine(request.headers()) {
        let message = "this console answers requests to localhost or an address; open it under that name";
        Problem::new(StatusCode::MISDIRECTED_REQUEST, message).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Before a request that reads: waits until few others do.
pub(super) async fn in_turn(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    // The semaphore is never closed.
    let _turn = shared.reads.acquire().await;
    next.run(request).await
}

/// Before an act: it must be allowed, from our own pages, and with the token.
pub(super) async fn act(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match allowed(shared.token.as_deref(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn allowed(token: Option<&str>, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(token) = token else {
        let message = "the console is read-only; a program allows acts where STREAMS_CONSOLE_TOKEN is set";
        return Err(Problem::new(StatusCode::FORBIDDEN, message));
    };
    if !is_same_origin(headers) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "the request comes from a page of another origin"));
    }
    let kind = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON)) {
        let message = format!("the body is `{kind}`; expected `{JSON}`");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let given = text(headers, AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
    let is_right = given.is_some_and(|given| bool::from(given.as_bytes().ct_eq(token.as_bytes())));
    if !is_right {
        let message = "acts need the token of STREAMS_CONSOLE_TOKEN, as `Authorization: Bearer ..`";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, message));
    }
    Ok(())
}

/// Whether the request is from a page of the console, or from no page at all. A browser says where its page is from.
fn is_same_origin(headers: &HeaderMap) -> bool {
    match (text(headers, "sec-fetch-site"), text(headers, ORIGIN.as_str())) {
        (Some(site), _) if site != "same-origin" => false,
        // A proxy in front may have changed the host.
        (Some(_), Some(origin)) => origin != "null",
        (None, Some(origin)) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_some() && authority == text(headers, HOST.as_str())
        }
        (_, None) => !headers.contains_key(ORIGIN),
    }
}

/// Whether the host of the request is this machine or an address, and not the name of somebody's site.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, HOST.as_str()) else { return false };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// The one value of a header; of several or of none nothing.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn refusal(token: Option<&str>, pairs: &[(&'static str, &'static str)]) -> Option<StatusCode> {
        allowed(token, &headers(pairs)).err().map(|problem| problem.into_response().status())
    }

    #[test]
    fn an_act_needs_a_token_a_body_of_json_and_our_own_page() {
        const KIND: (&str, &str) = ("content-type", "application/json; charset=utf-8");
        const TOKEN: (&str, &str) = ("authorization", "Bearer secret");
        const HOST: (&str, &str) = ("host", "a:1");
        assert_eq!(refusal(Some("secret"), &[KIND, TOKEN]), None);
        assert_eq!(refusal(Some("secret"), &[KIND, TOKEN, HOST, ("origin", "http://a:1")]), None);
        assert_eq!(refusal(None, &[KIND, TOKEN]), Some(StatusCode::FORBIDDEN));
        assert_eq!(refusal(Some("secret"), &[TOKEN]), Some(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        assert_eq!(refusal(Some("secret"), &[KIND]), Some(StatusCode::UNAUTHORIZED));
        for token in ["Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret"] {
            assert_eq!(refusal(Some("secret"), &[KIND, ("authorization", token)]), Some(StatusCode::UNAUTHORIZED));
        }
        for page in [
            &[("origin", "http://b:1")][..],
            &[("origin", "null")],
            &[("origin", "http://a:1"), ("origin", "http://b:1")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://a:1")],
            &[("sec-fetch-site", "none")],
        ] {
            let all = [&[KIND, TOKEN, HOST], page].concat();
            assert_eq!(refusal(Some("secret"), &all), Some(StatusCode::FORBIDDEN), "{page:?}");
        }
        let behind_a_proxy = [KIND, TOKEN, HOST, ("origin", "https://ops.example"), ("sec-fetch-site", "same-origin")];
        assert_eq!(refusal(Some("secret"), &behind_a_proxy), None);
    }

    #[test]
    fn a_name_that_leads_here_is_not_this_machine() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "10.0.0.1"] {
            assert!(names_this_machine(&HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))])), "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "[evil]"] {
            assert!(!names_this_machine(&HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))])), "{host}");
        }
        assert!(!names_this_machine(&HeaderMap::new()));
    }
}
