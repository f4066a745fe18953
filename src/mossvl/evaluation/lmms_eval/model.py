"""The model classes of the plug-in: all requests of a rank go to the engine together, and come back in order."""

import atexit
import gc
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger

from mossvl.errors import GenerationTimeout, InputError, ResourceError, message_of
from mossvl.evaluation.lmms_eval.arguments import Arguments
from mossvl.evaluation.lmms_eval.outputs import answer_output, loss_output
from mossvl.evaluation.lmms_eval.requests import messages_of, params_of, question_of
from mossvl.evaluation.lmms_eval.rounds import Asked, ChatRounds, Rounds, SimpleRounds
from mossvl.evaluation.scoring import SCORING, continued
from mossvl.llm import MossVL
from mossvl.options import SamplingParams
from mossvl.processing.messages import Message
from mossvl.processing.system_prompt import with_system_prompt
from mossvl.progress import progress
from mossvl.queries.query import QueryLike
from mossvl.queries.results import Result
from mossvl.ranks import leave_process_group, num_processes

T = TypeVar("T")
LOGGED_FAILURES = 3
"""Failures of a run that are logged as they happen, the others by their number."""
ONE_REQUEST = (InputError, GenerationTimeout, ResourceError)
"""Errors of a request, which leave the others as they are."""


