"""The table of live streams tells when a session spoke, and what it said."""

import json

from typer.testing import CliRunner

from mossvl.evaluation.streaming import Score
from mossvl.synthetic.streaming import STREAMS
from mossvl.tiny import streams


def test_a_line_tells_the_scores_of_a_task_and_a_dash_where_nothing_was_due():
    scores = {"alert": Score(0.5, 1.0, 0.25, 0.75), "silent": Score(None, None, None)}
    assert list(streams.table(scores, 4))[2:] == [
        "| alert | 4 | 50.0 % | 100.0 % | 0.25 s | 75.0 % |",
        "| silent | 4 | – | – | – | – |",
    ]


def test_every_task_is_shown_to_a_session(tmp_path):
    written = tmp_path / "figures.json"
    app = streams.typer.Typer()
    app.command()(streams.main)
    done = CliRunner().invoke(app, ["--each", "1", "--output", str(written)])
    assert done.exit_code == 0, done.output
    assert list(json.loads(written.read_text())) == list(STREAMS)
