//! Lists of bans, of which any part may come first.

use tidegate_author::ban_list::{BanListReader, ListError, ListFormat, ListItem};

fn read(list: &[u8], piece: usize, format: Option<ListFormat>) -> Result<Vec<ListItem>, ListError> {
    let mut items = Vec::new();
    let mut reader = BanListReader::new(format, None);
    for piece in list.chunks(piece) {
        reader.push(piece, &mut |item| items.push(item))?;
    }
    reader.finish(&mut |item| items.push(item))?;
    Ok(items)
}

/// Reads `bytes` as each format. It must not matter how they are cut.
pub fn run(bytes: &[u8]) -> bool {
    let named = ["plain", "ipsum", "csv", "json", "jsonl"].map(|name| name.parse().ok());
    let mut has_ban = false;
    for format in named.into_iter().chain([None]) {
        let whole = read(bytes, usize::MAX, format);
        assert_eq!(read(bytes, 3, format), whole, "cut, it means something else");
        has_ban |= whole.is_ok_and(|items| items.iter().any(|item| matches!(item, ListItem::Ban(_))));
    }
    has_ban
}
