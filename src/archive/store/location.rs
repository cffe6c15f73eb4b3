//! Where a store is: the URL that users write, taken apart.

use std::path::PathBuf;

use url::Url;

use super::LocationError;

/// The kinds of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A directory of this machine, shared by its processes.
    File,
    /// This process's memory: for trying things out, and for tests.
    Memory,
    /// Amazon S3, or a server that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
}

/// A parsed object store URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The URL as given; holds no secrets, since credentials in URLs are refused.
    pub url: String,
    /// Which kind of store.
    pub scheme: Scheme,
    /// Bucket or container; empty for `file` and `memory`.
    pub bucket: String,
    /// Prefix of every key, empty or ending with `/`; empty for `file` and `memory`.
    pub prefix: String,
    /// The directory of a `file` store.
    pub directory: PathBuf,
}

impl Location {
    /// Parses `file:///path`, `memory:///`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        // What does not read as credentials may be credentials all the same.
        let shown = if text.contains(['@', '?', '#']) { "(not shown: it may hold credentials)" } else { text };
        let url = Url::parse(text).map_err(|cause| LocationError::Malformed { url: shown.to_owned(), cause })?;
        let scheme = match url.scheme() {
            "file" => Scheme::File,
            "memory" => Scheme::Memory,
            "s3" => Scheme::S3,
            "gs" => Scheme::Google,
            "az" => Scheme::Azure,
            other => return Err(LocationError::UnknownScheme { scheme: other.to_owned() }),
        };
        let incomplete = |problem| Err(LocationError::Incomplete { url: without_secrets(&url), problem });
        if !url.username().is_empty() || url.password().is_some() {
            return incomplete("must not hold credentials; use the environment or settings");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return incomplete("must not have a query or fragment");
        }
        let mut location = Self {
            url: text.to_owned(),
            scheme,
            bucket: String::new(),
            prefix: String::new(),
            directory: PathBuf::new(),
        };
        match scheme {
            Scheme::File => match url.to_file_path() {
                Ok(path) if path.parent().is_some() => location.directory = path,
                _ => return incomplete("needs an absolute path below the root, as in file:///srv/archive"),
            },
            Scheme::Memory => {}
            Scheme::S3 | Scheme::Google | Scheme::Azure => {
                location.bucket = url.host_str().unwrap_or_default().to_owned();
                if location.bucket.is_empty() {
                    return incomplete("needs a bucket, as in s3://bucket/prefix");
                }
                let prefix = url.path().trim_matches('/');
                if !prefix.is_empty() {
                    location.prefix = format!("{prefix}/");
                }
            }
        }
        Ok(location)
    }

    /// Whether the store outlives the process. Local data is never deleted because of a store that does not.
    pub fn is_durable(&self) -> bool {
        self.scheme != Scheme::Memory
    }
}

fn without_secrets(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_every_scheme_are_taken_apart() {
        let s3 = Location::parse("s3://lake/some/prefix/").unwrap();
        assert_eq!((s3.scheme, s3.bucket.as_str(), s3.prefix.as_str()), (Scheme::S3, "lake", "some/prefix/"));
        assert_eq!(Location::parse("gs://lake").unwrap().prefix, "");
        assert_eq!(Location::parse("az://lake/x").unwrap().scheme, Scheme::Azure);
        assert!(!Location::parse("memory:///").unwrap().is_durable());
        assert_eq!(Location::parse("file:///srv/a%20b").unwrap().directory, PathBuf::from("/srv/a b"));
    }

    #[test]
    fn unusable_urls_are_refused_without_repeating_secrets() {
        assert!(matches!(Location::parse("/srv/x"), Err(LocationError::Malformed { .. })));
        assert!(matches!(Location::parse("http://x/y"), Err(LocationError::UnknownScheme { .. })));
        assert!(matches!(Location::parse("s3:///x"), Err(LocationError::Incomplete { .. })));
        assert!(matches!(Location::parse("file:///"), Err(LocationError::Incomplete { .. })));
        for text in ["s3://key:hush@lake/", "s3://key:ab/hush@lake", "s3://lake/?key=hush", "lake?key=hush"] {
            let error = Location::parse(text).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
