"""A report says of every score what is known of it, and of files that are none, which and why."""

import csv
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from mossvl.errors import DataError, InputError
from mossvl.evaluation.report import tables
from mossvl.evaluation.report.measures import wilson
from mossvl.evaluation.report.published import metrics, published
from mossvl.evaluation.report.report import as_csv, as_json, as_markdown, report

KIT = Path(__file__).parent / "results" / "vlmevalkit"
"""Written by pandas and xlsxwriter, as VLMEvalKit does."""
ARGUMENTS = "pretrained=MOSS-VL-Instruct-0708,fps=1,max_frames=768"


def write_run(folder, task, metric, score, samples=None, name="20260101_000000", **others):
    """What lmms-eval 0.7.3 writes."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "results": {task: {"alias": task, f"{metric},none": score, f"{metric}_stderr,none": "N/A"}},
        "group_subtasks": {task: []},
        "n-samples": {task: {"original": 2700, "effective": 2700}},
        "config": {"model": "moss_vl", "model_args": ARGUMENTS, "limit": None, "gen_kwargs": ""},
        **others,
    }
    file = folder / f"{name}_results.json"
    file.write_text(json.dumps(run, indent=2))
    if samples is not None:
        lines = [json.dumps({"doc_id": n, "filtered_resps": "A", metric: one}) for n, one in enumerate(samples)]
        (folder / f"{name}_samples_{task}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return file


def answers(right, wrong):
    return [{"pred_answer": "A", "answer": "A"}] * right + [{"pred_answer": "B", "answer": "A"}] * wrong


# --- lmms-eval ---------------------------------------------------------------------------------------------------


def test_an_accuracy_has_wilsons_interval_of_its_samples_beside_the_published_score(tmp_path):
    write_run(tmp_path, "videomme", "videomme_perception_score", 70.0, answers(70, 30))
    (row,) = report([tmp_path])
    assert (row.benchmark, row.n, row.score, row.method) == ("VideoMME", 100, 70, "Wilson")
    assert (row.low, row.high) == pytest.approx((60.42, 78.11), abs=0.01)
    assert row.published == 68.1 and row.difference == pytest.approx(1.9) and row.within_noise
    assert row.settings == "checkpoint=MOSS-VL-Instruct-0708, fps=1, max_frames=768"
    assert "0708" in row.source and "768 frames" in row.source


def test_a_difference_beyond_the_interval_is_no_noise(tmp_path):
    write_run(tmp_path, "videomme", "videomme_perception_score", 90.0, answers(90, 10))
    (row,) = report([tmp_path])
    assert row.within_noise is False and row.difference == pytest.approx(21.9)


@pytest.mark.parametrize("score", [0.681, 68.1])
def test_without_samples_the_number_of_them_gives_an_interval(tmp_path, score):
    write_run(tmp_path, "videomme", "videomme_perception_score", score)
    (row,) = report([tmp_path])
    assert (row.n, row.score, row.method) == (2700, pytest.approx(68.1), "Wilson, n alone")
    assert row.high - row.low == pytest.approx(3.5, abs=0.1)


def test_a_standard_error_gives_a_normal_interval(tmp_path):
    results = {"docvqa_val": {"alias": "docvqa_val", "anls,none": 0.896, "anls_stderr,none": 0.005}}
    write_run(tmp_path, "docvqa_val", "anls", 0.896, results=results)
    (row,) = report([tmp_path])
    assert (row.low, row.high, row.method) == (pytest.approx(88.62, abs=0.01), pytest.approx(90.58, abs=0.01), "normal")


def test_samples_between_right_and_wrong_are_resampled(tmp_path):
    values = [0.5, 1.0, 0.0, 0.75] * 50
    write_run(tmp_path, "chartqa", "relaxed_overall", 0.5625, values)
    (row,) = report([tmp_path])
    assert row.method == "bootstrap" and row.low < 56.25 < row.high
    assert row.high - row.low == pytest.approx(2 * 1.96 * 37.0 / 200**0.5, rel=0.15)


def test_samples_whose_mean_is_not_the_score_give_no_interval(tmp_path):
    write_run(tmp_path, "mlvu_dev", "mlvu_percetion_score", 55.0, answers(70, 30))
    (row,) = report([tmp_path])
    assert (row.score, row.n, row.method) == (55, 100, "Wilson, n alone")


def test_of_tasks_that_are_not_published_every_metric_is_told(tmp_path):
    results = {
        "mine": {"alias": "mine", "acc,none": 0.5, "f1,none": 0.25, "acc_stderr,none": 0.1, "submission,none": None}
    }
    write_run(tmp_path, "mine", "acc", 0.5, results=results)
    rows = report([tmp_path])
    assert [(row.benchmark, row.metric, row.score, row.published) for row in rows] == [
        ("mine", "acc", 50, None),
        ("mine", "f1", 25, None),
    ]
    assert [row.within_noise for row in rows] == [None, None]


def test_a_metric_has_a_row_for_each_filter_with_the_samples_of_that_filter(tmp_path):
    results = {"mine": {"acc,strict-match": 0.25, "acc_stderr,strict-match": 0.1, "acc,flexible-extract": 0.75}}
    write_run(tmp_path, "mine", "acc", 0, results=results)
    samples = [(n, float(n < right), answer) for right, answer in ((1, " "), (3, "A")) for n in range(4)]
    lines = [json.dumps({"doc_id": n, "filtered_resps": [answer], "acc": score}) for n, score, answer in samples]
    (tmp_path / "20260101_000000_samples_mine.jsonl").write_text("\n".join(lines))
    rows = report([tmp_path])
    assert [(row.metric, row.score, row.n, row.method, row.empty) for row in rows] == [
        ("acc", 25, 4, "Wilson", 4),
        ("acc", 75, 4, "Wilson", 0),
    ]
    assert [row.settings.rpartition(", ")[2] for row in rows] == ["filter=strict-match", "filter=flexible-extract"]
    assert "filter=strict-match" in as_markdown(rows)


def test_a_group_has_the_mean_of_each_filter(tmp_path):
    results = {
        f"mvbench_{name}": {"mvbench_accuracy,x": low, "mvbench_accuracy,y": 75.0}
        for name, low in (("a", 0.0), ("b", 50.0))
    }
    write_run(tmp_path, "mvbench", "mvbench_accuracy", 0, results=results, group_subtasks={"mvbench": [*results]})
    rows = [row for row in report([tmp_path]) if row.task == "mvbench"]
    assert [(row.score, row.settings[-8:]) for row in rows] == [(25, "filter=x"), (75, "filter=y")]


def test_a_group_has_the_samples_of_its_tasks(tmp_path):
    write_run(
        tmp_path,
        "mvbench",
        "mvbench_accuracy",
        66.7,
        **{"group_subtasks": {"mvbench": ["a", "b"]}, "n-samples": {name: {"effective": 200} for name in "ab"}},
    )
    (row,) = report([tmp_path])
    assert (row.benchmark, row.n) == ("MVBench", 400)


def test_a_score_of_a_group_is_told_once(tmp_path):
    given = {"blink": 0.5, "blink_a": 0.25, "blink_b": 0.5}
    results = {name: {"blink_acc,none": score} for name, score in given.items()}
    write_run(tmp_path, "blink", "blink_acc", 0, results=results, group_subtasks={"blink": ["blink_a", "blink_b"]})
    assert [(row.task, row.score) for row in report([tmp_path])] == [("blink", 50), ("blink_a", 25), ("blink_b", 50)]


def test_a_group_without_a_score_has_the_mean_of_its_tasks(tmp_path):
    results = {f"mvbench_{name}": {"mvbench_accuracy,none": score} for name, score in (("a", 75.0), ("b", 50.0))}
    groups = {"group_subtasks": {"mvbench": [*results]}, "n-samples": {name: {"effective": 100} for name in results}}
    write_run(
        tmp_path, "mvbench", "mvbench_accuracy", 0, results={"mvbench": {" ": " ", "alias": ""}, **results}, **groups
    )
    *_, row = report([tmp_path])
    assert (row.benchmark, row.score, row.n, row.method) == ("MVBench", 62.5, 200, "Wilson, n alone")
    for name, right in (("a", 75), ("b", 50)):
        samples = [{"filtered_resps": "A", "mvbench_accuracy": {"score": int(n < right)}} for n in range(100)]
        text = "".join(f"{json.dumps(one)}\n" for one in samples)
        (tmp_path / f"20260101_000000_samples_mvbench_{name}.jsonl").write_text(text)
    *_, row = report([tmp_path])
    assert (row.score, row.n, row.method) == (62.5, 200, "Wilson")


def test_samples_that_have_no_score_leave_the_others_unused(tmp_path):
    write_run(tmp_path, "lvbench", "lvbench_score", 0.5, [1, 0, None, None])
    (row,) = report([tmp_path])
    assert (row.n, row.method) == (4, "Wilson, n alone")


def test_empty_answers_are_counted(tmp_path):
    file = write_run(tmp_path, "lvbench", "lvbench_score", 0.5, [1, 1, 0, 0])
    samples = next(tmp_path.glob("*.jsonl"))
    samples.write_text(samples.read_text().replace('"filtered_resps": "A"', '"filtered_resps": " "', 1))
    (row,) = report([file])
    assert row.empty == 1
    assert "Empty answers, as those of requests that failed: 1 of 4 in lvbench." in as_markdown([row])


def test_runs_of_a_folder_are_all_told(tmp_path):
    for n in (1, 2):
        write_run(tmp_path / f"run{n}", "ai2d", "exact_match", 0.8, name=f"2026010{n}_000000")
    assert [row.score for row in report([tmp_path])] == [80, 80]
    assert len(report([tmp_path, tmp_path / "run1"])) == 2


# --- VLMEvalKit --------------------------------------------------------------------------------------------------


def test_a_data_set_of_vlmevalkit_has_its_samples_from_a_workbook():
    (row,) = report([KIT])
    assert (row.benchmark, row.harness, row.n, row.score) == ("MMStar", "VLMEvalKit", 40, 75)
    assert (row.low, row.high) == pytest.approx(wilson(0.75, 40))
    assert row.empty == 2 and row.settings == "checkpoint=moss_vl" and row.published == 66.0


def test_a_link_to_the_newest_results_is_no_other_result(tmp_path):
    folder = shutil.copytree(KIT / "moss_vl", tmp_path / "moss_vl" / "T20260101")
    for file in list(folder.iterdir()):
        (folder.parent / file.name).symlink_to(file)
    assert [row.settings for row in report([tmp_path])] == ["checkpoint=moss_vl"]


@pytest.mark.parametrize(
    ("name", "content", "benchmark", "score", "n"),
    [
        (
            "Video-MME_1fps_rating.json",
            {"short": {"overall": "0.8"}, "overall": {"overall": "0.681"}},
            "VideoMME",
            68.1,
            None,
        ),
        (
            "MVBench_64frame_rating.json",
            {"count": [1, 2, "50%"], "overall": [2668, 4000, "66.70%"]},
            "MVBench",
            66.7,
            4000,
        ),
        (
            "OCRBench_score.json",
            {"Text Recognition": 280, "Final Score": 861, "Final Score Norm": 86.1},
            "OCRBench",
            86.1,
            None,
        ),
        ("DocVQA_VAL_acc.json", [{"Overall": 89.6}], "DocVQA val", 89.6, None),
        ("POPE_score.csv", '"split","Overall","acc"\n"Overall","0.894","0.9"\n', "POPE", 89.4, None),
        ("MLVU_1fps_acc.csv", "task,success,overall,acc\nego,1,2,50.0\nM-Avg,768,1000,76.8\n", "MLVU dev", 76.8, 1000),
    ],
)
def test_scores_of_every_form_are_read(tmp_path, name, content, benchmark, score, n):
    file = tmp_path / f"m_{name}"
    file.write_text(content if isinstance(content, str) else json.dumps(content, indent=4))
    (row,) = report([file])
    assert (row.benchmark, row.score, row.n) == (benchmark, pytest.approx(score), n)


def test_frames_are_among_the_settings(tmp_path):
    file = tmp_path / "MOSS_VL_Video-MME_0.5fps_subs_rating.json"
    file.write_text(json.dumps({"overall": {"overall": "0.7"}}))
    (row,) = report([file])
    assert row.settings == "checkpoint=MOSS_VL, fps=0.5" and row.published is None  # subtitles are another benchmark


def test_splits_are_told_one_by_one(tmp_path):
    file = tmp_path / "m_MMMU_DEV_VAL_acc.csv"
    file.write_text('"split","Overall"\n"validation","0.511"\n"dev","0.4"\n')
    assert [(row.task, row.benchmark, row.score) for row in report([file])] == [
        ("MMMU_DEV_VAL (validation)", "MMMU", pytest.approx(51.1)),
        ("MMMU_DEV_VAL (dev)", "MMMU", pytest.approx(40)),
    ]


def test_samples_belong_to_the_data_set_with_the_longest_name(tmp_path):
    for name, score in (("AI2D_TEST", 0.5), ("AI2D_TEST_NO_MASK", 0.75)):
        (tmp_path / f"m_{name}_acc.csv").write_text(f'"split","Overall"\n"none","{score}"\n')
        hits = "".join(f"A\t{int(n < 4 * score)}\n" for n in range(4))
        (tmp_path / f"m_{name}_gpt-4o-mini_result.tsv").write_text(f"prediction\thit\n{hits}")
    rows = report([tmp_path])
    assert {row.task: (row.score, row.n, row.method) for row in rows} == {
        "AI2D_TEST": (50, 4, "Wilson"),
        "AI2D_TEST_NO_MASK": (75, 4, "Wilson"),
    }


def test_a_judge_is_no_part_of_a_data_sets_name(tmp_path):
    file = next((KIT / "moss_vl").glob("*.xlsx"))
    shutil.copy(file, tmp_path)
    (row,) = report([tmp_path])
    assert (row.task, row.benchmark, row.score) == ("MMStar", "MMStar", 75)


def test_samples_alone_are_averaged(tmp_path):
    file = tmp_path / "m_AI2D_TEST_results.tsv"
    file.write_text("index\tprediction\thit\n1\tA\t1\n2\tB\t0\n3\tC\t1\n4\t\t-1\n")
    (row,) = report([file])
    assert (row.benchmark, row.n, row.empty) == ("AI2D", 3, 1)
    assert row.score == pytest.approx(200 / 3)


# --- files that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("20260101_000000_results.json", '{"results": {"mi', "20260101_000000_results.json: cannot be read as JSON"),
        ("20260101_000000_results.json", "[]", "no results of lmms-eval"),
        ("20260101_000000_results.json", '{"results": {"mine": 3}}', "results of mine are 3"),
        ("m_MMStar_acc.csv", "", "no overall score"),
        ("m_MMStar_acc.csv", "a,b\n1,2\n", "no overall score"),
        ("m_MMStar_rating.json", "{", "cannot be read as JSON"),
        ("m_MMStar_result.xlsx", "no workbook", "cannot be read as a table"),
        ("m_MMStar_results.tsv", "a\tb\n1\t2\n", "has no score"),
        ("m_MMStar_results.json", '{"a": 1}', "cannot be read as a table"),
        ("notes.txt", "hello", "no results; expected"),
    ],
)
def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path, name, content, words):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(DataError) as refused:
        report([file])
    assert words in str(refused.value) and str(file) in str(refused.value)


@pytest.mark.parametrize("line", ['{"doc_id": 0, "filt', "3"])
def test_broken_samples_are_named_by_their_line(tmp_path, line):
    file = write_run(tmp_path, "ai2d", "exact_match", 0.5, [1, 0])
    samples = next(tmp_path.glob("*.jsonl"))
    samples.write_text(f"{samples.read_text()}{line}\n")
    with pytest.raises(DataError, match=r"samples_ai2d\.jsonl: line 3 is"):
        report([file])


def test_a_workbook_that_was_cut_is_refused(tmp_path):
    whole = next((KIT / "moss_vl").glob("*.xlsx"))
    for size in (100, whole.stat().st_size - 200):
        (tmp_path / whole.name).write_bytes(whole.read_bytes()[:size])
        with pytest.raises(DataError, match="cannot be read as a table"):
            report([tmp_path / whole.name])


def test_paths_without_results_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        report([tmp_path / "gone"])
    with pytest.raises(InputError, match="no results of lmms-eval or VLMEvalKit"):
        report([tmp_path])


# --- tables, published scores ------------------------------------------------------------------------------------


def test_a_workbook_is_read_as_it_was_written():
    rows = tables.read_rows(next((KIT / "moss_vl").glob("*.xlsx")))
    assert len(rows) == 40 and list(rows[0]) == ["index", "question", "A", "answer", "prediction", "hit", "log"]
    assert rows[0] == {
        "index": 0,
        "question": "q",
        "A": "a",
        "answer": "A",
        "prediction": "A",
        "hit": 1,
        "log": "Match",
    }
    assert rows[30]["prediction"] == 'B & "C"\n' and rows[38]["prediction"] is None


def test_a_workbook_may_have_texts_in_its_cells_and_many_columns(tmp_path):
    def cell(place, text):
        return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'

    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    rows = f'<row r="1">{cell("A1", "index")}{cell("AB1", "hit")}</row><row r="2"><c r="AB2"><v>1</v></c></row>'
    file = tmp_path / "wide.xlsx"
    with zipfile.ZipFile(file, "w") as book:
        book.writestr(
            "xl/worksheets/sheet1.xml", f'<worksheet xmlns="{space}"><sheetData>{rows}</sheetData></worksheet>'
        )
    (row,) = tables.read_rows(file)
    assert row["index"] is None and row["hit"] == 1


def test_published_scores_are_whole():
    assert len(published()) == 39 and len({one.benchmark for one in published()}) == 39
    assert all(0 < one.score < 100 and one.source for one in published())
    assert metrics()["videomme"] == ["videomme_perception_score"]


# --- as text -----------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path):
    write_run(tmp_path, "videomme", "videomme_perception_score", 70.0, answers(70, 30))
    return report([tmp_path, KIT])


def test_the_table_has_a_line_for_every_score(rows):
    lines = as_markdown(rows).splitlines()
    assert lines[2] == (
        "| VideoMME | 100 | 70.0 | 60.4 … 78.1 | 68.1 | +1.9 | yes | "
        "checkpoint=MOSS-VL-Instruct-0708, fps=1, max_frames=768 |"
    )
    assert lines[3].startswith("| MMStar | 40 | 75.0 | 59.8 … 85.8 | 66.0 | +9.0 | yes |")


def test_json_and_csv_have_the_same_values(rows):
    told = json.loads(as_json(rows))
    assert [one["benchmark"] for one in told] == ["VideoMME", "MMStar"]
    assert told[0]["low"] == 60.415 and told[0]["within_noise"] is True
    lines = list(csv.DictReader(as_csv(rows).splitlines()))
    assert [line["low"] for line in lines] == [str(one["low"]) for one in told]
    assert list(lines[0]) == list(told[0])
