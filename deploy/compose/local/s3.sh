#!/bin/sh
# Takes the arguments that compose.yaml gives versitygw. localbucket checks no signatures: for trials without a registry.
exec python -m localbucket /data --host 0.0.0.0 --port 7070
