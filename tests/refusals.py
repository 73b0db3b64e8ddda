"""What a refusal looks like, wherever it is made."""

import pytest

from kdlib.config import KdlibError
from kdlib.reading.sentences import printable


def refused(call, *arguments, **options):
    """The sentence of a KdlibError: one line, one full stop at its end."""
    with pytest.raises(KdlibError) as error:
        call(*arguments, **options)
    said = str(error.value)
    assert "\n" not in said and said.endswith(".") and said == printable(said, None)
    return said
