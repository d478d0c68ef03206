"""The messages of Kafka's protocol, one class a message for all versions, by family; reach them through ``apis``."""
