//! ApiVersions: what is served, in which versions, and the cluster's features.

use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use super::wire::text;
use super::{Context, Handle};
use crate::protocol::{Api, ErrorCode};

impl Handle for ApiVersionsRequest {
    async fn handle(self, context: &Context) -> ApiVersionsResponse {
        let response = ApiVersionsResponse::default().with_api_keys(Api::ALL.iter().map(advertised).collect());
        if context.version() >= 3 && !(is_name(&self.client_software_name) && is_name(&self.client_software_version)) {
            return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
        }
        let image = context.broker.image();
        let levels: Vec<_> = image.feature_levels().collect();
        let supported = levels.iter().map(|(name, level)| {
            SupportedFeatureKey::default().with_name(text(name)).with_min_version(*level).with_max_version(*level)
        });
        let finalized = levels.iter().map(|(name, level)| {
            FinalizedFeatureKey::default()
                .with_name(text(name))
                .with_min_version_level(*level)
                .with_max_version_level(*level)
        });
        response
            .with_supported_features(supported.collect())
            .with_finalized_features(finalized.collect())
            .with_finalized_features_epoch(i64::try_from(image.version()).unwrap_or(i64::MAX))
    }
}

fn advertised(api: &Api) -> ApiVersion {
    let versions = api.advertised_versions();
    ApiVersion::default().with_api_key(api.key()).with_min_version(*versions.start()).with_max_version(*versions.end())
}

/// What Kafka accepts as a client's name and version: `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?` (KIP-511).
fn is_name(name: &str) -> bool {
    let outer = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(outer)
        && bytes.last().is_some_and(outer)
        && bytes.iter().all(|byte| outer(byte) || matches!(byte, b'-' | b'.'))
}
