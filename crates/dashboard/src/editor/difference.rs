//! How two texts differ by lines.

use maud::{Markup, html};
use similar::{ChangeTag, TextDiff};

use crate::show::text::visible;

/// Lines that are shown around each change.
const AROUND: usize = 3;

/// A line of a difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LineChange {
    /// Lines that are in both are left out before the next one.
    Gap,
    /// It is in both.
    Kept(String),
    /// It is in the new text only.
    Added(String),
    /// It is in the old text only.
    Removed(String),
}

/// What makes `new` of `old`; nothing: they are equal.
pub fn changes(old: &str, new: &str) -> Vec<LineChange> {
    let diff = TextDiff::from_lines(old, new);
    let mut changes = Vec::new();
    for (index, group) in diff.grouped_ops(AROUND).iter().enumerate() {
        if index > 0 {
            changes.push(LineChange::Gap);
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let line = change.value().trim_end_matches(['\r', '\n']).to_owned();
            changes.push(match change.tag() {
                ChangeTag::Equal => LineChange::Kept(line),
                ChangeTag::Insert => LineChange::Added(line),
                ChangeTag::Delete => LineChange::Removed(line),
            });
        }
    }
    changes
}

/// A difference, with signs for those who do not see its colours.
pub fn show(changes: &[LineChange], label: &str) -> Markup {
    html! {
        pre.diff tabindex="0" role="group" aria-label=(label) {
            @for change in changes {
                @match change {
                    LineChange::Gap => { span.quiet { "…\n" } }
                    LineChange::Kept(line) => { "  " (visible(line)) "\n" }
                    LineChange::Added(line) => { ins.added { "+ " (visible(line)) } "\n" }
                    LineChange::Removed(line) => { del.removed { "- " (visible(line)) } "\n" }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_leaves_out_what_is_far_from_it() {
        let old: String = (1..=20).map(|line| format!("{line}\n")).collect();
        let new = old.replace("\n2\n", "\ntwo\n").replace("20\n", "20\n<b>\n");
        let found = changes(&old, &new);
        let text = |line: &str| line.to_owned();
        assert_eq!(
            found[..3],
            [LineChange::Kept(text("1")), LineChange::Removed(text("2")), LineChange::Added(text("two"))]
        );
        assert_eq!(found[6..8], [LineChange::Gap, LineChange::Kept(text("18"))]);
        assert!(show(&found, "x").into_string().ends_with("<ins class=\"added\">+ &lt;b&gt;</ins>\n</pre>"));
        assert_eq!(changes(&old, &old), []);
    }
}
