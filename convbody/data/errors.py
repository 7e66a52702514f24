"""The error of data that cannot be used."""

from __future__ import annotations

from registry import ConvbodyError


class DataError(ConvbodyError):
    """A data set, an annotation or an image that cannot be used; the message names the file."""
