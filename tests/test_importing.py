"""The collector rests while libraries are imported."""

import gc

import pytest

from mossvl import importing


@pytest.mark.parametrize("argv", [["python", "-m", "mossvl"], ["python", "/usr/bin/mossvl", "ask"]])
def test_the_command_knows_that_its_process_is_its_own(monkeypatch, argv):
    monkeypatch.setattr("sys.orig_argv", argv)
    assert importing.is_command()


@pytest.mark.parametrize("argv", [["python"], ["python", "-m", "pytest"], ["python", "-c", "import mossvl"]])
def test_other_programs_are_not_the_command(monkeypatch, argv):
    monkeypatch.setattr("sys.orig_argv", argv)
    assert not importing.is_command()


@pytest.mark.parametrize("own", [True, False])
def test_the_collector_is_as_it_was_and_what_an_own_process_has_is_kept_out_of_it(monkeypatch, own):
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    frozen = []
    with importing.without_collector(own):
        assert not gc.isenabled()
    assert gc.isenabled() and frozen == [False] * own
    gc.disable()
    try:
        with pytest.raises(ImportError), importing.without_collector(own):
            raise ImportError
        assert not gc.isenabled()
    finally:
        gc.enable()
