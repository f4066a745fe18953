"""Processes of replicas: ready, killed, hung, restarted, given up, and ended with whoever started them."""

import errno
import os
import signal
import subprocess
import sys
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest
from replicas.stand_ins import (
    PATIENCE,
    SOON,
    Heavy,
    alive,
    deaf,
    dying,
    echo,
    environment,
    fleeting,
    parent,
    refusing,
    refusing_server,
    running,
    silent,
    stopped,
    waited,
)

from mossvl.errors import CheckpointError, EngineError, OptionError
from mossvl.replicas import processes
from mossvl.replicas import shares as machine
from mossvl.replicas.processes import UNREGISTERED
from mossvl.replicas.replica import Patience, State
from mossvl.replicas.shares import Share, shares
from mossvl.server.config import ServerConfig


def test_a_ready_replica_has_told_of_itself_and_answers_over_its_pipe():
    with running(echo, 1, "two") as (replicas, seen):
        what, number, pipe = seen.next()
        assert (what, number, replicas.all[0].info) == ("ready", 0, (1, "two"))
        pipe.send("word")
        assert pipe.recv() == "word"


def test_a_replica_finds_its_share_in_the_environment_before_it_imports_anything_of_its_own():
    with running(environment, share=Share(gpus=("2", "3"), threads=5)) as (replicas, seen):
        seen.next()
        assert replicas.all[0].info == {"CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "5", "torch": False}


def test_replicas_are_watched_on_and_ended_though_the_watching_has_failed(monkeypatch, caplog):
    monkeypatch.setattr(processes, "AFTER_FAILURE", 0.0)
    with running(echo) as (replicas, seen):
        seen.next()
        bury = replicas._bury
        monkeypatch.setattr(replicas, "_bury", lambda _: monkeypatch.setattr(replicas, "_bury", bury) or 1 / 0)
        replicas.kill(0)
        assert seen.next()[0] == "ended"
        assert seen.next()[0] == "ready"
        pid = replicas.all[0].process.pid
        monkeypatch.setattr(replicas, "_bury", lambda _: 1 / 0)
    assert "ZeroDivisionError" in caplog.text and not alive(pid)


def test_a_killed_replica_is_started_again_and_the_other_goes_on():
    with running(echo, count=2) as (replicas, seen):
        pipes = {number: pipe for _, number, pipe in (seen.next(), seen.next())}
        os.kill(replicas.all[0].process.pid, signal.SIGKILL)
        assert seen.next() == ("ended", 0, "replica 0 was ended by SIGKILL")
        what, number, pipe = seen.next()
        assert (what, number) == ("ready", 0)
        for living in (pipe, pipes[1]):
            living.send("word")
            assert living.recv() == "word"
        assert [one.starts for one in replicas.all] == [2, 1]


def test_a_replica_that_dies_before_it_is_ready_too_often_is_given_up_with_one_error():
    with running(dying) as (replicas, seen):
        assert [seen.next()[0] for _ in range(SOON.tries)] == ["ended"] * (SOON.tries - 1) + ["given up"]
        assert replicas.all[0].state is State.GIVEN_UP and replicas.all[0].starts == SOON.tries


@pytest.mark.parametrize("what", ["Pipe", "Process"])
def test_a_replica_that_cannot_be_started_for_now_is_started_later(what, monkeypatch):
    make, failed = getattr(get_context("spawn"), what), threading.Event()

    def once(*given, **named):
        if replicas.all[0].process is None and replicas.all[0].starts and not failed.is_set():
            failed.set()
            raise OSError(errno.EMFILE, "Too many open files")
        return make(*given, **named)

    with running(echo) as (replicas, seen):
        assert seen.next()[0] == "ready"
        monkeypatch.setattr(replicas._context, what, once)
        os.kill(replicas.all[0].process.pid, signal.SIGKILL)
        assert seen.next() == ("ended", 0, "replica 0 was ended by SIGKILL")
        assert seen.next() == ("ended", 0, "replica 0 could not be started ([Errno 24] Too many open files)")
        assert seen.next()[0] == "ready" and failed.is_set()


def test_the_error_of_a_given_up_replica_says_how_it_died():
    with running(dying, patience=Patience(tries=1)) as (_, seen):
        _, _, error = seen.next()
        assert isinstance(error, EngineError)
        told = "replica 0 has ended with exit code 7; 1 of its processes in a row have died before they were ready"
        assert str(error) == told


def test_a_replica_that_dies_as_soon_as_it_is_ready_is_given_up_too():
    with running(fleeting, patience=Patience(first=0.01, most=0.02, early=3)) as (replicas, seen):
        told = [seen.next() for _ in range(6)]
        assert [what for what, *_ in told] == ["ready", "ended"] * 2 + ["ready", "given up"]
        assert str(told[-1][2]).endswith("3 of its processes in a row have died within 30 seconds of being ready")
        assert replicas.all[0].starts == 3


@pytest.mark.parametrize(("steady", "deaths"), [(PATIENCE, 2), (0.0, 0)], ids=["early", "steady"])
def test_only_a_replica_that_stayed_up_is_started_again_as_after_its_first_death(steady, deaths):
    with running(echo, patience=Patience(first=0.01, most=0.02, steady=steady)) as (replicas, seen):
        for _ in range(2):
            assert seen.next()[0] == "ready"
            os.kill(replicas.all[0].process.pid, signal.SIGKILL)
            assert seen.next()[0] == "ended"
        assert replicas.all[0].deaths == deaths


def test_pauses_between_starts_double_up_to_the_longest():
    patience = Patience(first=1.0, most=30.0)
    assert [patience.pause(deaths) for deaths in (0, 1, 2, 3, 5, 6, 10_000)] == [1, 1, 2, 4, 16, 30, 30]


def test_an_expected_error_before_readiness_is_final():
    with running(refusing) as (replicas, seen):
        what, _, error = seen.next()
        assert (what, type(error), str(error)) == ("given up", CheckpointError, "no such checkpoint")
        assert replicas.all[0].starts == 1


def test_a_server_that_ends_since_it_has_no_model_tells_only_that_when_it_is_told_to_end(tmp_path, capfd):
    with running(refusing_server, ServerConfig(), tmp_path, patience=Patience(stop=PATIENCE)) as (_, seen):
        assert str(seen.next()[2]) == "no such checkpoint"
        assert seen.next() == ("ended", 0, "replica 0 has ended with exit code 2")
    assert "Traceback" not in capfd.readouterr().err


def test_a_replica_that_is_not_ready_in_time_is_killed_and_tried_again():
    with running(silent, patience=Patience(ready=0.5, first=0.01, tries=2)) as (_, seen):
        assert seen.next() == ("ended", 0, "replica 0 was not ready within 0.5 seconds")
        assert seen.next()[0] == "given up"


def test_a_replica_that_is_stopped_while_it_loads_is_killed_and_another_process_is_started():
    with running(stopped, patience=Patience(silent=0.5, first=0.01, tries=2)) as (replicas, seen):
        assert seen.next() == ("ended", 0, "replica 0 gave no sign of life for 0.5 seconds")
        what, _, error = seen.next()
        assert what == "given up" and "gave no sign of life for 0.5 seconds; 2 of its processes" in str(error)
        assert replicas.all[0].starts == 2


@pytest.mark.parametrize("given", [(silent,), (echo, Heavy())], ids=["the target", "what it is given"])
def test_a_replica_that_loads_for_long_is_waited_for_as_long_as_it_gives_signs_of_life(given):
    with running(*given, patience=Patience(silent=PATIENCE)) as (replicas, _):
        for _ in range(3):
            due = waited(lambda: replicas.all[0].due)
            waited(lambda due=due: replicas.all[0].due > due)
        assert replicas.all[0].state is State.STARTING and replicas.all[0].starts == 1


def test_a_watcher_that_was_stopped_itself_takes_no_process_to_be_silent(monkeypatch):
    monkeypatch.setattr(processes, "LATE", -PATIENCE)  # Always.
    with running(stopped, patience=Patience(ready=3.0, silent=0.1, first=0.01, tries=1)) as (_, seen):
        assert "was not ready within 3 seconds" in str(seen.next()[2])


def test_a_restart_ends_the_process_and_starts_another_without_counting_a_death():
    with running(echo) as (replicas, seen):
        seen.next()
        before = replicas.all[0].process.pid
        replicas.restart(0)
        assert seen.next() == ("ended", 0, "replica 0 was ended by SIGTERM")
        assert seen.next()[0] == "ready"
        assert replicas.all[0].process.pid != before and replicas.all[0].deaths == 0


def test_a_replica_that_was_given_up_is_tried_again_when_it_is_restarted():
    with running(dying, patience=Patience(tries=1)) as (replicas, seen):
        seen.next()
        replicas.restart(0)
        assert seen.next()[0] == "given up" and replicas.all[0].starts == 2


def test_a_replica_that_does_not_end_is_killed():
    with running(deaf, patience=Patience(stop=0.2)) as (replicas, seen):
        seen.next()
        pid = replicas.all[0].process.pid
        replicas.close()
        assert seen.next() == ("ended", 0, "replica 0 was ended by SIGKILL") and not alive(pid)


def test_what_a_dead_replica_had_started_ends_with_it():
    with running(parent) as (replicas, seen):
        seen.next()
        child = replicas.all[0].info
        assert alive(child)
        os.kill(replicas.all[0].process.pid, signal.SIGKILL)
        seen.next()
        waited(lambda: not alive(child))


PROGRAM = """
import sys, time
sys.path[:0] = {paths!r}
from replicas.stand_ins import running, parent
if __name__ == "__main__":
    with running(parent, count=2) as (replicas, seen):
        seen.next(), seen.next()
        print(*(number for one in replicas.all for number in (one.process.pid, one.info)), flush=True)
        {end}
"""


@pytest.mark.parametrize("end", ["time.sleep(60)", "raise ValueError", "sys.exit(3)", "import os; os._exit(3)"])
def test_nothing_is_left_running_however_the_starting_process_ends(tmp_path, end):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(paths=[str(Path(__file__).parents[1])], end=end))
    quick = os.environ | {UNREGISTERED: "1"}
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, program], env=quick, **told) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 4
        if "sleep" in end:
            process.kill()
    waited(lambda: not any(map(alive, pids)))


