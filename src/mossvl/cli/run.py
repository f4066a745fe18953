"""`mossvl run`: answer a file of queries, here or on a Ray cluster; a run that was stopped can be resumed."""

import os
import re
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from mossvl.checkpoints.default import tell_default
from mossvl.cli.answer_tables import AnswerTables
from mossvl.cli.answers import AnswerFile, Answers
from mossvl.cli.checkpoint import check_checkpoint, name_of, open_engine
from mossvl.cli.flags import flags_of
from mossvl.cli.options import (
    Checkpoint,
    DataParallel,
    GenerationFlags,
    LimitFlags,
    Loras,
    MediaDir,
    MediaFlags,
    SystemFlags,
    WeightFlags,
)
from mossvl.data.files import other_form
from mossvl.data.questions import Lines, Question, Questions, questions_of
from mossvl.data.records import as_query
from mossvl.data.tables import table_format
from mossvl.errors import InputError, OptionError, message_of
from mossvl.media.limits import MediaLimits
from mossvl.options import GenerationOptions, MediaOptions
from mossvl.options.checks import whole
from mossvl.options.engine import EngineConfig, adapter_paths, check_apart
from mossvl.processing.system_prompt import SystemPrompt, with_system_prompt
from mossvl.progress import progress

if TYPE_CHECKING:
    from mossvl.queries.results import Result

Answer = dict[str, Any]
Given = dict[str, Any] | InputError
"""A query, or the error of a line that is not one."""
ADDRESS = re.compile(r"auto|local|ray://.*|(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")
"""What is an address of a Ray cluster after `--ray`, and no file of queries."""
LIST = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")


class RunCommand(TyperCommand):
    """The command, whose `--ray` may stand without an address."""

    def parse_args(self, ctx: Any, args: Sequence[str]) -> list[str]:
        pairs = pairwise([*args, ""])
        bare = [one == "--ray" and not ADDRESS.fullmatch(after) for one, after in pairs]
        return super().parse_args(ctx, [f"{one}=" if is_bare else one for one, is_bare in zip(args, bare, strict=True)])


def run(
    *,
    queries: Annotated[
        str,
        typer.Argument(
            metavar="QUERIES",
            help="JSON-lines file of queries or fine-tuning records; - for stdin. Also a Parquet or Arrow file, a "
            "folder of such files, or with --prompt a folder of videos.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="JSON-lines file of answers; if the name ends with .parquet, a folder of Parquet files.",
        ),
    ],
    generation: GenerationFlags,
    media: MediaFlags,
    system: SystemFlags,
    limits: LimitFlags,
    weights: WeightFlags,
    checkpoint: Checkpoint = None,
    lora: Loras = None,
    data_parallel_size: DataParallel = 1,
    media_dir: MediaDir = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask this about each video of the folder QUERIES.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Answer on a Ray cluster: that at HOST:PORT, or without an address that of RAY_ADDRESS, the one that "
            "runs on this machine, or one that is started for the run.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Maximum number of running queries, of each replica.")
    ] = EngineConfig.max_batch,
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
    if whole("data_parallel_size", data_parallel_size) > 1 and ray is not None:
        raise OptionError("--data-parallel-size is for this machine, --ray for all of a cluster; give one of the two")
    allowed, adapters = MediaLimits(**limits), adapter_paths("lora", lora or [])
    folder = check_checkpoint(checkpoint)
    check_output(queries, output)
    options = weights | {"max_batch": batch_size, "lora": adapters}
    EngineConfig(**options)
    check_apart(adapters, name_of(folder))
    models = {name_of(folder): None, **{name: name for name in adapters}}
    defaults = {"generate_kwargs": generation, "media_kwargs": media, "system": system, "models": models}
    kind = AnswerTables if output.suffix == ".parquet" else AnswerFile

    begun = time.monotonic()
    with (
        open_queries(queries, prompt, whole=ray is not None) as given,
        kind(output, resume, overwrite, retry_errors) as answers,
    ):
        total = count(given, answers)
        done = answers.answered
        if total is None or done < total or overwrite:
            asking = partial(with_query, media_dir=media_dir, defaults=defaults)
            with saying_how_to_resume(answers):
                if ray is not None:
                    answered = on_cluster(ray, given, answers, asking, checkpoint, allowed, options)
                else:
                    replicas = {"data_parallel_size": data_parallel_size}
                    answered = here(given, answers, asking, checkpoint, allowed, options | replicas)
                with closing(answered), progress(total, done) as advance:
                    for answer in answered:
                        answers.write(answer)
                        advance()
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
def open_queries(queries: str, prompt: str | None, whole: bool) -> Iterator[Questions | Lines]:
    """Open a file or folder of queries, or stdin for "-"; lines are read as they come, unless they are to be whole.

    Raises:
        InputError: the file cannot be read, or is no file of queries.
    """
    path = Path(queries)
    if queries == "-":
        if whole or prompt is not None:
            raise InputError("stdin can be read only once, and only here; write the queries to a file")
        yield Lines(sys.stdin.buffer, Path())
        return
    if path.is_dir() or prompt is not None or (path.is_file() and (whole or is_table(path))):
        from mossvl.offline.query import SessionQuery

        try:
            found = questions_of(path, SessionQuery.keys() | {"model"}, prompt)
        except OSError as error:
            raise unreadable(path, error) from error
        yield found
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(queries, "rb"))
        except OSError as error:
            raise unreadable(path, error) from error
        if file.seekable():
            wrong = other_form(file)
            if wrong is not None or LIST.match(file.peek()):
                raise InputError(f"{queries}: {wrong or 'a list; expected one object a line'}")
        yield Lines(file, path.parent)


