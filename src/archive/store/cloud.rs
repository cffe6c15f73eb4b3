//! The one door to the `object_store` crate: S3, Google Cloud Storage, Azure Blob Storage, and the in-process store.
//!
//! Its own retries are switched off: it retries a conditional write after a server error, and then mistakes its own first
//! write for another's. [`super::Store`] does all retrying, and knows what each failure means.

use std::ops::Range;
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
    UpdateVersion,
};

use super::backend::{Attempt, Backend, Expected, Listed, Payload, PayloadReader, Version};
use super::location::{Location, Scheme};
use super::{LocationError, StoreError, StoreSettings};
use crate::archive::workers::Workers;
use crate::runtime::net::BoxFuture;
use crate::types::Timestamp;

/// Objects above this size go up in parts of this size; parts also bound the memory of an upload.
const PART_BYTES: usize = super::PART_BYTES as usize;
/// Parts of one upload that are in flight at once.
const PARTS_IN_FLIGHT: usize = 2;
/// What is told of a store's answer, at most.
const MAX_CAUSE_CHARS: usize = 1000;

/// A bucket, or memory, behind the `object_store` crate.
#[derive(Debug)]
pub(super) struct CloudBackend {
    client: Arc<dyn ObjectStore>,
    prefix: String,
    /// Google Cloud Storage takes an object's generation as condition, all others its entity tag.
    by_generation: bool,
    workers: Workers,
}

impl CloudBackend {
    /// An empty store in this process.
    pub(super) fn in_memory(workers: Workers) -> Self {
        Self { client: Arc::new(InMemory::new()), prefix: String::new(), by_generation: false, workers }
    }

    /// The bucket that `location` names. Nothing is sent yet.
    pub(super) fn connect(
        location: &Location,
        settings: &StoreSettings,
        workers: Workers,
    ) -> Result<Self, LocationError> {
        install_tls_provider();
        let unusable = |error: Error| LocationError::Settings { url: location.url.clone(), cause: Box::new(error) };
        let client = build_client(location, settings).map_err(unusable)?;
        let by_generation = location.scheme == Scheme::Google;
        Ok(Self { client, prefix: location.prefix.clone(), by_generation, workers })
    }

    /// What a later conditional write has to name; empty when the store did not say.
    fn version(&self, e_tag: Option<String>, generation: Option<String>) -> Version {
        let version = if self.by_generation { generation } else { e_tag };
        Version(version.unwrap_or_default())
    }

    fn path(&self, key: &str) -> Attempt<Path> {
        Path::parse(format!("{}{key}", self.prefix))
            .map_err(|error| StoreError::Rejected { key: key.to_owned(), cause: Box::new(error) })
    }

    async fn put_in_parts(&self, key: &str, payload: &Payload) -> Attempt<()> {
        let path = self.path(key)?;
        let mut upload = self.client.put_multipart(&path).await.map_err(|error| failure(key, error))?;
        self.put_or_abort(key, payload, upload.as_mut()).await
    }

    /// Ends an upload that was begun, in one way or the other.
    async fn put_or_abort(&self, key: &str, payload: &Payload, upload: &mut dyn MultipartUpload) -> Attempt<()> {
        let result = match self.put_parts(key, payload, upload).await {
            Ok(()) => upload.complete().await.map(drop).map_err(|error| failure(key, error)),
            Err(error) => Err(error),
        };
        // Best effort: the bucket's rule for incomplete uploads removes what this leaves behind. One that was completed after all
        // stays.
        if result.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(key, %error, "parts of a failed upload stay until the bucket expires them");
        }
        result
    }

    async fn put_parts(&self, key: &str, payload: &Payload, upload: &mut dyn MultipartUpload) -> Attempt<()> {
        let mut in_flight = futures_util::stream::FuturesUnordered::new();
        let mut reader = PayloadReader::new(payload);
        while !reader.is_at_end() {
            let part;
            (part, reader) = self.read_part(key, reader).await?;
            in_flight.push(upload.put_part(PutPayload::from_bytes(part)));
            if in_flight.len() >= PARTS_IN_FLIGHT {
                in_flight.next().await.transpose().map_err(|error| failure(key, error))?;
            }
        }
        while let Some(sent) = in_flight.next().await {
            sent.map_err(|error| failure(key, error))?;
        }
        Ok(())
    }

    async fn read_part(&self, key: &str, mut reader: PayloadReader) -> Attempt<(Bytes, PayloadReader)> {
        let read = move || reader.read(PART_BYTES).map(|part| (part, reader));
        let part = self.workers.run(read).await;
        part.map_err(|error| StoreError::Rejected { key: key.to_owned(), cause: Box::new(error) })
    }
}

