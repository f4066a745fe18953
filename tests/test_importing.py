"""The collector rests while libraries are imported, and forgets what the command's process has imported."""

import gc

import pytest

from mossvl import importing


@pytest.mark.parametrize("argv", [["python", "-m", "mossvl"], ["python", "/usr/bin/mossvl", "ask"]])
def test_the_command_keeps_what_it_has_imported_out_of_collections(monkeypatch, argv):
    monkeypatch.setattr("sys.orig_argv", argv)
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    frozen = []
    with importing.without_collector():
        assert not gc.isenabled()
    assert gc.isenabled() and frozen == [False]


@pytest.mark.parametrize("argv", [["python"], ["python", "-m", "pytest"], ["python", "-c", "import mossvl"]])
def test_other_programs_keep_their_collector_as_it_was(monkeypatch, argv):
    monkeypatch.setattr("sys.orig_argv", argv)
    monkeypatch.setattr(gc, "freeze", lambda: pytest.fail("its objects are not the package's"))
    with importing.without_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(ImportError), importing.without_collector():
            raise ImportError
        assert not gc.isenabled()
    finally:
        gc.enable()
