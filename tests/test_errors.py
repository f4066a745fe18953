"""Errors name the setting that would help as their reader knows it."""

import pickle

import pytest
from golden_cases import MEDIA
from typer.testing import CliRunner

from mossvl import SamplingParams
from mossvl.cli.main import commands
from mossvl.errors import MediaError, MossVLError, OptionError, message_of
from mossvl.media.image import load_image
from mossvl.media.limits import MediaLimits
from mossvl.options import GenerationOptions
from mossvl.server.errors import refusal

SHAPES = str(MEDIA / "shapes.png")


@pytest.fixture
def error():
    with pytest.raises(MediaError) as raised:
        load_image(SHAPES, MediaLimits(image_pixels=10))
    return raised.value


def test_python_names_the_setting(error):
    assert error.setting == "MediaLimits.image_pixels"
    assert str(error).endswith("; use a smaller image or raise MediaLimits.image_pixels")


def test_the_server_names_its_flag(error):
    assert str(refusal(error)).endswith("; use a smaller image or raise --max-image-pixels")


def test_a_command_names_its_flag():
    result = CliRunner().invoke(commands, ["frames", SHAPES, "--max-image-pixels", "10"])
    assert result.exit_code == 2 and "--max-image-pixels" in result.stderr


def test_an_option_is_named_as_its_reader_names_it():
    error = OptionError("{regex=} is used without {choice}", given={"regex": "(a)", "choice": ()})
    assert str(error) == "regex='(a)' is used without choice" and repr(error) == f"OptionError({str(error)!r})"
    named = error.named({"regex": "guided_regex"}).named({"choice": "guided_choice"})
    assert (str(named), named.option) == ("guided_regex='(a)' is used without guided_choice", "guided_regex")
    assert error.told({"regex": "--regex", "choice": "--choice"}) == "--regex '(a)' is used without --choice"
    for other in (named.plain(), pickle.loads(pickle.dumps(named))):
        assert (str(other), other.option) == (str(named), named.option)


def test_an_option_that_several_classes_have_is_named_by_its_own():
    names = {"timeout": "--timeout", "MediaLimits.timeout": "--media-timeout"}
    for options, flag in ((GenerationOptions, "--timeout"), (MediaLimits, "--media-timeout")):
        with pytest.raises(OptionError) as raised:
            options(timeout=-1)
        assert raised.value.told(names).startswith(f"{flag} -1 must be")


def test_a_part_of_an_option_is_named_by_the_whole():
    with pytest.raises(OptionError) as raised:
        SamplingParams(logit_bias={5: "much"})
    assert raised.value.option == "logit_bias"
    assert raised.value.told({"logit_bias": "--logit-bias"}).startswith("--logit-bias[5] much must be a number")


def test_what_looks_like_an_option_within_a_value_is_left_as_it_is():
    error = OptionError("{regex=} cannot be used", given={"regex": "{regex} {regex=} {0}"})
    assert str(error) == "regex='{regex} {regex=} {0}' cannot be used"


def test_an_error_of_an_option_tells_which():
    wrong = {"top_p": 2, "logit_bias": {"x": 1}, "stop": [1], "json_schema": {"type": "no"}, "min_tokens": 2000}
    for name, value in wrong.items():
        with pytest.raises(OptionError) as raised:
            SamplingParams(**{name: value})
        assert raised.value.option == name


@pytest.mark.parametrize("sent", [lambda error: pickle.loads(pickle.dumps(error)), MossVLError.plain])
def test_an_error_from_another_process_says_the_same(sent, error):
    other = sent(error)
    assert type(other) is MediaError and (str(other), other.setting) == (str(error), error.setting)
    assert message_of(other, {"MediaLimits.image_pixels": "X"}).endswith("raise X")


def test_a_setting_that_the_reader_cannot_change_is_not_advised():
    error = MediaError("more than 5 redirects", setting="MediaLimits.redirects", advice="; raise {}")
    assert str(refusal(error)) == "more than 5 redirects"
    assert str(error) == "more than 5 redirects; raise MediaLimits.redirects"


def test_what_a_message_quotes_is_left_as_it_is():
    error = MossVLError("{0} MediaLimits.timeout {}", setting="MediaLimits.timeout", advice="; raise {}")
    assert error.told({"MediaLimits.timeout": "--t"}) == "{0} MediaLimits.timeout {}; raise --t"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("a\x00b\x1b[31m\x7f\x9b", r"a\x00b\x1b[31m\x7f\x9b"),
        ("\u202eabc\ud800\u2028", r"\u202eabc\ud800\u2028"),
        ("tab\tand\r\nnew line", "tab\\tand\\r\nnew line"),
        ("Grüße 👋 \\x00 日本", "Grüße 👋 \\x00 日本"),
    ],
)
def test_a_message_holds_no_control_characters_whatever_it_quotes(given, told):
    error = MossVLError(f"no such file: {given}")
    assert str(error) == str(error.plain()) == str(refusal(error)) == message_of(error) == f"no such file: {told}"
    assert message_of(ValueError(given)) == f"ValueError: {told}"
