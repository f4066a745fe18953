"""Tables and figures of what `ablations.py` has measured.

    cat *.json > docs/ablations.jsonl
    python benchmarks/ablation_figures.py docs/ablations.jsonl --output docs

Writes a figure for each idea, and a table to the terminal.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 130, 20, 15, 44
WHOLE, WITHOUT = "#8a8f98", "#c2410c"
Shares = dict[str, list[float]]
"""For each task, the share of right answers with each seed."""


def read(path: Path) -> dict[str, Shares]:
    """What was measured, by what was left out."""
    found: dict[str, Shares] = defaultdict(lambda: defaultdict(list))
    for line in path.read_text().splitlines():
        figures = json.loads(line)
        without = figures.pop("without")
        del figures["seed"]
        for task, share in figures.items():
            found[without][task].append(share)
        found[without]["mean of tasks"].append(mean(figures.values()))
    return found


def figure(idea: str, without: Shares, whole: Shares) -> str:
    """An SVG: a row for each task, a dot for each seed, a line from the mean of one to that of the other."""
    tasks = sorted(without, key=lambda task: (task == "mean of tasks", mean(without[task]) - mean(whole[task])))
    height = TOP + ROW * len(tasks) + 24

    lowest = 20 * (int(100 * min(min(shares) for shares in without.values())) // 20)

    def at(share: float) -> float:
        return LEFT + (100 * share - lowest) / (100 - lowest) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f"<title>{escape(f'Right answers without {idea}, and with it')}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for place, (colour, name) in enumerate(((WITHOUT, f"without {idea}"), (WHOLE, "nothing left out"))):
        x = LEFT + 170 * place
        parts.append(f'<circle cx="{x}" cy="14" r="4" fill="{colour}"/><text x="{x + 9}" y="18">{escape(name)}</text>')
    for percent in range(lowest, 101, 20 if lowest < 60 else 5):
        x = at(percent / 100)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{height - 20}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{x}" y="{height - 6}" text-anchor="middle">{percent} %</text>')
    for row, task in enumerate(tasks):
        y = TOP + ROW * row
        bold = ' font-weight="bold"' if task == "mean of tasks" else ""
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end"{bold}>{escape(task)}</text>')
        ends = at(mean(without[task])), at(mean(whole[task]))
        parts.append(
            f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke="{WITHOUT}" opacity="0.4"/>'
        )
        for colour, shares in ((WHOLE, whole[task]), (WITHOUT, without[task])):
            parts += [
                f'<circle cx="{at(share):.1f}" cy="{y}" r="3.2" fill="{colour}" opacity="0.75"/>' for share in shares
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(measured: dict[str, Shares]) -> str:
    """Means over the seeds, in percent; beneath, the lowest and the highest of all tasks' means."""
    ideas = ["nothing", *(idea for idea in measured if idea != "nothing")]
    lines = [f"| without | {' | '.join(ideas)} |", "|---|" + "---:|" * len(ideas)]
    lines += [
        f"| {task} | {' | '.join(f'{100 * mean(measured[idea][task]):.1f}' for idea in ideas)} |"
        for task in measured["nothing"]
    ]
    ends = [[f"{100 * end(measured[idea]['mean of tasks']):.1f}" for end in (min, max)] for idea in ideas]
    lines.append(f"| lowest and highest mean | {' | '.join(' … '.join(pair) for pair in ends)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    measured = read(given.measured)
    for idea, without in measured.items():
        if idea != "nothing":
            (given.output / f"without-{idea}.svg").write_text(figure(idea, without, measured["nothing"]))
    print(table(measured))


if __name__ == "__main__":
    main()
