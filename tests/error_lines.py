"""Shared by tests of errors: an error is one short line that begins with the argument's name."""

import re

import pytest


def one_line(call, message):
    """Check that a call raises a ValueError of one short line that begins with a message."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
