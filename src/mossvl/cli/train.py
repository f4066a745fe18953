"""`mossvl train` and `mossvl merge`: fine-tuning from files."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from mossvl.cli.checkpoint import check_checkpoint, prepare, read
from mossvl.cli.extras import need
from mossvl.cli.options import Checkpoint, Device, Dtype, Flag, Flags, MediaDir, MediaFlags, with_flags
from mossvl.errors import DataError, OptionError
from mossvl.options import MediaOptions
from mossvl.processes import first_process, leave_process_group
from mossvl.training.options import Part, TrainOptions


class TrainFlags(Flags):
    """Those of `TrainOptions` that were given."""

    options, panel = TrainOptions, "Training"
    flags = {
        "eval_data": Flag("Records to evaluate with: a file, or a folder of such files."),
        "parts": Flag(
            "What is trained, once for each part; merger and both kinds of layers if none is given.",
            ("--part",),
            list[Part],
        ),
        "rank": Flag("Rank of adapters."),
        "alpha": Flag("Adapters are scaled by alpha / rank."),
        "dropout": Flag("Part of adapters' inputs that is dropped at random."),
        "epochs": Flag("Passes over the data."),
        "max_steps": Flag("Steps at most; 0 for as many as the epochs have."),
        "batch": Flag("Examples packed into one row."),
        "accumulate": Flag("Batches of a step, on each GPU."),
        "learning_rate": Flag("Highest learning rate."),
        "warmup": Flag("Part of the steps in which it rises to that."),
        "weight_decay": Flag("AdamW's."),
        "max_length": Flag("Tokens of an example; longer ones are cut."),
        "bad": Flag("Records that cannot be used: skip them, or stop at the first. Default: skip."),
        "gradient_checkpointing": Flag("Less memory, a third more arithmetic.", ("--gradient-checkpointing",)),
        "vision_chunk": Flag("Frames encoded at a time."),
        "compile": Flag("On a GPU: have layers compiled, which takes a minute or two.", ("--compile",)),
        "save_every": Flag("Steps between checkpoints."),
        "eval_every": Flag("Steps between evaluations."),
        "log_every": Flag("Steps between lines of the log."),
        "keep": Flag("Checkpoints that are kept."),
        "workers": Flag("Processes that read and decode; 0 for none."),
        "seed": Flag("Of shuffling and of new weights."),
        "resume": Flag("Go on from the last checkpoint in the folder.", ("--resume",)),
    }


OF_ADAPTERS = ("rank", "alpha", "dropout")


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
    media_dir: MediaDir = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", hidden=True)] = None,
    full: Annotated[bool, typer.Option("--full", help="Train the weights themselves, not adapters (LoRA).")] = False,
    device: Device = None,
    dtype: Dtype = None,
    training: TrainFlags,
    media: MediaFlags,
) -> None:
    """Fine-tune on conversations about images and videos. docs/training.md describes the records.

    The result is FOLDER/adapter, for `mossvl merge`; with --full it is the checkpoint FOLDER/model.
    """
    defaults = {name: getattr(TrainOptions, name) for name in OF_ADAPTERS}
    idle = [f"--{name}" for name, default in defaults.items() if training.get(name, default) != default]
    if full and idle:
        raise OptionError(f"{', '.join(idle)} would change nothing with --full, which trains no adapters")
    if media_dir and data_dir:
        raise OptionError("--data-dir is the older name of --media-dir; give one of the two")
    need("train")
    folder = check_checkpoint(checkpoint)
    options = TrainOptions(
        checkpoint=str(Path(folder).resolve()) if Path(folder).is_dir() else folder,
        data=data,
        output=output,
        media_dir=media_dir or data_dir,
        adapt=not full,
        device=device,
        dtype=dtype,
        media=MediaOptions.from_dict(media),
        **training,
    )
    if check:
        _check(options)
        return
    with saying_how_to_resume(options.folder):
        prepare()
        from mossvl.training.run import train as run

        result = run(options)
        leave_process_group()
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
