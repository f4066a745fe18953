"""Inputs of the video protocol: their order, and how many may wait for the model."""

from collections import deque
from dataclasses import dataclass

from mossvl.server.realtime.protocol import asked, invalid
from mossvl.server.schemas.realtime import InputFrame, InputPrompt


@dataclass
class Input:
    """An input that was accepted, or waits to be.

    Attributes:
        turned: the turn that its prompt has interrupted, and the turn that it has begun; None before.
    """

    message: InputFrame | InputPrompt
    turned: tuple[int, int] | None = None

    @property
    def seq_no(self) -> int:
        return self.message.seq_no

    @property
    def asks(self) -> bool:
        """Whether it has a prompt."""
        return asked(self.message.prompt) is not None

    @property
    def is_frame(self) -> bool:
        return isinstance(self.message, InputFrame)


class Inputs:
    """The inputs of a session, by `seq_no`.

    Args:
        capacity: inputs that may wait for the model, with the one whose image comes next.

    Attributes:
        announced: the frame whose image comes next.
        given: the input that the session is being given.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.announced: Input | None = None
        self.given: Input | None = None
        self._waiting: Input | None = None
        """The input that there is no room for yet."""
        self._frames: deque[Input] = deque()
        self._prompts: deque[Input] = deque()
        """Those with prompts: also frames, which are in both."""
        self._expected, self._newest, self._final = 0, 0.0, False

    @property
    def pending(self) -> int:
        """Inputs that were accepted, and not processed yet."""
        return len(self._frames) + sum(not one.is_frame for one in self._prompts)

    def take(self, message: InputFrame | InputPrompt) -> Input | None:
        """Return an input that may go on now; None if it waits for room.

        Raises:
            RequestError: it is out of order.
        """
        if self._final:
            raise invalid("the final input was accepted; nothing may follow it")
        if self.announced is not None or self.given is not None or self._waiting is not None:
            raise invalid("the input before is not accepted yet; wait until it is accepted or rejected")
        if message.seq_no != self._expected:
            raise invalid(f"expected seq_no {self._expected}, received {message.seq_no}", "seq_no")
        if isinstance(message, InputPrompt):
            if asked(message.prompt) is None:
                raise invalid("prompt must not be empty", "prompt")
        elif message.timestamp < self._newest:
            raise invalid(f"timestamp {message.timestamp:g} is before the last frame's, {self._newest:g}", "timestamp")
        self._waiting = Input(message)
        return self.freed()

    def freed(self) -> Input | None:
        """Return the waiting input if there is room for it now."""
        if self.pending >= self.capacity:
            return None
        one, self._waiting = self._waiting, None
        return one

    def accept(self) -> Input:
        """The session has taken the given input; return it."""
        one, self.given = self.given, None
        assert one is not None
        self._expected, self._final = self._expected + 1, one.message.final
        if isinstance(one.message, InputFrame):
            self._newest = one.message.timestamp
            self._frames.append(one)
        if one.asks:
            self._prompts.append(one)
        return one

    def seen(self) -> Input | None:
        """The model has seen a frame; return it."""
        return self._frames.popleft() if self._frames else None

    def dropped(self, time: float) -> Input | None:
        """A frame of this time was dropped; return it."""
        one = next(
            (one for one in self._frames if isinstance(one.message, InputFrame) and one.message.timestamp == time), None
        )
        if one is not None:
            self._frames.remove(one)
        return one

    def turned(self) -> Input | None:
        """A prompt has begun a turn; return its input. None if it is the session's first, which no input has asked."""
        return self._prompts.popleft() if self._prompts else None
