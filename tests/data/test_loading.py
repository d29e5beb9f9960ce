"""Loading: every kind of source and row, and what is said about a bad one."""

import csv
import json
import os
from pathlib import Path

import pytest

from fastunlearn.data import Record, load_records
from fastunlearn.errors import InvalidInputError

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"
ROWS = [
    {"prompt": "Mira was born in", "completion": " Oldwick"},
    {"question": " Who is {Mira}?", "answer": "A judge. ", "id": 7},
    {"text": "  Mira keeps a goat.", "note": None},
]
RECORDS = [
    Record("Mira was born in", " Oldwick"),
    Record("Question: Who is {Mira}?\nAnswer:", " A judge."),
    Record("", "  Mira keeps a goat."),
]
SECRET = "zanzibar"  # stands in bad rows, and never in an error


@pytest.fixture
def write(tmp_path):
    def make(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def refused(source, **options) -> str:
    with pytest.raises(InvalidInputError) as error:
        load_records(source, **options)
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None  # a cause might quote the text
    return str(error.value)


def test_examples():
    forget = load_records(EXAMPLES / "forget.jsonl")
    retain = load_records(EXAMPLES / "retain.csv")
    held_out = load_records(str(EXAMPLES / "held_out.txt"))
    assert (len(forget), len(retain), len(held_out)) == (4, 6, 3)
    assert forget[0].prompt == "Question: Where was Ottilie Brandurel born?\nAnswer:"
    assert forget[0].completion == " Ottilie Brandurel was born in the town of Saltmere."
    assert retain[3] == Record("Asked about his name, he says:", ' "Two l\'s, please."')
    assert held_out[2] == Record("", "At home Sabine Torvalde looks after a canary.")
    assert len({record.digest() for record in forget + retain + held_out}) == 13


def test_python_objects():
    assert load_records(ROWS) == RECORDS
    assert load_records(iter([RECORDS[0], ROWS[1], RECORDS[2]])) == RECORDS


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_json_lines(write, ending):
    lines = ending.join(["", json.dumps(ROWS[0]), "", *map(json.dumps, ROWS[1:]), ""])
    for name in ("a.jsonl", "a.JSONL", "a.json"):
        assert load_records(write(name, lines)) == RECORDS
    assert load_records(write("b.jsonl", b"\xef\xbb\xbf" + lines.encode())) == RECORDS


def test_a_json_list(write):
    assert load_records(write("a.json", json.dumps(ROWS, indent=2))) == RECORDS


def test_a_line_separator_inside_a_text_ends_no_line(write):
    row = json.dumps({"text": "one\u2028two\u0085three"}, ensure_ascii=False)
    assert load_records(write("a.jsonl", row)) == [Record("", "one\u2028two\u0085three")]
    assert load_records(write("a.txt", "one\u2028two\n")) == [Record("", "one\u2028two")]


def test_csv_with_header(write):
    text = 'id,Question,ANSWER\n1,"Who, then?","A\n""judge"""\n\n2,Where?,Here\n'
    assert load_records(write("a.csv", text)) == [
        Record("Question: Who, then?\nAnswer:", ' A\n"judge"'),
        Record("Question: Where?\nAnswer:", " Here"),
    ]


def test_csv_by_column(write):
    plain = write("a.csv", '"3","Title","Some, text"\n"4","Other","More"\n')
    assert load_records(plain, text_column=2) == [Record("", "Some, text"), Record("", "More")]
    named = write("b.csv", "Class,Title,text\n3,One,Some\n4,Two,More\n")
    assert load_records(named, text_column="Title") == [Record("", "One"), Record("", "Two")]
    assert load_records(named, text_column=1) == [Record("", "One"), Record("", "Two")]
    assert load_records(named) == [Record("", "Some"), Record("", "More")]


def test_text_column_of_json(write):
    path = write("a.jsonl", '{"text": "a", "body": "b"}')
    assert load_records(path, text_column="body") == [Record("", "b")]
    assert "a.jsonl line 1: there is no column text_column='x'" in refused(path, text_column="x")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", "", "a.jsonl holds no records"),
        ("a.jsonl", "\n \n", "a.jsonl holds no records"),
        ("a.json", "[]", "a.json holds no records"),
        ("a.csv", "prompt,completion\n", "a.csv holds no records"),
        ("a.txt", "\n", "a.txt holds no records"),
        ("a.jsonl", '{"text": "a"}\n{"text": "zanzibar', "a.jsonl line 2: not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n["zanzibar"]', "a.jsonl line 2: a row must be a JSON object"),
        ("a.json", '[{"text": "a"},\n{"text": zanzibar}]', "a.json line 2: not valid JSON"),
        ("a.json", '[{"text": "a"}, "zanzibar"]', "a.json row 2: a row must be a JSON object"),
        ("a.jsonl", "[" * 100_000, "a.jsonl line 1: a number too long, or lists nested too deep"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": " "}', "a.jsonl line 3: completion is empty"),
        ("a.jsonl", '{"text": ["zanzibar"]}', "a.jsonl line 1: text must be a string, not list"),
        (
            "a.jsonl",
            '{"prompt": "zanzibar", "completion": null}',
            "completion must be a string, not NoneType",
        ),
        ("a.jsonl", '{"question": " ", "answer": "zanzibar"}', "a.jsonl line 1: question is empty"),
        ("a.jsonl", '{"question": "zanzibar", "answer": " "}', "a.jsonl line 1: completion is empty"),
        ("a.jsonl", '{"prompt": "zanzibar"}', "or text: rename one to text (from Python: text_column=NAME"),
        ("a.jsonl", '{"text": "zanzibar \\ud800"}', "line 1: completion holds half of a surrogate pair"),
        ("a.txt", b"one\nzanzibar \xff\n", "a.txt line 2: not UTF-8 text"),
        ("a.csv", "zanzibar,b\n", "a.csv line 1: no header with the columns"),
        ("a.csv", "prompt,completion\na,b\nzanzibar\n", "a.csv line 3: 1 cells, and the header has 2"),
        ("a.csv", 'text\none\n"zanzibar\n\n', "a.csv line 3: not valid CSV"),
        ("a.csv", "text\none\n' '\n \n", "a.csv line 4: completion is empty"),
        ("a.md", "zanzibar", "a.md is of an unknown kind; the kinds are .jsonl, .json, .csv, .txt"),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_not_quoted(write, name, content, said):
    assert said in refused(write(name, content))


def test_bad_columns(write):
    table = write("a.csv", "a,b\n")
    assert "a.csv line 1: the header has no column text_column='c'" in refused(table, text_column="c")
    assert "a.csv line 1: there is no column text_column=5" in refused(table, text_column=5)
    assert "text_column: " in refused(write("a.txt", "zanzibar"), text_column=0)
    assert "text_column must be at least 0" in refused(ROWS, text_column=-1)
    assert "text_column must be a name or a number" in refused(ROWS, text_column=1.5)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([], "source holds no records"),
        ([RECORDS[0], SECRET], "record 2 of source: give a Record or a dictionary, not a str"),
        ([{"prompt": SECRET}], "record 1 of source: needs the columns"),
        ({"text": SECRET}, "not a dict"),
        (None, "not a NoneType"),
        ("nowhere/a.jsonl", "there is no file nowhere/a.jsonl"),
    ],
)
def test_bad_sources(source, said):
    assert said in refused(source)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_without_permission(write):
    path = write("a.txt", SECRET)
    path.chmod(0)
    assert "cannot be read: Permission denied" in refused(path)


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The datasets package, kept off the network and away from the user's cache."""
    package = pytest.importorskip("datasets", reason="the datasets package is not installed")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(package.config, "HF_HUB_OFFLINE", True)
    return package


def test_a_saved_dataset(datasets, tmp_path):
    rows = [{"question": "Who?", "answer": "A judge."}, {"question": "Where?", "answer": "Here."}]
    made = datasets.Dataset.from_list(rows)
    expected = [Record("Question: Who?\nAnswer:", " A judge."), Record("Question: Where?\nAnswer:", " Here.")]
    assert load_records(made) == expected
    made.save_to_disk(tmp_path / "one")
    assert load_records(tmp_path / "one") == expected
    datasets.DatasetDict({"forget": made}).save_to_disk(tmp_path / "many")
    assert load_records(tmp_path / "many", split="forget") == expected
    assert "split='train' is not in" in refused(tmp_path / "many")


def test_a_folder_of_files_leaves_no_copy_in_the_cache(datasets, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert load_records(folder) == [Record("", "one"), Record("", "two")]
    assert load_records(folder, split="train[1:]") == [Record("", "two")]
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    assert "split='test'" in refused(folder, split="test")


def test_nothing_is_asked_of_the_hub_without_its_prefix(datasets, monkeypatch, tmp_path):
    """A mistyped file name would be the name of a file of personal data."""
    asked = []

    def load_dataset(name, **_options):
        asked.append(name)
        return [{"text": "one"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("mira-bell", "people/mira-bell", tmp_path / "mira-bell"):
        said = refused(name)
        assert f"there is no file or folder {name}; for a data set of the Hub write hub:{name}" in said
    assert asked == []
    assert load_records("hub:people/mira-bell.json") == [Record("", "one")] and asked == ["people/mira-bell.json"]


def test_a_name_that_the_hub_does_not_have(datasets):
    assert "'no/such' is not a data set of the Hub that" in refused("hub:no/such")


def test_a_folder_that_holds_no_data(datasets, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is not a folder that" in refused(tmp_path / "empty")
    script = tmp_path / "script"
    script.mkdir()
    ran = tmp_path / "ran"
    (script / "script.py").write_text(f"open({str(ran)!r}, 'w')\n")
    assert "is not a folder that" in refused(script)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("tofu_forget.jsonl", {}, 300),
        ("tofu_retain.jsonl", {}, 300),
        ("tofu_world_facts_perturbed.json", {}, 100),
        ("ag_news.csv", {"text_column": 2}, 1000),
        ("shakespeare.txt", {}, 1000),
    ],
)
def test_real_data(name, options, least):
    folder = os.environ.get("FASTUNLEARN_DATA")
    if not folder:
        pytest.skip("FASTUNLEARN_DATA names no folder with real data")
    records = load_records(Path(folder) / name, **options)
    assert len(records) >= least
    assert all(record.completion.strip() for record in records)


def test_a_csv_cell_may_be_longer_than_pythons_own_limit(write):
    """131,072 characters, for the whole process: raised while a row is read, and put back."""
    before = csv.field_size_limit()
    long = "word " * 40_000
    assert load_records(write("a.csv", f"prompt,completion\na,b\n{long},{long}\n"))[1] == Record(long, long)
    assert csv.field_size_limit() == before