def unreadable(path: Path, error: OSError) -> InputError:
    """Return the error of queries that cannot be read."""
    return InputError(f"{path}: cannot be read ({error.strerror}); expected a file of queries, or a folder")


def is_table(path: Path) -> bool:
    try:
        return table_format(path) is not None
    except OSError as error:
        raise unreadable(path, error) from error


def count(given: Questions | Lines, answers: Answers) -> int | None:
    """Count the queries, or return None for a pipe, which can be read only once.

    Raises:
        DataError: an answer is to another query, or to none.
    """
    if isinstance(given, Lines) and not given.again:
        return None
    if isinstance(given, Questions) and not answers.answered:
        return len(given)
    total = 0
    for question in given:
        answers.has(question)
        total += 1
    answers.check_end(total)
    return total


def unanswered(given: Questions | Lines, answers: Answers) -> Iterator[Question]:
    """Yield the questions without an answer.

    Raises:
        DataError: an answer is to another query, or to none.
    """
    total = 0
    for question in given:
        total += 1
        if not answers.has(question):
            yield question
    answers.check_end(total)


def here(
    given: Questions | Lines,
    answers: Answers,
    asking: Callable[[Question], tuple[Answer, Given]],
    checkpoint: str | None,
    allowed: MediaLimits,
    options: dict[str, Any],
) -> Generator[Answer]:
    """Yield answers by an engine of this process, or by replicas, in the order in which they are complete.

    Queries are read only as far ahead as keeps engines full.
    """
    with open_engine(checkpoint, allowed, **options) as llm:
        from mossvl.replicas.again import as_completed

        answers.begin()
        begun: dict[int, Answer] = {}

        def queries() -> Iterator[tuple[Given, None]]:
            for number, question in enumerate(unanswered(given, answers)):
                begun[number], query = asking(question)
                yield query, None

        for number, result in as_completed(llm, queries()):
            yield begun.pop(number) | outcome(result)


def on_cluster(
    address: str,
    given: Questions | Lines,
    answers: Answers,
    asking: Callable[[Question], tuple[Answer, Given]],
    checkpoint: str | None,
    allowed: MediaLimits,
    options: dict[str, Any],
) -> Generator[Answer]:
    """Yield answers by engines of a Ray cluster, in the order in which they are complete.

    Raises:
        MossVLError: Ray is not installed, there is no cluster at the address, or it cannot answer.
    """
    try:
        from mossvl.ray.run import answers_of
    except ImportError as error:
        raise OptionError(f"--ray: {error}") from error
    tell_default(checkpoint)
    assert isinstance(given, Questions)
    pending = [question.index for question in unanswered(given, answers)]
    folder, names = check_checkpoint(checkpoint), flags_of(LimitFlags)
    yield from answers_of(given, pending, asking, address, folder, allowed, options, names, answers.begin)


def with_query(question: Question, media_dir: Path | None, defaults: Mapping[str, Any]) -> tuple[Answer, Given]:
    """Return the first keys of a question's answer, and its query or error."""
    answer: Answer = {"index": question.index, "query": question.digest}
    try:
        record = question.read()
        if "id" in record:
            answer["id"] = record["id"]
        query = as_query(record, media_dir or question.folder)
    except InputError as error:
        return answer, error
    if isinstance(query.get("model"), str) and query["model"] in defaults["models"]:
        chosen = defaults["models"][query.pop("model")]
        query["lora"] = query.get("lora") or chosen
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
def saying_how_to_resume(answers: Answers) -> Iterator[None]:
    """Add to the message of an interrupted run how to resume it."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"{answers.answered} answered in {answers.path}; the same command with --resume goes on")
        raise


def conclude(answers: Answers, new: int, seconds: float) -> None:
    """Print the number of answers and the first error to stderr; exit with 1 if an answer is an error."""
    failed = f", {answers.failed} of them errors" if answers.failed else ""
    found = f"{answers.answered} answer{'' if answers.answered == 1 else 's'} in {answers.path}{failed}"
    if answers.first_error is not None:
        print(f"mossvl: the first error: {answers.first_error}", file=sys.stderr)
    print(f"mossvl: {found}; {new} new in {seconds:.1f} s", file=sys.stderr)
    if answers.failed:
        raise typer.Exit(1)
