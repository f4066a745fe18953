"""`mossvl report`: what benchmarks' results mean, beside published scores."""

import sys
from typing import Annotated

import typer

from mossvl.errors import DataError, OptionError


def report(
    *,
    results: Annotated[
        list[str],
        typer.Argument(metavar="RESULTS…", help="Files that lmms-eval or VLMEvalKit wrote, or folders of them."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show benchmarks' scores with their 95 % intervals, beside published ones, as a Markdown table.

    Files that cannot be read are left out and told of; the exit code is then 1.
    """
    from mossvl.evaluation.report import report as made

    if as_json and as_csv:
        raise OptionError("--json and --csv exclude each other; give one of them")
    broken: list[DataError] = []
    rows = made.report(results, broken.append)
    if broken and not rows:
        raise broken[0]
    print(made.as_json(rows) if as_json else made.as_csv(rows) if as_csv else made.as_markdown(rows))
    for error in broken:
        print(f"mossvl: left out: {error}", file=sys.stderr)
    if broken:
        raise typer.Exit(1)
