"""What a session keeps of its stream becomes messages, in time that grows with the stream and not faster."""

from mossvl.live import kept
from mossvl.live.segments import Asked, Segment, StreamTokens

SILENCE = "<|silence|>"


class Counting:
    """A pattern that counts the characters that it looks at."""

    def __init__(self, pattern):
        self.pattern, self.characters = pattern, 0

    def sub(self, new, text):
        self.characters += len(text)
        return self.pattern.sub(new, text)


def test_a_long_reply_is_looked_through_once(processor, monkeypatch):
    tokens = StreamTokens(processor)
    looked = Counting(kept.SILENCES)
    monkeypatch.setattr(kept, "SILENCES", looked)
    stream = kept.Kept(tokens, [{"role": "user", "content": "Go."}])
    said = [*tokens.ids("yes "), tokens.silence, tokens.silence]
    for number in range(200):
        prompts = [Asked("What?", tokens.prompt("What?"))] if number == 100 else []
        stream.append(prompts, Segment([], [], [True] * len(prompts)), [])
        for token in said:
            stream.drawn(token)
    messages = stream.prefill(10_000)
    assert [one["content"] for one in messages] == [
        "Go.",
        f"yes {SILENCE}" * 100,
        "What?",
        SILENCE + f"yes {SILENCE}" * 100,
    ]
    assert looked.characters < 250 * len(f"yes {SILENCE * 2}")
