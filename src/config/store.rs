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
/// The option that has the bucket in the host's name and not in the path.
const HOSTED: &str = "aws_virtual_hosted_style_request";
/// Options that become part of a host name or of a header, where `object_store` takes for granted that they fit.
const WORDS: [&str; 6] = [
    "aws_region",
    "aws_default_region",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_token",
];

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
            ("path_style", HOSTED, archive.path_style.map(|path| Secret::new((!path).to_string()))),
            ("allow_http", "aws_allow_http", archive.allow_http.then(|| text("true"))),
        ];
        let mut options = from_environment(environment);
        if archive.endpoint.is_some() {
            options.retain(|option, _| !endpoint_options("s3").contains(&option.as_str()));
        }
        let mut origins = BTreeMap::new();
        for (setting, option, value) in own {
            let Some(value) = value else { continue };
            origins.insert(option, format!("archive.{setting}"));
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
        let wrong = check_options(&url, &options);
        problems.extend(wrong.into_iter().map(|(option, text)| match origins.get(option) {
            Some(setting) => loaded.problem(setting, text),
            None => Problem { origin: option.to_ascii_uppercase(), text },
        }));
        if problems.is_empty() { Ok(Self { url, options }) } else { Err(problems) }
    }

    /// The directory of a `file://` store.
    pub fn directory(&self) -> Option<PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()
    }
}

/// Options that are the address of a store's server.
fn endpoint_options(scheme: &str) -> &'static [&'static str] {
    match scheme {
        "s3" => &["aws_endpoint", "aws_endpoint_url", "aws_endpoint_url_s3"],
        "gs" => &["google_base_url"],
        "az" => &["azure_endpoint", "azure_storage_endpoint"],
        _ => &[],
    }
}

/// Finds options that `object_store` would stumble over at the first request, or that can't work. Values are not shown.
fn check_options(store: &Url, options: &BTreeMap<String, Secret>) -> Vec<(&'static str, String)> {
    let scheme = store.scheme();
    let is_true = |option: &str| options.get(option).is_some_and(|value| is_true(value.expose()));
    let (allow_http, how) = match scheme {
        "gs" => ("google_allow_http", "GOOGLE_ALLOW_HTTP=true"),
        "az" => ("azure_allow_http", "AZURE_ALLOW_HTTP=true"),
        _ => ("aws_allow_http", "archive.allow_http or AWS_ALLOW_HTTP=true"),
    };
    let mut problems = Vec::new();
    for &option in endpoint_options(scheme) {
        let Some(endpoint) = options.get(option).map(Secret::expose) else { continue };
        if let Err(text) = check_endpoint(endpoint) {
            problems.push((option, text));
        } else if endpoint.starts_with("http://") && !is_true(allow_http) {
            let text = format!("http:// has no encryption; use https://, or allow it with {how}");
            problems.push((option, text));
        }
    }
    let bucket = store.host_str().unwrap_or_default();
    // The last one of them counts for this service alone, and before the others.
    let endpoints = || endpoint_options(scheme).iter().rev().filter_map(|&option| options.get(option));
    let lack_bucket = endpoints().next().is_some_and(|endpoint| !names_bucket(endpoint.expose(), bucket));
    // The client would take the first part of each key for the bucket.
    if scheme == "s3" && is_true(HOSTED) && lack_bucket {
        let how = "or have it in the path, with archive.path_style=true";
        let text =
            format!("has the bucket in the host, and so in the endpoint, as https://{bucket}.host; write it so, {how}");
        problems.push((HOSTED, text));
    }
    for option in WORDS.into_iter().filter(|_| scheme == "s3") {
        if options.get(option).is_some_and(|value| !value.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
            problems.push((option, "has a space, a line break or another character that can't be in it".to_owned()));
        }
    }
    let account = "azure_storage_account_name";
    if scheme == "az" && !options.contains_key(account) && !is_true("azure_storage_use_emulator") {
        problems.push((account, "an az:// store needs the name of its account here".to_owned()));
    }
    problems
}

