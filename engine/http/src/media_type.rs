//! The content type of a file, by the extension of its name.

use std::borrow::Cow;

/// The type of a file without an extension, or with an unknown one.
const UNKNOWN: &str = "application/octet-stream";

/// The value of `Content-Type` for a file of this name. Text has `charset=utf-8`, without which some clients guess. JSON is
/// UTF-8 by its own standard, and XML declares its encoding itself, which a charset here would override (RFC 7303 section
/// 3). If you serve files of untrusted users, add `X-Content-Type-Options: nosniff`.
///
/// ```
/// assert_eq!(baton_http::media_type::of("index.html"), "text/html; charset=utf-8");
/// assert_eq!(baton_http::media_type::of("logo.webp"), "image/webp");
/// ```
pub fn of(name: &str) -> Cow<'static, str> {
    let name = name.rsplit('/').next().unwrap_or(name);
    // A name that begins with its only dot has no extension.
    let extension = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, extension)| extension);
    match extension.and_then(|extension| mime_guess::from_ext(extension).first_raw()).unwrap_or(UNKNOWN) {
        // The most frequent types, without an allocation.
        "text/html" => Cow::Borrowed("text/html; charset=utf-8"),
        "text/css" => Cow::Borrowed("text/css; charset=utf-8"),
        "text/plain" => Cow::Borrowed("text/plain; charset=utf-8"),
        // RFC 9239: the other names are obsolete.
        "text/javascript" | "application/javascript" => Cow::Borrowed("text/javascript; charset=utf-8"),
        text if text.starts_with("text/") && text != "text/xml" => Cow::Owned(format!("{text}; charset=utf-8")),
        other => Cow::Borrowed(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_web_have_their_types() {
        for (name, expected) in [
            ("a.html", "text/html; charset=utf-8"),
            ("a.HTM", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.csv", "text/csv; charset=utf-8"),
            ("a.md", "text/markdown; charset=utf-8"),
            ("a.xml", "text/xml"),
            ("a.json", "application/json"),
            ("a.webmanifest", "application/manifest+json"),
            ("a.wasm", "application/wasm"),
            ("a.svg", "image/svg+xml"),
            ("a.min.png", "image/png"),
            ("a.jpeg", "image/jpeg"),
            ("a.webp", "image/webp"),
            ("a.avif", "image/avif"),
            ("a.woff2", "font/woff2"),
            ("a.mp4", "video/mp4"),
            ("a.pdf", "application/pdf"),
            ("deep/dir.d/a.png", "image/png"),
            ("dir.html/a", UNKNOWN),
            ("a.unheard-of", UNKNOWN),
            ("a.", UNKNOWN),
            (".html", UNKNOWN),
            ("", UNKNOWN),
        ] {
            assert_eq!(of(name), expected, "{name}");
        }
    }
}