impl Backend for CloudBackend {
    fn put<'a>(&'a self, key: &'a str, payload: &'a Payload) -> BoxFuture<'a, Attempt<()>> {
        Box::pin(async move {
            if payload.length() > PART_BYTES as u64 {
                return self.put_in_parts(key, payload).await;
            }
            let (content, _) = self.read_part(key, PayloadReader::new(payload)).await?;
            let sent = self.client.put(&self.path(key)?, PutPayload::from_bytes(content)).await;
            sent.map(drop).map_err(|error| failure(key, error))
        })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<(Bytes, Version)>> {
        Box::pin(async move {
            let answer = self.client.get(&self.path(key)?).await.map_err(|error| failure(key, error))?;
            let version = self.version(answer.meta.e_tag.clone(), answer.meta.version.clone());
            let expected = answer.meta.size;
            let content = answer.bytes().await.map_err(|error| failure(key, error))?;
            if content.len() as u64 != expected {
                return Err(StoreError::WrongLength { key: key.to_owned(), expected, found: content.len() as u64 });
            }
            Ok((content, version))
        })
    }

    fn get_ranges<'a>(&'a self, key: &'a str, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Attempt<Vec<Bytes>>> {
        Box::pin(
            async move { self.client.get_ranges(&self.path(key)?, ranges).await.map_err(|error| failure(key, error)) },
        )
    }

    fn size<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<u64>> {
        Box::pin(async move { Ok(self.client.head(&self.path(key)?).await.map_err(|error| failure(key, error))?.size) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Attempt<Listed>> {
        let path = Path::from(format!("{}{prefix}", self.prefix));
        self.client
            .list(Some(&path))
            .map_err(move |error| failure(prefix, error))
            .try_filter_map(move |object| async move {
                let key = object.location.as_ref().strip_prefix(&self.prefix);
                let modified = Some(Timestamp(object.last_modified.timestamp_millis()));
                Ok(key.map(|key| Listed { key: key.to_owned(), length: object.size, modified }))
            })
            .boxed()
    }

    fn directories<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Attempt<Vec<String>>> {
        Box::pin(async move {
            let path = Path::from(format!("{}{prefix}", self.prefix));
            let found = self.client.list_with_delimiter(Some(&path)).await.map_err(|error| failure(prefix, error))?;
            let names = found.common_prefixes.iter().filter_map(Path::filename);
            let mut names: Vec<String> = names.map(str::to_owned).collect();
            names.sort();
            Ok(names)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<()>> {
        Box::pin(async move {
            match self.client.delete(&self.path(key)?).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(failure(key, error)),
            }
        })
    }

    fn replace<'a>(&'a self, key: &'a str, content: Bytes, expected: &'a Expected) -> BoxFuture<'a, Attempt<Version>> {
        Box::pin(async move {
            let mode = match expected {
                Expected::Absent => PutMode::Create,
                Expected::Version(Version(tag)) => {
                    let (e_tag, version) = (Some(tag.clone()), self.by_generation.then(|| tag.clone()));
                    PutMode::Update(UpdateVersion { e_tag, version })
                }
            };
            let options = PutOptions { mode, ..PutOptions::default() };
            let written = self.client.put_opts(&self.path(key)?, PutPayload::from_bytes(content), options).await;
            match written {
                Ok(result) => Ok(self.version(result.e_tag, result.version)),
                Err(error) => Err(failure(key, error)),
            }
        })
    }
}

/// Sorts the crate's errors by what the caller must do. `AlreadyExists` may stand for 412 on a create, or for 409 on any
/// write, which says nothing about the object: both are contention until a read has told them apart. A refused listing is
/// told apart by its text alone, and so is what the store does not implement, such as conditions.
fn failure(key: &str, error: Error) -> StoreError {
    let (key, text) = (key.to_owned(), error.to_string());
    let cause = told(&text).into();
    match error {
        Error::NotFound { .. } => StoreError::NotFound { key },
        Error::AlreadyExists { .. } => StoreError::Contended { key },
        Error::Precondition { .. } | Error::NotModified { .. } => StoreError::ConditionFailed { key },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Denied { key, cause },
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => StoreError::Rejected { key, cause },
        _ if is_denied(&text) => StoreError::Denied { key, cause },
        _ if status(&text).starts_with("501 ") => StoreError::Rejected { key, cause },
        _ => StoreError::Unavailable { key, cause },
    }
}

/// What the crate has no error of its own for: a listing that was denied, and a removal that was denied within a good answer.
fn is_denied(text: &str) -> bool {
    let status = status(text);
    status.starts_with("401 ") || status.starts_with("403 ") || text.ends_with("(code: AccessDenied)")
}

/// The HTTP status and what follows it, where the crate tells no more.
fn status(text: &str) -> &str {
    // The first is the crate's; what a body quotes comes after it.
    text.split_once("non-2xx status code: ").map_or("", |(_, status)| status)
}

/// What an error says, with no more of a body in XML than its code and message: a store repeats there what it refuses, such as
/// a token.
fn told(text: &str) -> String {
    let Some((said, body)) = text.find('<').map(|body| text.split_at(body)) else { return bounded(text) };
    let element = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(content, _)| content.trim())
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => bounded(&format!("{said}{code}: {message}")),
        (Some(code), None) => bounded(&format!("{said}{code}")),
        _ => bounded(&format!("{said}(an answer without an error code)")),
    }
}

