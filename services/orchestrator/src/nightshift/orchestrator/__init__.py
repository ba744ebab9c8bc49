"""The Think-Act-Observe-Repeat loop."""
