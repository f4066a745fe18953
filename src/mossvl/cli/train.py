"""`mossvl train` and `mossvl merge`: fine-tuning from files."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from mossvl.cli.checkpoint import check_checkpoint, prepare, read
from mossvl.cli.extras import need
from mossvl.cli.options import Checkpoint, Device, Dtype, MediaFlags, with_flags
from mossvl.errors import DataError, OptionError
from mossvl.options import MediaOptions
from mossvl.processes import first_process
from mossvl.training.options import INNER, Part, TrainOptions


class Bad(StrEnum):
    """What becomes of records that cannot be used."""

    SKIP = "skip"
    STOP = "stop"


@with_flags
def train(
    *,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A file of records, or a folder of such files.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where everything goes; not needed with --check."),
    ] = None,
    checkpoint: Checkpoint = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read all records, say what is in them, and train nothing.")
    ] = False,
    eval_data: Annotated[Path | None, typer.Option(metavar="DATA", help="Records to evaluate with.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where paths of media start; by default beside the data.", show_default=False)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train the weights themselves, not adapters (LoRA).")] = False,
    part: Annotated[
        list[Part] | None,
        typer.Option(help="What is trained, once for each part; merger and both kinds of layers if none is given."),
    ] = None,
    rank: Annotated[int, typer.Option(help="Rank of adapters.")] = TrainOptions.rank,
    alpha: Annotated[int, typer.Option(help="Adapters are scaled by alpha / rank.")] = TrainOptions.alpha,
    dropout: Annotated[
        float, typer.Option(help="Part of adapters' inputs that is dropped at random.")
    ] = TrainOptions.dropout,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = TrainOptions.epochs,
    max_steps: Annotated[
        int, typer.Option(help="Steps at most; 0 for as many as the epochs have.")
    ] = TrainOptions.max_steps,
    batch: Annotated[int, typer.Option(help="Examples packed into one row.")] = TrainOptions.batch,
    accumulate: Annotated[int, typer.Option(help="Batches of a step, on each GPU.")] = TrainOptions.accumulate,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = TrainOptions.learning_rate,
    warmup: Annotated[float, typer.Option(help="Part of the steps in which it rises to that.")] = TrainOptions.warmup,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = TrainOptions.weight_decay,
    max_length: Annotated[int | None, typer.Option(help="Tokens of an example; longer ones are cut.")] = None,
    bad: Annotated[Bad, typer.Option(help="Records that cannot be used: skip them, or stop at the first.")] = Bad.SKIP,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, a third more arithmetic.")
    ] = False,
    vision_chunk: Annotated[int | None, typer.Option(help="Frames encoded at a time.")] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="On a GPU: have layers compiled, which takes a minute or two."),
    ] = False,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = TrainOptions.save_every,
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations.")] = TrainOptions.eval_every,
    log_every: Annotated[int, typer.Option(help="Steps between lines of the log.")] = TrainOptions.log_every,
    keep: Annotated[int, typer.Option(help="Checkpoints that are kept.")] = TrainOptions.keep,
    workers: Annotated[int, typer.Option(help="Processes that read and decode; 0 for none.")] = TrainOptions.workers,
    seed: Annotated[int, typer.Option(help="Of shuffling and of new weights.")] = TrainOptions.seed,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    media: MediaFlags,
) -> None:
    """Fine-tune on conversations about images and videos. docs/training.md describes the records.

    The result is FOLDER/adapter, for `mossvl merge`; with --full it is the checkpoint FOLDER/model.
    """
    of_adapters = {"--rank": rank, "--alpha": alpha, "--dropout": dropout}
    idle = [name for name, value in of_adapters.items() if value != getattr(TrainOptions, name[2:])]
    if full and idle:
        raise OptionError(f"{', '.join(idle)} would change nothing with --full, which trains no adapters")
    need("train")
    folder = check_checkpoint(checkpoint)
    options = TrainOptions(
        checkpoint=str(Path(folder).resolve()) if Path(folder).is_dir() else folder,
        data=data,
        output=output,
        eval_data=eval_data,
        media_dir=data_dir,
        adapt=not full,
        parts=list(dict.fromkeys(part)) if part else INNER,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        epochs=epochs,
        max_steps=max_steps,
        batch=batch,
        accumulate=accumulate,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        max_length=max_length,
        bad="stop" if bad is Bad.STOP else "skip",
        gradient_checkpointing=gradient_checkpointing,
        vision_chunk=vision_chunk,
        compile=compiled,
        device=device,
        dtype=dtype,
        save_every=save_every,
        eval_every=eval_every,
        log_every=log_every,
        keep=keep,
        workers=workers,
        seed=seed,
        resume=resume,
        media=MediaOptions.from_dict(media),
    )
    if check:
        _check(options)
        return
    with saying_how_to_resume(options.folder):
        prepare()
        from mossvl.training.run import train as run

        result = run(options)
    if first_process():
        print(result)


def _check(options: TrainOptions) -> None:
    """Read everything, and say what is in it.

    Raises:
        DataError: no record can be used.
        typer.Exit: some cannot.
    """
    prepare()
    from mossvl.processing.processor import MossVLProcessor
    from mossvl.training.check import SHOWN, Statistics, rendered
    from mossvl.training.run import examples_of

    processor = read(MossVLProcessor, options.checkpoint)
    bad_ones = 0
    for path in (options.data, options.eval_data):
        if path is None:
            continue
        examples = examples_of(options, path, processor)
        found = Statistics.gather(examples, options.workers)
        bad = sum(found.bad.values())
        print(f"{path}: {found.records} records, {bad} of them bad, {found.cut} cut")
        for reason, count in found.bad.items():
            print(f"  {count} × {reason}")
        for line in found.bad_lines:
            print(f"  {line}")
        lengths = found.tokens
        print(f"  tokens: {lengths.least} to {lengths.most}, median {lengths.median}, {lengths.total} in all")
        print(f"  learned: {found.learned} tokens (between ⟦ and ⟧ below)")
        print(f"  media: {found.images} images, {found.videos} videos or parts of them with {found.frames} frames")
        print(f"  vision tokens: {found.vision_tokens}")
        if found.unread:
            print(
                f"  not read: {', '.join(f'{name} ({number})' for name, number in islice(found.unread.items(), SHOWN))}"
            )
        if bad == found.records:
            raise DataError(f"{path}: every record is bad; see the lines above")
        bad_ones += bad
        for place in found.samples:
            print(f"\n{rendered(processor, examples.encode(examples.index.read(place)))}")
    if bad_ones:
        raise typer.Exit(1)


@contextmanager
def saying_how_to_resume(output: Path) -> Iterator[None]:
    """Tell who stops a run how it goes on."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        from mossvl.training.trainer import last_checkpoint

        if last_checkpoint(output) is not None:
            stopped.add_note("the same command with --resume goes on from the last checkpoint")
        raise


def merge(
    *,
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="A folder that `mossvl train` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new folder, for a checkpoint.")],
    checkpoint: Checkpoint = None,
    dtype: Annotated[str, typer.Option(help="Of the weights that are written.")] = "bfloat16",
) -> None:
    """Write a checkpoint with an adapter's changes in its weights."""
    need("train")
    prepare()
    from mossvl.training.merge import merge as merged

    merged(adapter, output, checkpoint, dtype)
    print(output)