class BaseMossVL(lmms):
    """MOSS-VL on its engine.

    Args:
        given: the model's arguments; see `Arguments`.

    Raises:
        MossVLError: an argument cannot be used, or the checkpoint cannot be loaded.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__()
        rank = os.environ.get("LOCAL_RANK", "0")
        several = num_processes() > 1 and torch.cuda.is_available()
        if given.get("system_prompt") is not None:
            given["system_prompt"] = self._resolve_system_prompt(str(given["system_prompt"]))
        self.arguments = Arguments.of(given, f"cuda:{rank}" if several else None)
        self._rank, self._world_size = int(os.environ.get("RANK") or 0), num_processes()
        self.llm = MossVL(self.arguments.checkpoint, config=self.arguments.engine)
        self.llm.processor.limits = self.arguments.limits
        self._idle: set[str] = set()
        if num_processes() > 1:
            atexit.register(leave_process_group)  # lmms-eval leaves it to the end of Python.

    @property
    def device(self) -> torch.device:
        """Where tensors that ranks exchange belong."""
        accelerator = getattr(self, "accelerator", None)
        return torch.device("cpu") if accelerator is None else accelerator.device

    def clean(self) -> None:
        """End the engine and free the model's memory, for a judge that is to be loaded."""
        self.llm.close()
        del self.llm
        gc.collect()
        super().clean()

    # --- the interface of lmms-eval ------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers, in order. A request that cannot be answered has an empty one, unless `strict` was given."""
        results = self._answers(requests, lambda one: None if padding(one) else self._asked(one))
        for one, result in zip(requests, results, strict=True):
            if result is not None:  # The interface asks for the call; lmms-eval 0.7.3's own hook does nothing.
                self.cache_hook.add_partial("generate_until", (one.args[0], _generation(one)), result.text)
        return [answer_output(result) for result in results]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        """The answers of each conversation; the first rounds of all of them are asked together, then the second."""
        conversations = [None if padding(one) else self._rounds(one) for one in requests]
        running = [one for one in conversations if one is not None]
        while running:
            results = self._answers(running, self._asked_next)
            going = [(one, result) for one, result in zip(running, results, strict=True) if not one.ended]
            for one, result in going:
                one.answers.append("" if result is None else result.text)
            running = [one for one, _ in going]
        return [[] if one is None else one.answers for one in conversations]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The loss of each continuation, and whether it is the greedy answer; see `loss_output`."""
        results = self._answers(requests, lambda one: None if padding(one) else self._continued(one))
        return [loss_output(result) for result in results]

    # --- the engine ----------------------------------------------------------------------------------------------

    @abstractmethod
    def _asked(self, request: Instance) -> Asked:
        """Return the query of a request."""

    @abstractmethod
    def _rounds(self, request: Instance) -> Rounds:
        """Return the conversation of a request."""

    def _asked_next(self, rounds: Rounds) -> Asked | None:
        messages = rounds.next_messages()
        return None if messages is None else self._query(messages, self._params(rounds.generation))

    def _document(self, task: str, split: str, number: int) -> Mapping[str, Any]:
        return self.task_dict[task][split][number]

    def _query(self, messages: Sequence[Message], params: SamplingParams) -> Asked:
        query = {"messages": list(messages), "media_kwargs": self.arguments.media}
        return with_system_prompt(query, self.arguments.system), params

    def _continued(self, request: Instance) -> Asked:
        """A question with the continuation to score. Its first blank is left out, as it follows on the template's
        line break. Where a task compares with the likelihood of the continuation alone, nothing is asked."""
        text, continuation, *rest = request.args
        visuals = None
        if rest:
            to_visual, number, task, split = rest
            document = self._document(task, split, number)
            visuals = to_visual(document)
            continuation = continuation(document) if callable(continuation) else continuation
        query, _ = self._query(question_of(visuals, text, self.arguments.clip_times), SCORING)
        return continued(self.llm, query, str(continuation).removeprefix(" ")), SCORING

    def _params(self, given: Mapping[str, Any]) -> SamplingParams:
        params, idle = params_of(given, self.arguments.sampling)
        for name in sorted(set(idle) - self._idle):
            logger.warning(f"{name}={given[name]!r} of the task has no effect: MOSS-VL's engine does not know it")
        self._idle.update(idle)
        return params

    def _answers(self, given: Sequence[T], ask: Callable[[T], Asked | None]) -> list[Result | None]:
        """Results of what `ask` makes of each one, in order; None where it makes None of it, or it failed.

        Documents are read, and their media prepared, no further ahead than keeps the engine full.
        """
        begun = time.monotonic()
        numbers: list[int] = []
        results: list[Result | None] = [None] * len(given)

        def queries() -> Iterator[tuple[QueryLike, SamplingParams | None]]:
            for number, one in enumerate(given):
                query: tuple[QueryLike, SamplingParams | None] | None
                try:
                    query = ask(one)
                except InputError as error:  # Of this request alone: its result has it.
                    query = error, None
                if query is None:
                    advance()
                else:
                    numbers.append(number)
                    yield query

        failures = 0
        with progress(len(given), 0, self.rank == 0) as advance:
            for place, result in self.llm.as_completed(queries()):
                if result.error is None:
                    results[numbers[place]] = result
                else:
                    failures += 1
                    self._failed(result.error, failures)
                advance()
        if numbers:
            seconds = time.monotonic() - begun
            self._log_metrics([one for one in results if one is not None], len(numbers), failures, seconds)
        return results

    def _failed(self, error: Exception, failures: int) -> None:
        """Raise an error that ends the run; log the first of the others."""
        if self.arguments.strict or not isinstance(error, ONE_REQUEST):
            raise error
        if failures <= LOGGED_FAILURES:
            logger.warning(f"a request has an empty answer: {message_of(error)}")

    def _log_metrics(self, results: Sequence[Result], asked: int, failures: int, seconds: float) -> None:
        new = sum(one.usage.new_tokens for one in results)
        further = {
            "rank": self.rank,
            "total_requests": asked,
            "failed_requests": failures,
            "prompt_tokens": sum(one.usage.prompt_tokens for one in results),
            "vision_tokens": sum(one.usage.vision_tokens for one in results),
        }
        log_metrics(
            total_elapsed_time=seconds,
            total_gen_tokens=new,
            avg_speed=new / seconds if seconds else 0.0,
            additional_metrics=further,
        )
        if failures:
            logger.error(f"{failures} of {asked} requests could not be answered; their answers are empty")


class ChatMossVL(BaseMossVL):
    """For tasks as messages: parts stand where the task puts them."""

    is_simple: ClassVar[bool] = False

    def _asked(self, request: Instance) -> Asked:
        _, to_messages, generation, number, task, split = request.args
        messages = to_messages(self._document(task, split, number))
        return self._query(messages_of(messages, self.arguments.clip_times), self._params(generation or {}))

    def _rounds(self, request: Instance) -> Rounds:
        _, to_messages, generation, number, task, split = request.args
        document = partial(self._document, task, split, number)
        return ChatRounds(document, to_messages, generation or {}, self.arguments.clip_times)


class SimpleMossVL(BaseMossVL):
    """For tasks as a text and visuals, which come first (`--force_simple`)."""

    is_simple: ClassVar[bool] = True

    def _asked(self, request: Instance) -> Asked:
        text, generation, to_visual, number, task, split = request.args
        visuals = to_visual(self._document(task, split, number))
        return self._query(question_of(visuals, text, self.arguments.clip_times), self._params(generation or {}))

    def _rounds(self, request: Instance) -> Rounds:
        text, generation, to_visual, to_text, number, task, split = request.args
        document, times = partial(self._document, task, split, number), self.arguments.clip_times
        return SimpleRounds(document, to_text, to_visual, text, generation or {}, times)


def padding(request: Instance) -> bool:
    """Whether it is a copy whose answer nobody reads, there so that all ranks have as many requests."""
    return bool((request.metadata or {}).get("__padding_only__"))


def _generation(request: Instance) -> Mapping[str, Any]:
    return next((one for one in request.args if isinstance(one, dict)), {})
