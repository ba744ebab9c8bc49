"""The bus on Kafka. Only these modules import FastStream and aiokafka."""
