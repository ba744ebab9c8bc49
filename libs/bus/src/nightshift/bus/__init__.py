"""The message bus: consumers and producers of events on Kafka (FastStream and aiokafka), and a bus in memory for
tests.
"""
