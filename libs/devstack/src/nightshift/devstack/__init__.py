"""The local stack on one machine: embedded PostgreSQL, Kafka broker and S3 server, a scripted model, and the
services.
"""
