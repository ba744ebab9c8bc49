"""The object store: blobs by digest, manifests, packs. One adapter, boto3, is the only importer of that SDK."""