/// Whether a server's address begins with the bucket's name. One that does not read is refused as such.
fn names_bucket(endpoint: &str, bucket: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else { return true };
    let (host, bucket) = (url.host_str().unwrap_or_default(), bucket.to_ascii_lowercase());
    host.strip_prefix(&bucket).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// As `object_store` reads its booleans.
fn is_true(text: &str) -> bool {
    ["1", "true", "on", "yes", "y"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Checks the address of a server, without repeating it: it may hold credentials.
fn check_endpoint(text: &str) -> Result<(), String> {
    let wrong = "is not the address of a server; write it like https://host or http://host:9000";
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let url = host.filter(|host| is_plain && !host.starts_with('/')).and_then(|_| Url::parse(text).ok());
    let url = url.ok_or(wrong)?;
    if has_credentials(&url) {
        return Err("credentials don't belong into the address, which is logged; use variables or settings".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("the address of a server has no ? and no #; leave out what follows".to_owned());
    }
    Ok(())
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
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
    let shown = match text.contains(['@', '?', '#']) {
        true => "what was given, which may hold credentials,".to_owned(),
        false => format!("{text:?}"),
    };
    let url = Url::parse(text).map_err(|error| wrong(&format!("{shown} is not the URL of a store ({error})")))?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err(wrong(&format!("{}:// is not a kind of store", url.scheme())));
    }
    if has_credentials(&url) {
        return Err(wrong("credentials don't belong into the URL, which is logged; use variables or settings"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("the URL, which is logged, takes no options after ? or #; use variables or settings"));
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
        let credentials = [
            "s3://key:secret@bucket",
            "s3://key:ab/secret@bucket",
            "s3://bucket/p?AWSSecretKey=secret",
            "s3://bucket/p#secret",
            "s3://[/p?secret",
        ];
        for text in
            ["", "bucket", "http://x/y", "s3:///prefix", "file:///", "memory://host/"].into_iter().chain(credentials)
        {
            let error = parse_url(text, Path::new("/srv")).unwrap_err();
            assert!(error.ends_with("az://container/prefix") && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_bucket_that_is_in_neither_path_nor_host_is_refused() {
        let check = |endpoint: &str, hosted: &str| {
            let options =
                [("aws_endpoint", endpoint), (HOSTED, hosted)].map(|(name, value)| (name.to_owned(), text(value)));
            check_options(&Url::parse("s3://lake/prefix").unwrap(), &options.into())
        };
        for endpoint in ["https://lake.s3.example.com", "https://Lake.example.com:9000/", "https://lake"] {
            assert!(check(endpoint, "true").is_empty(), "{endpoint}");
        }
        for endpoint in
            ["https://s3.example.com", "https://lakes.example.com", "https://s3.example.com/lake", "https://[::1]"]
        {
            let problems = check(endpoint, "true");
            let (option, text) = problems.first().expect(endpoint);
            assert_eq!(*option, HOSTED);
            assert!(text.contains("as https://lake.host; write it so"), "{endpoint}: {text}");
            assert!(check(endpoint, "false").is_empty(), "{endpoint}");
        }
        let for_others = [
            (HOSTED.to_owned(), text("true")),
            ("aws_endpoint_url".to_owned(), text("https://sqs.example.com")),
            ("aws_endpoint_url_s3".to_owned(), text("https://lake.s3.example.com")),
        ];
        assert!(check_options(&Url::parse("s3://lake").unwrap(), &for_others.into()).is_empty());
        let amazon = [(HOSTED.to_owned(), text("true"))].into();
        assert!(check_options(&Url::parse("s3://lake").unwrap(), &amazon).is_empty());
    }

    #[test]
    fn addresses_of_servers_that_the_client_would_stumble_over_are_refused_and_not_shown() {
        for text in ["http://127.0.0.1:9000", "https://s3.example.com/", "http://[::1]:9000", "https://proxy/path"] {
            assert_eq!(check_endpoint(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "secret",
            "localhost:9000",
            "ftp://secret",
            "http:secret",
            "http://",
            "http:///secret",
            "https://secret host",
            "http://secret\\x",
            "http://secret:99999",
            "https://key:secret@host",
            "https://secret@host",
            "https://host/?key=secret",
            "https://host/#secret",
        ] {
            let error = check_endpoint(text).expect_err(text);
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }
}
