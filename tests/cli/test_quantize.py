"""`mossvl quantize`"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY, SIGN = ROOT / "src/mossvl/tiny/checkpoint", ROOT / "examples/sign.png"


def test_a_checkpoint_is_quantized_and_answers(command, tmp_path):
    written = command("quantize", TINY, "-o", tmp_path / "small", "--to", "int4")
    assert (written.exit_code, written.stdout) == (0, f"{tmp_path / 'small'}\n")
    told = command("ask", "-c", tmp_path / "small", SIGN, "What is written there?")
    assert (told.exit_code, told.stdout) == (0, "MOSS\n")
    assert command("inspect", tmp_path / "small").exit_code == 0
    refused = command("ask", "-c", tmp_path / "small", "-q", "fp8", "What is written there?")
    assert refused.exit_code == 2 and "are INT4 already" in refused.stderr


def test_a_question_is_asked_with_quantized_weights(command):
    told = command("ask", "-q", "nf4", SIGN, "What is written there?", "--json")
    assert json.loads(told.stdout)["answer"] == "MOSS"
    refused = command("ask", "--quantization", "int3", "Who?")
    assert refused.exit_code == 2 and "--quantization int3 must be 'fp8' or 'int8' or 'int4' or 'nf4'" in refused.stderr


def test_what_weights_are_quantized_to_must_be_named(command, tmp_path):
    assert command("quantize", TINY, "-o", tmp_path / "x", "--to", "nf4").exit_code == 2
    assert command("quantize", TINY, "-o", tmp_path / "x").exit_code == 2
    assert not (tmp_path / "x").exists()
