"""Every flag with a bad value, of every command: the error names the flag and the value as they were typed."""

import inspect
import re
from types import NoneType
from typing import get_args, get_origin

import pytest
from golden_cases import MEDIA

from mossvl.cli.ask import ask
from mossvl.cli.bench import bench
from mossvl.cli.flags import flag_of, with_flags
from mossvl.cli.frames import frames
from mossvl.cli.quantize import quantize
from mossvl.cli.run import run
from mossvl.cli.serve import serve
from mossvl.cli.train import train
from mossvl.cli.watch import watch

CLIP = str(MEDIA / "clip_10fps_6s.mp4")
COMMANDS = {
    ask: ["What?"],
    bench: ["live", "--random"],
    frames: [CLIP],
    quantize: ["mossvl-tiny", "-o", "OUTPUT", "--to", "int4"],
    run: ["QUERIES", "-o", "OUTPUT"],
    serve: [],
    train: ["QUERIES", "-o", "OUTPUT"],
    watch: [CLIP, "What?"],
}
"""Commands, with the arguments that they need."""
TEXTS = {
    "--quantization": "int9",
    "--dtype": "int99",
    "--device": "gpu9",
    "--logit-bias": "much",
    "--json-schema": "{",
    "--regex": "(",
    "--grammar": "(",
    "--stop": "",
    "--choice": "",
    "--thinking-mode": "fast",
    "--lora": "=own/adapter",
    "--system-prompt-type": "sound",
    "--host": "0.0.0.0",
    "--allow-origin": "x",
    "--allow-media-dir": "none/there",
    "--allow-media-domain": "http://x",
    "--api-key": "",
}
"""Bad values of flags that take a text."""
FREE = {
    *("--seed", "--system", "--system-prompt", "--model-name", "--prompt", "--then"),
    *("--ray", "--checkpoint", "--output", "--media-dir", "--data-dir", "--eval-data", "--record", "--markdown"),
}
"""Flags of which every value is one, and those of places, whose errors tell of the place."""


def flags():
    """Each flag that has a value: its command, its name, a bad value."""
    for command in COMMANDS:
        for parameter in inspect.signature(with_flags(command)).parameters.values():
            kind, flag = get_args(parameter.annotation)[0], flag_of(parameter)
            kinds = {one for one in (get_args(kind) or (kind,)) if one is not NoneType}
            kinds = {get_args(one)[0] if get_origin(one) is list else one for one in kinds}
            if flag is not None and kinds != {bool} and flag not in FREE:
                bad = "-7" if int in kinds else "nan" if float in kinds else TEXTS.get(flag, "other")
                yield pytest.param(command, flag, bad, id=f"{command.__name__} {flag}")


@pytest.mark.parametrize(("of", "flag", "bad"), list(flags()))
def test_a_bad_value_is_told_with_the_flag_as_it_was_typed(command, tmp_path, of, flag, bad):
    (tmp_path / "queries.jsonl").write_text('{"prompt": "What?"}\n')
    places = {"QUERIES": tmp_path / "queries.jsonl", "OUTPUT": tmp_path / "output"}
    refused = command(of.__name__, *(places.get(one, one) for one in COMMANDS[of]), flag, bad)
    assert refused.exit_code == 2
    assert re.search(rf"error: {flag}( |\[|:)|'{flag}'", refused.stderr), refused.stderr
    assert not re.search(r"\w=[^/]", refused.stderr)