fn bounded(text: &str) -> String {
    let end = text.char_indices().nth(MAX_CAUSE_CHARS).map_or(text.len(), |(end, _)| end);
    text[..end].to_owned()
}

/// The HTTP client is built without a TLS library of its own and takes the process-wide one.
fn install_tls_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider was installed before the archive's");
        }
    });
}

fn build_client(location: &Location, settings: &StoreSettings) -> Result<Arc<dyn ObjectStore>, Error> {
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let attempt = Duration::from_millis(settings.attempt_timeout_ms);
    let connect = Duration::from_millis(settings.connect_timeout_ms).min(attempt);
    let options = ClientOptions::new().with_timeout(attempt).with_connect_timeout(connect);
    let pairs = settings.options.0.iter().map(|(key, value)| (key.to_ascii_lowercase(), value));
    match location.scheme {
        Scheme::S3 => {
            let mut builder = AmazonS3Builder::new().with_client_options(options).with_retry(retry);
            if settings.checksum_uploads {
                builder = builder.with_checksum_algorithm(Checksum::SHA256);
            }
            for (key, value) in pairs {
                if let Ok(key) = key.parse::<AmazonS3ConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            Ok(Arc::new(builder.with_bucket_name(&location.bucket).build()?))
        }
        Scheme::Google => {
            let mut builder = GoogleCloudStorageBuilder::new().with_client_options(options).with_retry(retry);
            for (key, value) in pairs {
                if let Ok(key) = key.parse::<GoogleConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            Ok(Arc::new(builder.with_bucket_name(&location.bucket).build()?))
        }
        Scheme::Azure => {
            let mut builder = MicrosoftAzureBuilder::new().with_client_options(options).with_retry(retry);
            for (key, value) in pairs {
                if let Ok(key) = key.parse::<AzureConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            Ok(Arc::new(builder.with_container_name(&location.bucket).build()?))
        }
        Scheme::Memory | Scheme::File => unreachable!("only buckets are built here"),
    }
}

#[cfg(test)]
mod tests {
    use object_store::{PutResult, UploadPart};

    use super::*;
    use crate::runtime::Runtime;
    use crate::runtime::tasks::Priority;

    /// An upload of which one request fails, by its number from 1, and that notes how it ends.
    #[derive(Debug, Default)]
    struct Upload {
        fails_at: u32,
        requests: u32,
        aborts: u32,
    }

    impl Upload {
        fn request(&mut self) -> object_store::Result<()> {
            self.requests += 1;
            let planned = || Error::Generic { store: "test", source: "planned fault".into() };
            if self.requests == self.fails_at { Err(planned()) } else { Ok(()) }
        }
    }

    impl MultipartUpload for Upload {
        fn put_part(&mut self, _: PutPayload) -> UploadPart {
            Box::pin(std::future::ready(self.request()))
        }

        fn complete<'a, 'b>(&'a mut self) -> BoxFuture<'b, object_store::Result<PutResult>>
        where
            'a: 'b,
            Self: 'b,
        {
            let extensions = object_store::Extensions::default();
            let sent = self.request().map(|()| PutResult { e_tag: None, version: None, extensions });
            Box::pin(std::future::ready(sent))
        }

        fn abort<'a, 'b>(&'a mut self) -> BoxFuture<'b, object_store::Result<()>>
        where
            'a: 'b,
            Self: 'b,
        {
            self.aborts += 1;
            Box::pin(std::future::ready(Ok(())))
        }
    }

    #[tokio::test]
    async fn an_upload_of_which_any_request_fails_is_aborted() {
        let workers = Workers::start(&*Runtime::production().tasks, "store", Priority::Foreground, 1);
        let backend = CloudBackend::in_memory(workers);
        let payload = Payload::from(Bytes::from(vec![7; 2 * PART_BYTES + 1]));
        // Three parts and the completion; the 0th never comes.
        for fails_at in 0..=4 {
            let mut upload = Upload { fails_at, ..Upload::default() };
            let sent = backend.put_or_abort("key", &payload, &mut upload).await;
            assert_eq!((sent.is_err(), upload.aborts), (fails_at > 0, u32::from(fails_at > 0)), "{fails_at}");
        }
    }

    const SAID: &str = "Server returned non-2xx status code: 400 Bad Request: ";

    #[test]
    fn of_a_body_only_code_and_message_are_told() {
        let body = "<?xml version=\"1.0\"?><Error><Code>ExpiredToken</Code><Token-0>SECRET</Token-0><Message>it ran out</Message>";
        assert_eq!(told(&format!("{SAID}{body}</Error>")), format!("{SAID}ExpiredToken: it ran out"));
        assert_eq!(told(&format!("{SAID}<Error><Code>No</Code><T>SECRET</T></Error>")), format!("{SAID}No"));
        let page = "<html>the proxy says SECRET</html>";
        assert_eq!(told(&format!("{SAID}{page}")), format!("{SAID}(an answer without an error code)"));
        assert_eq!(told("no route to host"), "no route to host");
        assert_eq!(told(&"é".repeat(2000)).chars().count(), MAX_CAUSE_CHARS);
    }

    #[test]
    fn what_is_denied_or_not_implemented_is_told_as_such() {
        let listing = |status: &str| {
            let source =
                format!("Error performing list request: Server returned non-2xx status code: {status}: ").into();
            failure("key", Error::Generic { store: "S3", source })
        };
        assert!(matches!(listing("403 Forbidden"), StoreError::Denied { .. }));
        assert!(matches!(listing("503 Slow Down"), StoreError::Unavailable { .. }));
        assert!(matches!(listing("501 Not Implemented"), StoreError::Rejected { .. }));
        let quoted = listing("502 Bad Gateway: Server returned non-2xx status code: 403 Forbidden");
        assert!(matches!(quoted, StoreError::Unavailable { .. }));
    }
}
