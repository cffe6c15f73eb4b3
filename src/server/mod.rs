//! The Kafka listener: connections, one handler per API, errors mapped to Kafka codes.
