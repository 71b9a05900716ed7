//! Where the pages of bans are.

use crate::api::encoded;

/// The list.
pub const BANS: &str = "/ui/bans";
/// One address or block.
pub const ADDRESS: &str = "/ui/bans/address";
/// Where the form that bans is sent to; also a page that has only the form.
pub const BAN: &str = "/ui/bans/ban";
/// Where the buttons of entries are sent to.
pub const ENTRY: &str = "/ui/bans/entry";
/// The page that imports a list.
pub const IMPORT: &str = "/ui/bans/import";
/// The page of the list that is held.
pub const CHECKED: &str = "/ui/bans/import/check";

/// The page of an address or a block.
pub fn page_of(ip: &str) -> String {
    format!("{ADDRESS}?ip={}", encoded(ip))
}
