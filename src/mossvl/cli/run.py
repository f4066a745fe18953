"""`mossvl run`: answer a file of queries; a run that was stopped can be resumed."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from mossvl.cli.answers import AnswerFile
from mossvl.cli.checkpoint import check_checkpoint, name_of, open_engine
from mossvl.cli.options import (
    Checkpoint,
    Device,
    Dtype,
    GenerationFlags,
    LimitFlags,
    Loras,
    MediaDir,
    MediaFlags,
    Quantization,
    SystemFlags,
    flags_of,
    with_flags,
)
from mossvl.data.files import other_form
from mossvl.data.records import Line, as_query, lines_of, parse_line
from mossvl.errors import InputError, OptionError, message_of
from mossvl.media.limits import MediaLimits
from mossvl.options import GenerationOptions, MediaOptions
from mossvl.options.engine import EngineConfig, adapter_paths
from mossvl.processing.system_prompt import SystemPrompt, with_system_prompt
from mossvl.progress import progress

if TYPE_CHECKING:
    from mossvl.llm import MossVL
    from mossvl.queries.results import Result

Answer = dict[str, Any]
Given = dict[str, Any] | InputError
"""A query, or the error of a line that is not one."""
LIST = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")


@with_flags
def run(
    *,
    queries: Annotated[
        str,
        typer.Argument(metavar="QUERIES", help="JSON-lines file of queries or fine-tuning records; - for stdin."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="JSON-lines file of answers.")],
    generation: GenerationFlags,
    media: MediaFlags,
    system: SystemFlags,
    limits: LimitFlags,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    lora: Loras = None,
    media_dir: MediaDir = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum number of running queries.")] = EngineConfig.max_batch,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the answers in the file, and answer the other queries.")
    ] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="With --resume: repeat queries whose answer is an error.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Drop the answers in the file.")] = False,
) -> None:
    """Answer a file of queries; flags are defaults for options that a query leaves out.

    The answer of a query that fails is its error, and the exit code is then 1; other queries are not affected.
    """
    if resume and overwrite:
        raise OptionError("--resume keeps the answers in the file, --overwrite drops them; give one of the two")
    if retry_errors and not resume:
        raise OptionError("--retry-errors without --resume has no effect; add --resume")
    GenerationOptions.from_dict(generation)
    MediaOptions.from_dict(media)
    SystemPrompt(**system).text(video=False)  # Check before loading.
    allowed, adapters = MediaLimits(**limits), adapter_paths("--lora", lora or [])
    folder = check_checkpoint(checkpoint)
    check_output(queries, output)

    begun = time.monotonic()
    with open_queries(queries) as file, AnswerFile(output, resume, overwrite, retry_errors) as answers:
        total = count(file, answers)
        done = answers.answered
        if total is None or done < total or overwrite:
            options = {"device": device, "dtype": dtype, "quantization": quantization, "max_batch": batch_size}
            llm = open_engine(folder, allowed, **options, lora=adapters)
            answers.begin()
            models = {name_of(folder): None, **{name: name for name in adapters}}
            defaults = {"generate_kwargs": generation, "media_kwargs": media, "system": system, "models": models}
            start = media_dir or (Path() if queries == "-" else Path(queries).parent)
            prepared = (with_query(line, start, defaults) for line in unanswered(file, answers))
            with llm, progress(total, done) as advance, saying_how_to_resume(answers):

                def finished(answer: Answer) -> None:
                    answers.write(answer)
                    advance()

                answer_all(llm, prepared, finished)
        conclude(answers, answers.answered - done, time.monotonic() - begun)


def check_output(queries: str, output: Path) -> None:
    """Refuse an output that is stdout, or the file of queries.

    Raises:
        InputError: the output is one of these.
    """
    if str(output) == "-":
        raise InputError("-o -: answers go to a file, from which --resume goes on; name one")
    if output.exists() and os.path.exists(queries) and os.path.samefile(queries, output):
        raise InputError(f"{output} is the file of queries; write the answers elsewhere")


@contextmanager
def open_queries(queries: str) -> Iterator[BinaryIO]:
    """Open a file of queries, or stdin for "-".

    Raises:
        InputError: the file cannot be read, or is not JSON lines.
    """
    if queries == "-":
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(queries, "rb"))
        except OSError as error:
            raise InputError(f"{queries}: cannot be read ({error.strerror})") from error
        if file.seekable():
            wrong = other_form(file)
            if wrong is not None or LIST.match(file.peek()):
                raise InputError(f"{queries}: {wrong or 'a list; expected one object a line'}")
        yield file


def count(file: BinaryIO, answers: AnswerFile) -> int | None:
    """Count the queries, or return None for a pipe, which can be read only once.

    Raises:
        DataError: an answer is to another query, or to none.
    """
    if not file.seekable():
        return None
    start, total = file.tell(), 0
    for line in lines_of(file):
        answers.has(line)
        total += 1
    answers.check_end(total)
    file.seek(start)
    return total


def unanswered(file: BinaryIO, answers: AnswerFile) -> Iterator[Line]:
    """Yield the lines without an answer.

    Raises:
        DataError: an answer is to another query, or to none.
    """
    line = None
    for line in lines_of(file):
        if not answers.has(line):
            yield line
    answers.check_end(0 if line is None else line.index + 1)


def answer_all(llm: "MossVL", prepared: Iterator[tuple[Answer, Given]], done: Callable[[Answer], None]) -> None:
    """Answer queries, which are read only as far ahead as keeps the engine full.

    Args:
        prepared: the first keys of each answer, and its query or error.
        done: called with each complete answer, in the order in which queries end.
    """
    begun: dict[int, Answer] = {}

    def queries() -> Iterator[tuple[Given, None]]:
        for number, (answer, given) in enumerate(prepared):
            begun[number] = answer
            yield given, None

    for number, result in llm.as_completed(queries()):
        done(begun.pop(number) | outcome(result))


def with_query(line: Line, media_dir: Path, defaults: Mapping[str, Any]) -> tuple[Answer, Given]:
    """Return the first keys of a line's answer, and its query or error."""
    answer: Answer = {"index": line.index, "query": line.digest}
    try:
        record = parse_line(line)
        if "id" in record:
            answer["id"] = record["id"]
        query = as_query(record, media_dir)
    except InputError as error:
        return answer, error
    if isinstance(query.get("model"), str) and query["model"] in defaults["models"]:
        chosen = defaults["models"][query.pop("model")]
        query.setdefault("lora", chosen)
    for name in ("generate_kwargs", "media_kwargs"):
        own = query.get(name)
        if own is None or isinstance(own, dict):
            query[name] = defaults[name] | {key: value for key, value in (own or {}).items() if value is not None}
    return answer, with_system_prompt(query, defaults["system"])


def outcome(result: "Result") -> Answer:
    """Return the keys of an answer that the result gives."""
    told = {
        "text": result.text,
        "finish": result.finish_reason,
        "prompt_tokens": result.usage.prompt_tokens,
        "new_tokens": result.usage.new_tokens,
    }
    return told if result.error is None else told | {"error": message_of(result.error, flags_of(LimitFlags))}


@contextmanager
def saying_how_to_resume(answers: AnswerFile) -> Iterator[None]:
    """Add to the message of an interrupted run how to resume it."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"{answers.answered} answered in {answers.path}; the same command with --resume goes on")
        raise


def conclude(answers: AnswerFile, new: int, seconds: float) -> None:
    """Print the number of answers and the first error to stderr; exit with 1 if an answer is an error."""
    failed = f", {answers.failed} of them errors" if answers.failed else ""
    found = f"{answers.answered} answers in {answers.path}{failed}"
    if answers.first_error is not None:
        print(f"mossvl: the first error: {answers.first_error}", file=sys.stderr)
    print(f"mossvl: {found}; {new} new in {seconds:.1f} s", file=sys.stderr)
    if answers.failed:
        raise typer.Exit(1)
