"""`mossvl report`: what benchmarks' results mean, beside published scores."""

from typing import Annotated

import typer

from mossvl.errors import OptionError


def report(
    *,
    results: Annotated[
        list[str],
        typer.Argument(metavar="RESULTS…", help="Files that lmms-eval or VLMEvalKit wrote, or folders of them."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show benchmarks' scores with their 95 % intervals, beside published ones, as a Markdown table."""
    from mossvl.evaluation.report import report as made

    if as_json and as_csv:
        raise OptionError("--json and --csv exclude each other; give one of them")
    rows = made.report(results)
    print(made.as_json(rows) if as_json else made.as_csv(rows) if as_csv else made.as_markdown(rows))
