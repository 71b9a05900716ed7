//! Country databases: MaxMind's format, lists, and archives of them.

use std::path::Path;

use tidegate_admin::geo::{FileFormat, read_bytes};
use tidegate_policy::geo::CountryTable;

/// Reads `bytes` as each kind of file. What can be read gives a table that loads.
pub fn run(bytes: &[u8]) -> bool {
    let mut read = false;
    for format in [FileFormat::Auto, FileFormat::Mmdb, FileFormat::Csv] {
        if let Ok(imported) = read_bytes(Path::new("countries"), bytes.to_vec(), format) {
            CountryTable::from_bytes(imported.table).expect("what was read loads");
            read = true;
        }
    }
    read
}
