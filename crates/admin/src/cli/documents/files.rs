//! Documents from files, directories and standard input, as kubectl takes them. All are read before
//! the first is used; the service checks what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;
use tidegate_author as author;

use super::meant::{is_meant_for_us, known_kinds};
use crate::cli::output::print_error_line;
use crate::manifest::Kind;
use crate::store::DocumentKind;
use tidegate_author::lines::line_of;
use tidegate_author::strict_json::{
    StrictValue, carry_out_merges, check_yaml_depth, without_byte_order_mark,
};

/// Extensions of the files that are read in a directory.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// Where documents are read from.
#[derive(clap::Args, Debug)]
pub struct FileSelection {
    /// A file, a directory (its *.yaml, *.yml and *.json), or - for standard input;
    /// may be given several times.
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR|-")]
    filename: Vec<PathBuf>,
    /// Also read the directories within a directory.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// What to do with documents of other kinds (Gateways, Secrets, kustomization.yaml): pass
    /// over them, with a count of each kind, or refuse everything. Unless given, those of a directory
    /// are passed over, and those of a file that is named or of standard input are refused.
    #[arg(long, value_enum)]
    other_kinds: Option<OtherKinds>,
}

impl FileSelection {
    /// One file.
    pub fn of_file(path: &Path) -> Self {
        Self { filename: vec![path.to_owned()], recursive: false, other_kinds: None }
    }
}

/// What is done with documents of other kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum OtherKinds {
    Skip,
    Error,
}

/// A document of a file.
#[derive(Debug)]
pub struct FileDocument {
    pub location: Location,
    /// Its name; of a route its id.
    pub name: String,
    pub document: Value,
}

/// What files have.
#[derive(Debug)]
pub struct FileDocuments {
    /// In their order.
    pub documents: Vec<FileDocument>,
    /// The kinds of which there is a list (`kind: GeoRuleList`), also an empty one.
    pub listed: BTreeSet<Kind>,
    /// What is wrong with others, which are not among them.
    pub wrong: Vec<LocatedError>,
    /// What of a directory cannot be read and does not look like anything that is taken.
    pub unread: Vec<LocatedError>,
}

/// An error in a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LocatedError {
    /// Number of the file, and of the document in it: people read from the beginning.
    place: (usize, usize),
    /// File, line and what is wrong.
    pub text: String,
}

impl LocatedError {
    /// One that is of no document.
    #[must_use]
    pub fn of_all(text: String) -> Self {
        Self { place: (0, 0), text }
    }

    /// The same, with `more` behind it.
    #[must_use]
    pub fn saying(self, more: &str) -> Self {
        Self { text: format!("{}; {more}", self.text), ..self }
    }
}

/// A file's name and content.
#[derive(Debug)]
struct SourceFile {
    /// Its number among those that are read.
    number: usize,
    name: String,
    bytes: Vec<u8>,
}

/// Location of a document.
#[derive(Clone, Debug)]
pub struct Location {
    file: Arc<SourceFile>,
    /// Its number in the file, from 1.
    document: usize,
    /// In a list: JSON pointer of this item.
    item: String,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: document {}", self.file.name, self.document)?;
        if self.item.is_empty() { Ok(()) } else { write!(f, ": {}", self.item) }
    }
}

impl Location {
    fn item(&self, at: usize) -> Self {
        Self { item: format!("{}/items/{at}", self.item), ..self.clone() }
    }

    /// An error in this document at `pointer`, with its line and code.
    #[must_use]
    pub fn error(&self, pointer: &str, message: &str, code: &str) -> LocatedError {
        let SourceFile { name, bytes, .. } = &*self.file;
        // The pointer within an item continues the item's own.
        let pointer = format!("{}{pointer}", self.item);
        let line = line_of(without_byte_order_mark(bytes), self.document.saturating_sub(1), &pointer);
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        let between = if pointer.is_empty() { "" } else { ": " };
        self.located(format!(
            "{name}{line}: document {}{between}{pointer}: {message} ({code})",
            self.document
        ))
    }

    /// The same of a document that cannot be read.
    fn unreadable(&self, error: &Unreadable) -> LocatedError {
        let (name, number) = (&self.file.name, self.document);
        let line = error.line.map(|line| format!(":{line}")).unwrap_or_default();
        self.located(format!("{name}{line}: document {number}: {}", error.why))
    }

