//! An export as CSV.

use serde_json::Value;

use super::Item;
use crate::manifest::Kind;

/// Lines of one kind, with a line of headings.
///
/// # Errors
/// Never: nothing is written but to memory.
pub fn lines(items: &[Item]) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    match items.first().map(|item| item.kind) {
        // The service writes them.
        None | Some(Kind::Ban) => {}
        Some(Kind::Flags) => {
            writer.write_record(["name", "value"])?;
            for (name, value) in items.iter().filter_map(|item| item.answer.as_object()).flatten() {
                writer.write_record([name, &value.to_string()])?;
            }
        }
        Some(Kind::AllowListEntry) => {
            const FIELDS: [&str; 5] = ["ip", "status", "reason", "since", "until"];
            writer.write_record(FIELDS)?;
            for item in items {
                writer.write_record(FIELDS.map(|field| text(&item.answer[field])))?;
            }
        }
        Some(Kind::Document(_)) => {
            writer.write_record(["name", "document"])?;
            for item in items {
                writer.write_record([&item.name, &item.answer.to_string()])?;
            }
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// A text without quotes; nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
