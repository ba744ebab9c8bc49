"""The fixture of spans for these tests."""

from tests.support.exported_spans import exported

__all__ = ["exported"]