    fn located(&self, text: String) -> LocatedError {
        LocatedError { place: (self.file.number, self.document), text }
    }
}

/// Why a document cannot be read.
#[derive(Debug)]
struct Unreadable {
    /// On which line of the file, from 1.
    line: Option<usize>,
    why: String,
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self { line: Some(error.line()).filter(|line| *line > 0), why: error.to_string() }
    }
}

impl From<yaml_serde::Error> for Unreadable {
    fn from(error: yaml_serde::Error) -> Self {
        Self { line: error.location().map(|location| location.line()), why: error.to_string() }
    }
}

/// What has been read so far.
struct DocumentReader<'k> {
    /// The kinds that are taken.
    kinds: &'k [Kind],
    wanted: Vec<FileDocument>,
    /// The kinds of which there is a list.
    listed: BTreeSet<Kind>,
    /// Location of each document, by kind and name, and of bans the place.
    locations: BTreeMap<(Kind, String, Option<String>), Location>,
    wrong: Vec<LocatedError>,
    /// How many files were read.
    files: usize,
    /// Whether documents of other kinds are passed over.
    skips_others: bool,
    /// How many were, by their kind.
    passed_over: BTreeMap<String, usize>,
    /// Those of them that cannot be read.
    unread: Vec<LocatedError>,
}

/// Reads all documents of `sources` that are of `kinds`, in the order of the arguments and, within a
/// directory, of the file names.
///
/// # Errors
/// That there are no documents, and nothing that is wrong with any.
pub fn read(sources: &FileSelection, kinds: &[Kind]) -> anyhow::Result<FileDocuments> {
    let reader = read_all(sources, kinds);
    if let Some(line) = reader.passed_over() {
        print_error_line(line);
    }
    for unread in &reader.unread {
        print_error_line(format_args!("passed over, for it cannot be read: {}", unread.text));
    }
    reader.finish()
}

/// That all of `wrong` is the reason why nothing was changed, in the order of the files.
pub fn refusal(mut wrong: Vec<LocatedError>) -> anyhow::Error {
    // Those of one document stay as they are.
    wrong.sort_by_key(|error| error.place);
    let lines: Vec<String> = wrong.into_iter().map(|error| error.text).collect();
    anyhow::anyhow!("nothing was changed, for not everything is right:\n{}", lines.join("\n"))
}

fn read_all<'k>(sources: &FileSelection, kinds: &'k [Kind]) -> DocumentReader<'k> {
    let mut reader = DocumentReader::of(kinds);
    for path in &sources.filename {
        reader.skips_others = sources.other_kinds.map_or(path.is_dir(), |kinds| kinds == OtherKinds::Skip);
        if path == Path::new("-") {
            let mut bytes = Vec::new();
            let read = std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input");
            reader.content("standard input", read.map(|_| bytes));
            continue;
        }
        match files(path, sources.recursive) {
            Err(error) => reader.content("", Err(error)),
            Ok(files) => files.iter().for_each(|file| {
                let read = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()));
                reader.content(&file.display().to_string(), read);
            }),
        }
    }
    reader
}

/// The file `path`, or those of the directory.
fn files(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let kind = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !kind.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    list(path, recursive, &mut found).with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(!found.is_empty(), "there is no *.yaml, *.yml or *.json in {}", path.display());
    Ok(found)
}

fn list(directory: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links to directories are not followed: in volumes that Kubernetes mounts they show
        // every file twice.
        if entry.file_type()?.is_dir() {
            if recursive {
                list(&path, recursive, found)?;
            }
        } else if path
            .extension()
            .is_some_and(|end| EXTENSIONS.iter().any(|known| end.eq_ignore_ascii_case(known)))
        {
            found.push(path);
        }
    }
    Ok(())
}

impl<'k> DocumentReader<'k> {
    fn of(kinds: &'k [Kind]) -> Self {
        Self {
            kinds,
            wanted: Vec::new(),
            listed: BTreeSet::new(),
            locations: BTreeMap::new(),
            wrong: Vec::new(),
            files: 0,
            skips_others: false,
            passed_over: BTreeMap::new(),
            unread: Vec::new(),
        }
    }

