"""`mossvl train` and `mossvl merge`: fine-tuning from files."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from mossvl.checkpoints.default import tell_default
from mossvl.cli.checkpoint import check_checkpoint, prepare, read
from mossvl.cli.extras import need
from mossvl.cli.flags import Flag, Flags
from mossvl.cli.options import Checkpoint, MediaDir, MediaFlags, NewFolder, WeightFlags
from mossvl.cli.places import CHECKPOINT, FOLDER, OUTPUT, RECORDS, TRAINED
from mossvl.errors import DataError, OptionError
from mossvl.options import MediaOptions
from mossvl.ranks import first_process, leave_process_group
from mossvl.training.options import Part, TrainOptions


class TrainFlags(Flags):
    """Flags of `TrainOptions`."""

    options, panel = TrainOptions, "Training"
    flags = {
        "eval_data": Flag(
            "Records to evaluate with: a file, or a folder of such files. Default: none.", checked=RECORDS
        ),
        "parts": Flag(
            "Part of the model to train; repeatable. Default: merger, cross-attention and self-attention.",
            ("--part",),
            list[Part],
        ),
        "rank": Flag("Rank of the adapters (LoRA)."),
        "alpha": Flag("Scale of the adapters: alpha / rank."),
        "dropout": Flag("Dropout of the adapters' inputs, from 0 to below 1."),
        "epochs": Flag("Number of passes over the data."),
        "max_steps": Flag("Number of optimizer steps, in place of --epochs; 0: as many as the epochs have."),
        "batch": Flag("Examples of a batch, packed into one sequence, on each GPU."),
        "accumulate": Flag("Batches of an optimizer step, on each GPU (gradient accumulation)."),
        "learning_rate": Flag("Peak learning rate."),
        "warmup": Flag("Fraction of steps in which the learning rate rises to its peak."),
        "weight_decay": Flag("Weight decay of AdamW."),
        "max_length": Flag("Maximum number of tokens of an example; longer ones are truncated. Default: none."),
        "bad": Flag("Skip bad records, or stop at the first. Default: skip."),
        "state_loss": Flag(
            "Weights of decisions to be silent or to speak, in live records: focal (rare and unsure decisions weigh "
            "more), or plain."
        ),
        "focal_gamma": Flag("With focal weights: how little decisions weigh that the model is sure of; 0: all alike."),
        "leading_slot_dropout": Flag("Fraction of the turns of live records that begin with a frame, not a decision."),
        "turn_end_loss": Flag("Learn the end of turns of live records, too.", ("--turn-end-loss",)),
        "gradient_checkpointing": Flag(
            "Compute layers again in the backward pass: less memory, a third more arithmetic.",
            ("--gradient-checkpointing",),
        ),
        "vision_chunk": Flag("Frames encoded at a time; affects memory. Default: all frames of a batch."),
        "compile": Flag("Compile layers on a GPU, which takes half a minute in the first run.", ("--compile",)),
        "save_every": Flag("Steps between checkpoints."),
        "eval_every": Flag("Steps between evaluations."),
        "log_every": Flag("Steps between log lines."),
        "keep": Flag("Number of checkpoints to keep, the newest."),
        "workers": Flag("Worker processes that read and decode; 0: none."),
        "seed": Flag("Random seed of shuffling and of new weights."),
        "resume": Flag("Continue from the last checkpoint in the output folder.", ("--resume",)),
        **{name: WeightFlags.flags[name] for name in ("device", "dtype", "quantization")},
    }


OF_ADAPTERS = ("rank", "alpha", "dropout")


def train(
    *,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="File of records, or folder of such files."), RECORDS],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for checkpoints, logs and the result; required without --check.",
        ),
        OUTPUT,
    ] = None,
    checkpoint: Checkpoint = None,
    check: Annotated[bool, typer.Option("--check", help="Preflight: read and report all data, train nothing.")] = False,
    media_dir: MediaDir = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", hidden=True), FOLDER] = None,
    full: Annotated[bool, typer.Option("--full", help="Train weights in place of adapters (LoRA).")] = False,
    training: TrainFlags,
    media: MediaFlags,
) -> None:
    """Fine-tune on conversations about images and videos; docs/training.md describes the records.

    The result is the adapter FOLDER/adapter, for `mossvl merge`; with --full, the checkpoint FOLDER/model.
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
        media=MediaOptions.from_dict(media),
        **training,
    )
    if check:
        tell_default(checkpoint)
        _check(options)
        return
    with saying_how_to_resume(options.folder):
        prepare()
        from mossvl.training.run import train as run

        tell_default(checkpoint)
        result = run(options)
        leave_process_group()
    if first_process():
        print(result)
        print(f"mossvl: {_use(options, result)}", file=sys.stderr)


