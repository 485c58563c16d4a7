//! The files of the console: one page, its style and its scripts, which hold no data.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::extract::{OriginalUri, Path};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::answer::Problem;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The path of the page below that of the console.
pub(super) const PAGE: &str = "/index.html";
const INDEX: &str = include_str!("assets/index.html");
/// The files by name, each with its type.
const FILES: [(&str, &str, &str); 14] = [
    ("style.css", STYLE, include_str!("assets/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("app.js", SCRIPT, include_str!("assets/app.js")),
    ("api.js", SCRIPT, include_str!("assets/api.js")),
    ("dom.js", SCRIPT, include_str!("assets/dom.js")),
    ("overview.js", SCRIPT, include_str!("assets/overview.js")),
    ("stream.js", SCRIPT, include_str!("assets/stream.js")),
    ("group.js", SCRIPT, include_str!("assets/group.js")),
    ("letters.js", SCRIPT, include_str!("assets/letters.js")),
    ("shapes.js", SCRIPT, include_str!("assets/shapes.js")),
    ("publish.js", SCRIPT, include_str!("assets/publish.js")),
    ("handlers.js", SCRIPT, include_str!("assets/handlers.js")),
    ("trace.js", SCRIPT, include_str!("assets/trace.js")),
    ("server.js", SCRIPT, include_str!("assets/server.js")),
];

/// The page, below the path of the console, because its files lie beside it. The path itself leads to it: a router that is
/// nested is not asked for its path with a slash behind.
pub(super) async fn index(OriginalUri(uri): OriginalUri, headers: HeaderMap) -> Response {
    if uri.path().ends_with('/') || uri.path().ends_with(PAGE) {
        return file(HTML, INDEX, &headers);
    }
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    (StatusCode::PERMANENT_REDIRECT, [(LOCATION, format!("{name}{PAGE}{query}"))]).into_response()
}

pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, kind, text)) => file(kind, text, &headers),
        None => nothing(),
    }
}

pub(super) async fn other() -> Response {
    nothing()
}

fn nothing() -> Response {
    Problem::new(StatusCode::NOT_FOUND, "the console has no such page").into_response()
}

/// A file, or that the browser has it. Browsers ask each time, because a new build has other files.
fn file(kind: &'static str, text: &'static str, headers: &HeaderMap) -> Response {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let kept = headers.get(IF_NONE_MATCH).is_some_and(|kept| kept.as_bytes() == tag.as_bytes());
    let headers = [(CONTENT_TYPE, kind.to_owned()), (CACHE_CONTROL, "no-cache".to_owned()), (ETAG, tag)];
    if kept { (StatusCode::NOT_MODIFIED, headers).into_response() } else { (headers, text).into_response() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_no_script_or_style_of_its_own_and_loads_nothing_from_elsewhere() {
        let texts = FILES.iter().map(|(name, _, text)| (*name, *text)).chain([("index.html", INDEX)]);
        for (name, text) in texts {
            for bad in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick="]
            {
                assert!(!text.contains(bad), "{name} has `{bad}`");
            }
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{name} names another host");
        }
        assert!(!INDEX.contains("<style") && INDEX.matches("<script").count() == 1);
    }
}