    /// A file's content, or why there is none.
    fn content(&mut self, name: &str, read: anyhow::Result<Vec<u8>>) {
        match read {
            Ok(bytes) => self.file(name, bytes),
            Err(error) => {
                self.files = self.files.saturating_add(1);
                self.wrong.push(LocatedError { place: (self.files, 0), text: format!("{error:#}") });
            }
        }
    }

    fn file(&mut self, name: &str, bytes: Vec<u8>) {
        self.files = self.files.saturating_add(1);
        if let Some(why) = other_encoding(&bytes) {
            let text = format!("{name}: {why}");
            return self.wrong.push(LocatedError { place: (self.files, 0), text });
        }
        let read = documents(&bytes);
        let file = Arc::new(SourceFile { number: self.files, name: name.to_owned(), bytes });
        for (at, document) in read.into_iter().enumerate() {
            let location =
                Location { file: Arc::clone(&file), document: at.saturating_add(1), item: String::new() };
            match document {
                // Nothing, or only comments, between two separators.
                Ok(Value::Null) => {}
                Ok(document) => self.document(&location, document, None),
                // Tags of one program, templates of another: of no use to kubectl either.
                Err(error) if self.skips_others && !self.mentions_kinds(&file.bytes) => {
                    self.unread.push(location.unreadable(&error));
                }
                Err(error) => self.wrong.push(location.unreadable(&error)),
            }
        }
    }

    /// `bare`: the kind of an item of a list from the API server, where items have no apiVersion and
    /// kind of their own.
    fn document(&mut self, location: &Location, mut document: Value, bare: Option<Kind>) {
        let (kind, items) = match document["kind"].as_str() {
            Some("List") => (None, Some(None)),
            Some(kind) => match kind.strip_suffix("List").and_then(Kind::named) {
                Some(of) if self.kinds.contains(&of) => (None, Some(Some(of))),
                _ => (Kind::named(kind), None),
            },
            None if document.is_object() && document["kind"].is_null() => (bare, None),
            None => (None, None),
        };
        if let Some(bare) = items {
            self.listed.extend(bare);
            let Value::Array(items) = document["items"].take() else {
                let message = format!("must be a list of {}", self.called());
                return self.wrong.push(location.error("/items", &message, "wrong_type"));
            };
            for (at, item) in items.into_iter().enumerate() {
                self.document(&location.item(at), item, bare);
            }
            return;
        }
        match kind.filter(|kind| self.kinds.contains(kind)) {
            Some(kind) => {
                if let Value::Object(fields) = &mut document {
                    fields.insert("kind".to_owned(), kind.name().into());
                }
                self.take(location, kind, document);
            }
            None => self.pass_over(location, &document),
        }
    }

    /// What is taken, in words.
    fn called(&self) -> String {
        match self.kinds {
            [kind] => format!("{}s", kind.name()),
            _ => "documents of this service".to_owned(),
        }
    }

    /// Whether there may be a document that is taken in a file that cannot be read.
    fn mentions_kinds(&self, bytes: &[u8]) -> bool {
        let text = String::from_utf8_lossy(bytes);
        let words: Vec<&str> =
            text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let is_kind =
            |word: &str, kind: &Kind| word == kind.name() || word.strip_suffix("List") == Some(kind.name());
        self.kinds.iter().any(|kind| match kind {
            Kind::Document(DocumentKind::Route) => text.contains(kind.name()),
            // Words that stand in other files as well. `apiVersion` may be left out.
            kind => {
                text.contains(crate::manifest::API_VERSION)
                    || words.windows(2).any(|pair| matches!(pair, ["kind", word] if is_kind(word, kind)))
            }
        })
    }

    /// Passes over a document of another kind, or notes what it is as an error. One that is meant for this
    /// service is never passed over: with `prune` what it was meant to be would be removed.
    fn pass_over(&mut self, location: &Location, document: &Value) {
        let is_ours = is_meant_for_us(document);
        if self.skips_others && !is_ours {
            let kind = document["kind"].as_str().unwrap_or("no kind").to_owned();
            *self.passed_over.entry(kind).or_default() += 1;
            return;
        }
        let name = document["metadata"]["name"].as_str().map(|name| format!(" ({name})")).unwrap_or_default();
        let is = match document {
            Value::Object(_) => match &document["kind"] {
                Value::String(kind) => format!("is of kind {kind}{name}"),
                Value::Null => format!("has no kind{name}"),
                other => format!("has {other} as its kind{name}"),
            },
            _ => "is no object".to_owned(),
        };
        let message = match is_ours {
            true => format!("{is}: write `kind:` with one of {}", known_kinds()),
            false => format!("{is}: only {} are taken; --other-kinds skip passes over others", self.called()),
        };
        self.wrong.push(location.error("", &message, "not_supported"));
    }