# --- shares of the machine -------------------------------------------------------------------------------------------


def test_gpus_are_dealt_in_order(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ["4", "5", "6", "7"])
    assert shares(2, 2) == [Share(("4", "5")), Share(("6", "7"))]


@pytest.mark.parametrize(
    ("replicas", "ranks", "told"),
    [
        (5, 1, "size=5 needs 5 GPUs, 1 for each replica, and there are 4; give at most 4"),
        (2, 4, "size=2 needs 8 GPUs, 4 for each replica, and there are 4; give at most 1"),
        (2, 8, "size=2 needs 16 GPUs, 8 for each replica, and there are 4; tensor_parallel_size=8 is more than that"),
    ],
)
def test_more_gpus_than_there_are_is_an_error_that_names_what_is_allowed(monkeypatch, replicas, ranks, told):
    monkeypatch.setattr(machine, "gpus", lambda: ["0", "1", "2", "3"])
    with pytest.raises(OptionError) as raised:
        shares(replicas, ranks)
    assert told in str(raised.value)


def test_one_replica_has_what_this_process_has(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ["4", "5"])
    assert shares(1, 2, "cuda:1") == shares(1) == [Share()]


def test_one_gpu_by_its_number_is_not_for_several_replicas(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ["0", "1"])
    with pytest.raises(OptionError, match=r"set CUDA_VISIBLE_DEVICES"):
        shares(2, device="cuda:1")


@pytest.mark.parametrize(("cores", "threads"), [(8, 2), (3, 1)])
def test_replicas_on_a_cpu_share_its_threads(monkeypatch, cores, threads):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert shares(4, device="cpu") == [Share(threads=threads)] * 4
