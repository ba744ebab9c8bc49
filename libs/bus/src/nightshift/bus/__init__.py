"""The bus: one factory for every consumer and producer, on FastStream and aiokafka."""