def _use(options: TrainOptions, result: Path) -> str:
    """Say how to ask with the result; an adapter that has whole weights of its own must be merged before."""
    if not options.adapt:
        return f"mossvl ask -c {result} … answers with it"
    merged = f"mossvl merge {result} -o FOLDER writes a checkpoint"
    if {Part.EMBEDDINGS, Part.LM_HEAD} & set(options.parts):
        return f"{merged}, and mossvl ask -c FOLDER … answers with it"
    return f"mossvl ask --lora {result} … answers with it; {merged}"


def _check(options: TrainOptions) -> None:
    """Read all records, and print statistics, bad records and samples.

    Raises:
        DataError: all records of a file are bad.
        typer.Exit: some records are bad.
    """
    prepare()
    from mossvl.processing.processor import MossVLProcessor
    from mossvl.training.check import SHOWN, Statistics, rendered
    from mossvl.training.run import examples_of

    processor = read(MossVLProcessor, options.checkpoint)
    total_bad = 0
    for path in (options.data, options.eval_data):
        if path is None:
            continue
        examples = examples_of(options, path, processor)
        found = Statistics.gather(examples, options.workers)
        bad = sum(found.bad.values())
        print(f"{path}: {found.records} records, {bad} of them bad, {found.cut} cut")
        for file, forms in islice(found.forms.items(), SHOWN):
            counts = " and ".join(f"{form} ({count})" for form, count in forms.items())
            print(f"  form of {Path(file).name}: {counts if len(forms) > 1 else ''.join(forms)}")
        if len(found.forms) > SHOWN:
            print(f"  and {len(found.forms) - SHOWN} other files")
        for reason, count in found.bad.items():
            print(f"  {count} × {reason}")
        for line in found.bad_lines:
            print(f"  {line}")
        lengths = found.tokens
        print(f"  tokens: {lengths.least} to {lengths.most}, median {lengths.median}, {lengths.total} in all")
        print(f"  tokens with loss: {found.learned} (between ⟦ and ⟧ below)")
        print(f"  media: {found.images} images, {found.videos} videos or parts of them with {found.frames} frames")
        if found.streams:
            print(
                f"  live: {found.streams} streams with {found.stream_frames} frames, and {found.silences} silences and "
                f"{found.responses} responses with loss"
            )
        print(f"  vision tokens: {found.vision_tokens}")
        if found.unread:
            print(
                f"  not read: {', '.join(f'{name} ({number})' for name, number in islice(found.unread.items(), SHOWN))}"
            )
        if bad == found.records:
            raise DataError(f"{path}: every record is bad; see the lines above")
        total_bad += bad
        for place in found.samples:
            print(f"\n{rendered(processor, examples.encode(examples.index.read(place)))}")
    if total_bad:
        raise typer.Exit(1)


@contextmanager
def saying_how_to_resume(output: Path) -> Iterator[None]:
    """Add to the message of an interrupted run how to resume it."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        from mossvl.training.trainer import last_checkpoint

        if last_checkpoint(output) is not None:
            stopped.add_note("the same command with --resume goes on from the last checkpoint")
        raise


def merge(
    *,
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="Adapter folder that `mossvl train` wrote."), TRAINED
    ],
    output: NewFolder,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            "-c",
            metavar="FOLDER",
            help="Checkpoint that the adapter was trained for. Default: the one that the adapter names.",
        ),
        CHECKPOINT,
    ] = None,
    dtype: Annotated[str, typer.Option(help="Dtype of the written weights.")] = "bfloat16",
) -> None:
    """Merge an adapter into the weights of its checkpoint."""
    need("train")
    prepare()
    from mossvl.training.merge import merge as merged

    merged(adapter, output, checkpoint, dtype)
    print(output)
