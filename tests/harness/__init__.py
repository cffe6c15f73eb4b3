"""What the outer suites share: a codec of the Kafka protocol, brokers to start and stop, and real data."""