    /// How many documents of each kind were passed over; `None`: none was.
    fn passed_over(&self) -> Option<String> {
        let kinds: Vec<_> = self.passed_over.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let called = self.called();
        (!kinds.is_empty()).then(|| format!("passed over, for they are no {called}: {}", kinds.join(", ")))
    }

    fn take(&mut self, location: &Location, kind: Kind, document: Value) {
        let of = |field: &str| document["metadata"][field].as_str();
        let name = of("name").unwrap_or_default();
        let name = match kind {
            Kind::Document(DocumentKind::Route) => author::route_id(of("namespace"), name),
            _ => name.to_owned(),
        };
        let place = kind.place(&document["spec"]);
        if let Some(other) = self.locations.insert((kind, name.clone(), place), location.clone()) {
            let message = format!("{other} is the {} {name} as well", kind.name());
            return self.wrong.push(location.error("/metadata/name", &message, "conflict"));
        }
        self.wanted.push(FileDocument { location: location.clone(), name, document });
    }

    fn finish(self) -> anyhow::Result<FileDocuments> {
        let called = self.called();
        let is_empty = self.wanted.is_empty() && self.listed.is_empty() && self.wrong.is_empty();
        anyhow::ensure!(!is_empty, "there are no {called} in what was given");
        let Self { wanted: documents, listed, wrong, unread, .. } = self;
        Ok(FileDocuments { documents, listed, wrong, unread })
    }
}

/// Why a file is no text that can be looked into: what stands in it could be anything.
fn other_encoding(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xFE, 0xFF, ..] | [0xFF, 0xFE, ..] => Some("this is UTF-16: save it as UTF-8"),
        _ if bytes.contains(&0) => Some("this has bytes that are 0, as UTF-16 has: save it as UTF-8"),
        _ => None,
    }
}

/// The documents of a file up to the first that cannot be read. A file that begins with a brace
/// is read as JSON documents, or as YAML if it is not JSON.
fn documents(bytes: &[u8]) -> Vec<Result<Value, Unreadable>> {
    let bytes = without_byte_order_mark(bytes);
    if bytes.trim_ascii_start().starts_with(b"{") {
        let as_json = json_documents(bytes);
        if as_json.iter().all(Result::is_ok) {
            return as_json;
        }
        let as_yaml = yaml_documents(bytes);
        return if as_yaml.iter().all(Result::is_ok) { as_yaml } else { as_json };
    }
    yaml_documents(bytes)
}

fn json_documents(bytes: &[u8]) -> Vec<Result<Value, Unreadable>> {
    let documents = serde_json::Deserializer::from_slice(bytes).into_iter::<StrictValue>();
    up_to_error(documents.map(|read| read.map_err(Into::into)))
}

fn yaml_documents(bytes: &[u8]) -> Vec<Result<Value, Unreadable>> {
    if let Err(wrong) = check_yaml_depth(bytes) {
        return vec![Err(Unreadable { line: Some(wrong.line), why: wrong.to_string() })];
    }
    let documents = yaml_serde::Deserializer::from_slice(bytes).enumerate();
    // For a text without documents the reader returns one without a value.
    up_to_error(documents.map(|(at, one)| {
        let read = Option::<StrictValue>::deserialize(one)?;
        let StrictValue(mut document) = read.unwrap_or(StrictValue(Value::Null));
        let merged = carry_out_merges(&mut document);
        merged.map_err(|why| Unreadable { line: line_of(bytes, at, ""), why })?;
        Ok(StrictValue(document))
    }))
}

/// Up to the first error: both readers repeat it endlessly.
fn up_to_error(
    documents: impl Iterator<Item = Result<StrictValue, Unreadable>>,
) -> Vec<Result<Value, Unreadable>> {
    let mut read = Vec::new();
    for document in documents {
        let failed = document.is_err();
        read.push(document.map(|StrictValue(document)| document));
        if failed {
            break;
        }
    }
    read
}

#[cfg(test)]
mod tests;
