"""What waits for readers of a session, and what is kept of what they have read, stays small."""

import pytest

from mossvl.live.events import Text
from mossvl.live.outbox import Outbox
from mossvl.live.segments import StreamTokens


@pytest.fixture
def tokens(processor):
    return StreamTokens(processor)


def test_text_that_was_read_is_not_kept(tokens):
    outbox = Outbox(tokens)
    read = ""
    for _ in range(100):
        for token in tokens.ids("yes it is "):
            outbox.text(None, token)
        read += "".join(one.text for one in outbox.take() if isinstance(one, Text))
    assert read == "yes it is " * 100
    assert max(len(one) for one in vars(outbox._stream).values() if isinstance(one, str | list)) < 20
