//! Fuzz targets: each takes any bytes, gives them to readers, and panics when one of them does, or
//! when what was read cannot be used. `docs/TESTING.md`, "Fuzzing", has the commands.

pub mod ban_lists;
pub mod callbacks;
pub mod configuration;
pub mod country_files;
pub mod documents;
pub mod mutate;
pub mod tables;
pub mod texts;
pub mod wire;

/// A target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: that of its module, and of its folder in `corpus/`.
    pub name: &'static str,
    /// Runs it. True when something could be read from the bytes.
    pub run: fn(&[u8]) -> bool,
    /// Valid inputs, made by the writers of this version.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// How many inputs the ordinary tests try: about a second.
    pub tries: usize,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target { name: "ban_lists", run: ban_lists::run, samples: Vec::new, tries: 5_000 },
    Target { name: "callbacks", run: callbacks::run, samples: callbacks::samples, tries: 60 },
    Target { name: "configuration", run: configuration::run, samples: Vec::new, tries: 20_000 },
    Target { name: "country_files", run: country_files::run, samples: Vec::new, tries: 2_000 },
    Target { name: "documents", run: documents::run, samples: Vec::new, tries: 3_000 },
    Target { name: "tables", run: tables::run, samples: tables::samples, tries: 4_000 },
    Target { name: "texts", run: texts::run, samples: Vec::new, tries: 20_000 },
    Target { name: "wire", run: wire::run, samples: wire::samples, tries: 20_000 },
];
