"""The bus on Kafka. Only the modules here import FastStream and aiokafka."""
