//! Files of sources: lists, and the values of headers. All are in one directory that the operator of the
//! service names, so that who may write documents can neither read nor send away other files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use reqwest::Certificate;
use reqwest::header::{HeaderName, HeaderValue};
use tidegate_author::Credentials;

use super::FetchError;

/// Bytes of the value of a header, at most.
const MAX_VALUE: u64 = 8 << 10;
/// Bytes of a file of authorities, at most.
const MAX_AUTHORITIES: u64 = 1 << 20;

/// The directory of these files; `None`: there is none.
pub(super) struct SourceFiles(pub Option<PathBuf>);

impl SourceFiles {
    /// Opens the file `name`, which is a regular one.
    pub fn open(&self, name: &str) -> Result<File, FetchError> {
        let directory = self.0.as_deref().ok_or_else(|| {
            FetchError::new("files of sources need a directory: start the service with --source-files DIR")
        })?;
        let told = |why: String| {
            FetchError::new(format!("the file `{name}` of --source-files cannot be read: {why}"))
        };
        let path = directory.join(name);
        // A pipe would block whoever opens it.
        let is_file = std::fs::metadata(&path).map_err(|error| told(error.to_string()))?.is_file();
        if !is_file || Path::new(name).components().count() != 1 {
            return Err(told("it is no regular file".to_owned()));
        }
        File::open(&path).map_err(|error| told(error.to_string()))
    }

    /// The authorities that the file `name` has.
    pub fn authorities(&self, name: &str) -> Result<Vec<Certificate>, FetchError> {
        let mut pem = Vec::new();
        let read = self.open(name)?.take(MAX_AUTHORITIES).read_to_end(&mut pem);
        let found = read.ok().and_then(|_| Certificate::from_pem_bundle(&pem).ok());
        found.filter(|found| !found.is_empty()).ok_or_else(|| {
            FetchError::new(format!("the file `{name}` of --source-files has no certificate in PEM"))
        })
    }

    /// The text that the file `name` has, without blanks around it.
    pub fn secret(&self, name: &str) -> Result<String, FetchError> {
        let mut text = String::new();
        let read = self.open(name)?.take(MAX_VALUE).read_to_string(&mut text);
        let text = read.map(|_| text.trim().to_owned()).ok().filter(|text| !text.is_empty());
        text.ok_or_else(|| FetchError::new(format!("the file `{name}` of --source-files has no text")))
    }

    /// The header of `credentials`.
    pub fn header(&self, credentials: &Credentials) -> Result<(HeaderName, HeaderValue), FetchError> {
        let mut text = String::new();
        let read = self.open(&credentials.file)?.take(MAX_VALUE).read_to_string(&mut text);
        let value = read.ok().and_then(|_| HeaderValue::try_from(text.trim()).ok());
        let value = value.filter(|value| !value.is_empty()).ok_or_else(|| {
            let file = &credentials.file;
            FetchError::new(format!(
                "the file `{file}` of --source-files has no value for a header: one line of text"
            ))
        });
        let name = HeaderName::try_from(&credentials.header)
            .map_err(|_| FetchError::new("the header's name is none"));
        let mut value = value?;
        value.set_sensitive(true);
        Ok((name?, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_the_directory_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "secret\n").unwrap();
        std::fs::write(dir.path().join("two"), "a\nb\n").unwrap();
        std::fs::write(dir.path().join("empty"), "\n").unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let files = SourceFiles(Some(dir.path().to_owned()));
        let header =
            |file: &str| files.header(&Credentials { header: "x-api-key".into(), file: file.into() });
        let (name, value) = header("key").unwrap();
        assert_eq!(
            (name.as_str(), value.as_bytes(), value.is_sensitive()),
            ("x-api-key", &b"secret"[..], true)
        );
        for (file, why) in
            [("two", "one line"), ("empty", "one line"), ("sub", "regular file"), ("gone", "cannot be read")]
        {
            let refused = header(file).unwrap_err().to_string();
            assert!(refused.contains(why), "{file}: {refused}");
        }
        let none = SourceFiles(None).open("key").unwrap_err().to_string();
        assert!(none.contains("--source-files"), "{none}");
    }
}
