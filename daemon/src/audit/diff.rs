//! What changed in a text, as people read it. Pure but for a limit on the time spent.

use std::time::Duration;

use similar::TextDiff;

/// Longest diff, in lines and in bytes; what is more is counted, not shown.
const LINES: usize = 200;
const BYTES: usize = 16 * 1024;
/// Larger contents are not compared line by line.
const CONTENT_LIMIT: usize = 4 * 1024 * 1024;
/// After this time the comparison becomes coarse.
const PATIENCE: Duration = Duration::from_millis(300);

/// The difference between two contents in the unified form, or one sentence where there is no text to show; `None` when
/// they are the same. Bounded. It holds what the contents hold: show it through `path::escape`.
#[must_use]
pub fn text_diff(old: &[u8], new: &[u8]) -> Option<String> {
    if old == new {
        return None;
    }
    let (Some(before), Some(after)) = (text(old), text(new)) else {
        return Some(format!("binary, {} → {} bytes", old.len(), new.len()));
    };
    if old.len().max(new.len()) > CONTENT_LIMIT {
        return Some(format!("too large to compare, {} → {} bytes", old.len(), new.len()));
    }
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(before, after);
    Some(bounded(&diff.unified_diff().to_string()))
}

/// Text is what has no NUL and is UTF-8.
fn text(bytes: &[u8]) -> Option<&str> {
    if bytes.contains(&0) { None } else { std::str::from_utf8(bytes).ok() }
}

fn bounded(diff: &str) -> String {
    let mut shown = String::new();
    for (n, line) in diff.split_inclusive('\n').enumerate() {
        if n == LINES || shown.len() + line.len() > BYTES {
            let room = if n == LINES { 0 } else { BYTES - shown.len() };
            let whole_chars = line.char_indices().map(|(start, _)| start).take_while(|start| *start <= room).last();
            shown.push_str(&line[..whole_chars.unwrap_or_default()]);
            if !shown.ends_with('\n') {
                shown.push('\n');
            }
            shown.push_str(&format!("… cut, {} lines in all\n", diff.lines().count()));
            break;
        }
        shown.push_str(line);
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{BYTES, LINES, text_diff};

    #[test]
    fn differences() {
        for (old, new, diff) in [
            ("a\nb\n", "a\nb\n", None),
            ("a\nb\n", "a\nc\n", Some("@@ -1,2 +1,2 @@\n a\n-b\n+c\n")),
            ("", "a\n", Some("@@ -0,0 +1 @@\n+a\n")),
            ("a\n", "", Some("@@ -1 +0,0 @@\n-a\n")),
            ("a\n", "a", Some("@@ -1 +1 @@\n-a\n+a\n\\ No newline at end of file\n")),
            ("a\0", "b", Some("binary, 2 → 1 bytes")),
        ] {
            assert_eq!(text_diff(old.as_bytes(), new.as_bytes()).as_deref(), diff, "{old:?} {new:?}");
        }
        assert_eq!(text_diff(b"\xff\xfe", b"").as_deref(), Some("binary, 2 → 0 bytes"));
    }

    #[test]
    fn it_is_bounded() {
        let long: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        let diff = text_diff(b"", long.as_bytes()).unwrap();
        assert_eq!(diff.lines().count(), LINES + 1);
        assert!(diff.ends_with("… cut, 5001 lines in all\n"));
        let wide = text_diff(b"", "ü".repeat(100_000).as_bytes()).unwrap();
        assert!(wide.len() < BYTES + 100 && wide.contains("… cut, 3 lines in all"));
        assert_eq!(text_diff(&vec![b'x'; 5 << 20], b"").unwrap(), "too large to compare, 5242880 → 0 bytes");
    }

    #[test]
    fn it_takes_no_more_than_a_moment() {
        let lines = |f: fn(u32) -> u32| (0..200_000).map(|n| format!("{}\n", f(n))).collect::<String>();
        let (old, new) = (lines(|n| n.wrapping_mul(2_654_435_761) % 50_000), lines(|n| n.wrapping_mul(40_503) % 50_000));
        let began = Instant::now();
        assert!(text_diff(old.as_bytes(), new.as_bytes()).is_some());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
