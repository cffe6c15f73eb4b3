//! Which object store holds the archive, and how to reach it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use url::Url;

use super::Secret;
use super::error::Problem;
use super::load::Loaded;

/// The name of the default store's directory in the first data directory.
const DEFAULT_STORE_DIRECTORY: &str = "object-store";
/// Schemes that are supported, with what follows them.
const SCHEMES: [&str; 5] = ["file", "memory", "s3", "gs", "az"];
/// Variables that describe a store to `object_store` and to the providers' own tools, by prefix.
const VARIABLE_PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// An object store's address and how to reach it, in the terms of the `object_store` library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// `file:///path`, `memory:///`, `s3://bucket/prefix`, `gs://…` or `az://…`.
    pub url: Url,
    /// Options by `object_store`'s lower-case names, as `aws_region`: the environment's, overridden by settings.
    pub options: BTreeMap<String, Secret>,
}

impl StoreConfig {
    /// The store of settings and environment.
    pub(super) fn resolve(
        loaded: &Loaded,
        environment: &[(String, String)],
        working_directory: &Path,
    ) -> Result<Self, Vec<Problem>> {
        let archive = &loaded.settings.archive;
        let first = loaded.settings.data.directories.0.first().cloned().unwrap_or_default();
        let url = match &archive.url {
            Some(text) => parse_url(text, working_directory),
            None => file_url(&working_directory.join(first).join(DEFAULT_STORE_DIRECTORY)),
        };
        let url = url.map_err(|text| vec![loaded.problem("archive.url", text)])?;
        let mut problems = Vec::new();
        let own = [
            ("endpoint", "aws_endpoint", archive.endpoint.clone().map(Secret::new)),
            ("region", "aws_region", archive.region.clone().map(Secret::new)),
            ("access_key_id", "aws_access_key_id", archive.access_key_id.clone()),
            ("secret_access_key", "aws_secret_access_key", archive.secret_access_key.clone()),
            ("path_style", "aws_virtual_hosted_style_request", archive.path_style.then(|| text("false"))),
            ("allow_http", "aws_allow_http", archive.allow_http.then(|| text("true"))),
        ];
        let mut options = from_environment(environment);
        for (setting, option, value) in own {
            let Some(value) = value else { continue };
            if url.scheme() != "s3" {
                let key = format!("archive.{setting}");
                problems.push(loaded.problem(&key, format!("means nothing for a {}:// store; unset it", url.scheme())));
            }
            options.insert(option.to_owned(), value);
        }
        if archive.access_key_id.is_some() != archive.secret_access_key.is_some() {
            let key =
                if archive.access_key_id.is_some() { "archive.access_key_id" } else { "archive.secret_access_key" };
            problems
                .push(loaded.problem(key, "needs the other half: set access_key_id and secret_access_key together"));
        }
        if problems.is_empty() { Ok(Self { url, options }) } else { Err(problems) }
    }

    /// The directory of a `file://` store.
    pub fn directory(&self) -> Option<PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()
    }
}

fn text(value: &str) -> Secret {
    Secret::new(value.to_owned())
}

fn from_environment(environment: &[(String, String)]) -> BTreeMap<String, Secret> {
    let describes = |name: &str| VARIABLE_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    environment
        .iter()
        .filter(|(name, value)| describes(name) && !value.is_empty())
        .map(|(name, value)| (name.to_ascii_lowercase(), Secret::new(value.clone())))
        .collect()
}

/// Reads a store's URL. A relative path after `file:` is taken from the working directory.
fn parse_url(text: &str, working_directory: &Path) -> Result<Url, String> {
    let wrong = |what: &str| {
        format!(
            "{what}; write file:///path, memory:///, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
        )
    };
    if let Some(path) = text.strip_prefix("file://").filter(|path| !path.starts_with('/') && !path.is_empty()) {
        return file_url(&working_directory.join(path));
    }
    // What does not read as credentials may be credentials all the same.
    let shown =
        if text.contains('@') { "what was given, which may hold credentials,".to_owned() } else { format!("{text:?}") };
    let url = Url::parse(text).map_err(|error| wrong(&format!("{shown} is not the URL of a store ({error})")))?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err(wrong(&format!("{}:// is not a kind of store", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("credentials don't belong into the URL, which is logged; use variables or settings"));
    }
    let local = matches!(url.scheme(), "file" | "memory");
    if local && url.has_host() || !local && !url.has_host() {
        return Err(wrong(&format!("{text:?} does not name a place")));
    }
    if url.scheme() == "file" && url.path() == "/" {
        return Err(wrong(&format!("{text:?} is the root directory")));
    }
    Ok(url)
}

fn file_url(path: &Path) -> Result<Url, String> {
    let clean: PathBuf = path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect();
    Url::from_file_path(&clean).map_err(|()| format!("{} is not an absolute path", clean.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read_from_their_urls() {
        let working = Path::new("/srv");
        for (text, expected) in [
            ("file:///var/archive", "file:///var/archive"),
            ("file://./archive", "file:///srv/archive"),
            ("file://archive", "file:///srv/archive"),
            ("memory:///", "memory:///"),
            ("s3://bucket/a/b", "s3://bucket/a/b"),
            ("gs://bucket", "gs://bucket"),
        ] {
            assert_eq!(parse_url(text, working).unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_store_is_refused() {
        let credentials = ["s3://key:secret@bucket", "s3://key:ab/secret@bucket"];
        for text in
            ["", "bucket", "http://x/y", "s3:///prefix", "file:///", "memory://host/"].into_iter().chain(credentials)
        {
            let error = parse_url(text, Path::new("/srv")).unwrap_err();
            assert!(error.ends_with("az://container/prefix") && !error.contains("secret@"), "{text}: {error}");
        }
    }
}
