"""Every answer of alluvium beside that of Apache Kafka."""
