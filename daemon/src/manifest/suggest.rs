//! `did you mean …?`: the nearest of a few known words. Pure.

/// Longer words are not compared: nobody mistypes them by a letter, and the work stays bounded.
const LONGEST: usize = 200;

/// The candidate that a person most likely meant, if one is near enough.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters: Vec<char> = word.chars().take(LONGEST + 1).collect();
    let reach = (letters.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|c| letters.len() <= LONGEST && c.len() <= LONGEST && c.len().abs_diff(word.len()) <= 4 * reach)
        .map(|c| (distance(&letters, &c.chars().collect::<Vec<_>>()), c))
        .filter(|(steps, _)| *steps <= reach)
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, c)| c)
}

/// Letters to insert, drop, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differ = usize::from(a[i - 1] != b[j - 1]);
            let mut steps = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + differ);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                steps = steps.min(before[j - 2] + 1);
            }
            row.push(steps);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_and_far() {
        let keys = ["name", "enabled", "active", "on_change"];
        for (typed, meant) in [
            ("enabeld", Some("enabled")),
            ("nmae", Some("name")),
            ("onchange", Some("on_change")),
            ("on-change", Some("on_change")),
            ("x", None),
            ("frequency", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, keys), meant, "{typed}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), keys), None);
    }
}
