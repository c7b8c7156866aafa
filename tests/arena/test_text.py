"""Reading text: files of every kind, datasets of the hub, and what is wrong with either."""

import datetime
import gzip
import json
import os
import sys

import datasets
import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import DatasetNotFoundError

from prepare import main, prepare
from ratchet.arena.files import Refused
from ratchet.arena.text.corpus import Corpus, find_corpus, stream_documents
from ratchet.arena.text.hub import hub_home, load_hub_dataset
from ratchet.arena.text.readers import cut_into_documents

TEXTS = [
    "Hello, world.",
    "naïve café — “quoted”\nsecond line",
    "漢字かな 🦀",
    "a\u2028b\x85c\x0cd",
    'say "so"',
]


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


def jsonl(texts, column="text"):
    return "".join(json.dumps({"n": 1, column: text}) + "\n" for text in texts).encode()


def csv(texts):
    rows = ('1,"{}"\n'.format(text.replace('"', '""')) for text in texts)
    return ("n,text\n" + "".join(rows)).encode()


def read(source, **options):
    """Documents of a path, in order, without those that are empty."""
    return [text for _, text in stream_documents(find_corpus(str(source), **options))]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_documents_are_those_that_the_hubs_own_loader_reads(name, tmp_path):
    texts = [f"{text} {n}" * n for n, text in enumerate(TEXTS * 200)]
    path, kind = (
        tmp_path / name,
        {"txt": "text", "jsonl": "json"}.get(name.split(".")[1], "parquet"),
    )
    if kind == "text":
        lines = "\r\n\r\n".join(texts) + "\rold\rMac" + "\n\n\n" + "x" * 50_000 + "\nno end"
        path.write_bytes(lines.encode())
    elif kind == "json":
        path.write_bytes(jsonl(texts) + b'\n{"n": 2}\n{"text": null}\n' + jsonl(["last"]).strip())
    else:
        pq.write_table(
            pa.table({"text": [*texts, None], "n": range(1001)}), path, row_group_size=300
        )
    rows = datasets.load_dataset(kind, data_files=[str(path)], split="train", streaming=True)
    expected = [row["text"] for row in rows]
    expected = list(cut_into_documents(expected)) if kind == "text" else expected
    assert (
        read(path) == [text for text in expected if text and text.strip()] and len(expected) > 100
    )


@pytest.mark.parametrize(
    "name",
    ["data[1]", "d?t*", "a::b", "n#1", "with space", "übung", "-", "zip://x", "{a,b}", "[/x]"],
)
def test_a_name_is_a_name_and_no_pattern(name, tmp_path, refusal, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data1").mkdir()
    (tmp_path / "data1/a.jsonl").write_bytes(jsonl(["of data1"]))
    assert "does not exist" in refusal(read, f"{name}.jsonl") and read("data1") == ["of data1"]
    folder = tmp_path / name
    folder.mkdir(parents=True)
    file = folder / f"{folder.name}.jsonl"
    file.write_bytes(jsonl(TEXTS))
    assert read(name) == read(file) == TEXTS


@pytest.mark.parametrize("pack, end", [(bytes, ""), (gzip.compress, ".gz"), (zstd, ".zst")])
@pytest.mark.parametrize("make, kind", [(jsonl, ".jsonl"), (csv, ".csv"), (csv, ".CSV")])
def test_every_kind_of_file_holds_the_same_text(make, kind, pack, end, tmp_path):
    path = tmp_path / f"a{kind}{end}"
    path.write_bytes(pack(make(TEXTS)))
    assert read(tmp_path) == TEXTS


@pytest.mark.parametrize("name", ["a.md", "a.txt.gz", "a.TXT.zst", "a.md.gz"])
def test_plain_text_is_cut_into_documents_at_paragraphs(name, tmp_path):
    paragraphs = [f"{n} " + "word " * 300 for n in range(20)]
    pack = {"gz": gzip.compress, "zst": zstd}.get(name.split(".")[-1], bytes)
    (tmp_path / name).write_bytes(pack("\n\n".join(paragraphs).encode()))
    found = read(tmp_path)
    assert "\n\n".join(found) == "\n\n".join(paragraphs) and len(found) == 7


def test_files_of_several_members_are_read_whole(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(
        gzip.compress(jsonl(TEXTS[:2])) + gzip.compress(jsonl(TEXTS[2:]))
    )
    assert read(tmp_path) == TEXTS


def test_the_text_may_be_in_another_column(tmp_path, refusal):
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS, "body"))
    (tmp_path / "b.csv").write_bytes(b"id,body\n1,hello\n")
    pq.write_table(pa.table({"body": ["hi"], "text": [1]}), tmp_path / "c.parquet")
    assert read(tmp_path, column="body") == [*TEXTS, "hello", "hi"]
    for name in ("a.jsonl", "b.csv"):
        sentence = refusal(read, tmp_path / name)
        assert name in sentence and "no column `text`" in sentence
        assert "`body`" in sentence and "--column" in sentence


def test_files_are_listed_once_sorted_with_what_links_name_and_without_what_is_hidden(
    tmp_path, refusal
):
    text, elsewhere = tmp_path / "text", tmp_path / "elsewhere"
    for folder in (text / "b", text / ".ipynb_checkpoints", text / "b/.hidden", elsewhere):
        folder.mkdir(parents=True)
        (folder / "x.jsonl").write_bytes(jsonl([folder.name]))
    (text / ".x.jsonl").write_bytes(jsonl(["hidden"]))
    (text / "c.jsonl").write_bytes(jsonl(["c"]))
    (text / "d.png").write_bytes(b"picture")
    (text / "a").symlink_to(elsewhere)
    (text / "b/loop").symlink_to(text)
    (elsewhere / "back").symlink_to(text / "b")
    (text / "e.jsonl").symlink_to(text / "c.jsonl")
    corpus = find_corpus(str(text))
    names = ["a/back/x.jsonl", "a/x.jsonl", "c.jsonl", "e.jsonl"]
    assert [str(path.relative_to(text)) for path in corpus.files] == names
    assert read(text) == ["b", "elsewhere", "c", "c"]
    assert corpus.size == sum((text / name).stat().st_size for name in names)
    (text / "f.jsonl").symlink_to(text / "nowhere")
    sentence = refusal(read, text)
    assert "f.jsonl" in sentence and "link" in sentence


def test_the_seal_counts_the_bytes_of_the_files_that_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/.hidden.jsonl").write_bytes(jsonl(["hidden"]))
    texts = [" ".join(str(n * m % 997) for m in range(100)) for n in range(1, 900)]
    body = jsonl(texts, "body")
    (tmp_path / "text/a.jsonl.gz").write_bytes(packed := gzip.compress(body))
    options = dict(source=str(tmp_path / "text"), context=64, vocab_size=300)
    arena = prepare("mine", column="body", **options)
    assert (arena.source_bytes, arena.column, arena.source) == (len(packed), "body", "text")
    assert prepare("mine", column="body", **options).seal == arena.seal
    with pytest.raises(Refused, match="another text"):  # another column is another text
        prepare("mine", **options)


def test_empty_files_and_empty_documents_are_passed_over(tmp_path):
    for name in ("a.jsonl", "b.txt", "c.csv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "d.jsonl").write_bytes(b"\n\n" + jsonl(["", None, "  ", "text"]) + b"\r\n")
    pq.write_table(pa.table({"other": pa.array([], pa.int64())}), tmp_path / "e.parquet")
    assert read(tmp_path) == ["text"]


def test_half_a_surrogate_pair_becomes_the_replacement_character(tmp_path):
    lines = [
        r'{"text": "a\ud83d b"}',
        r'{"text": "\ude00\ud83d\ude00"}',
        r'{"text": "\ud83d\ud83d"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert read(tmp_path) == ["a\ufffd b", "\ufffd😀", "\ufffd\ufffd"]


@pytest.mark.parametrize("text", ["word " * 200_000, "字" * 300_000, "x" * 99_990 + " y" * 9_000])
def test_a_line_without_end_is_cut_at_white_space(text, tmp_path):
    (tmp_path / "a.txt").write_text(f"first\n{text}\nlast\n", encoding="utf-8")
    found = read(tmp_path)
    assert "".join(found).replace("\n", "") == f"first{text}last"
    assert len(found) > 10 and max(map(len, found)) <= 20_010
    if text.startswith("word"):
        assert all(document.endswith((" ", "last")) for document in found)


def test_a_long_paragraph_stays_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("x " * 40_000 + "\n\nnext\n", encoding="utf-8")
    assert [len(text) for text in read(tmp_path)] == [80_000, 4]


UTF8 = "not UTF-8"
BAD = {  # name, content, what the sentence says
    "number.jsonl": (b'{"text": "a"}\n\n{"text": 5}\n', "line 3", "`text` is a number"),
    "bool.jsonl": (b'{"text": true}', "line 1", "`text` is true or false"),
    "list.jsonl": (b'{"text": ["a"]}', "line 1", "`text` is a list"),
    "object.jsonl": (b'{"text": {}}', "line 1", "`text` is an object"),
    "broken.jsonl": (b'{"text": "hello"}\n{"text": "hel', "line 2", "correct it"),
    "string.jsonl": (b'"hello"\n', "line 1", 'write {"text": "..."}'),
    "array.jsonl": (b'[\n{"text": "hello"}\n]\n', "line 1", "jq -c"),
    "deep.jsonl": (b"[" * 99_999, "line 1", "correct it"),
    "latin.jsonl": (
        b'{"text": "a"}\n{"text": "caf\xe9"}\n',
        "line 2",
        "byte 14",
        UTF8,
        "iconv -f LATIN1",
    ),
    "latin.txt": (b"a\n" * 9000 + b"caf\xe9\n", "line 9001", "byte 4", UTF8, "iconv -f LATIN1"),
    "latin.csv": (b"text\ncaf\xe9 a\n", "line 2", "byte 4", UTF8, "iconv -f LATIN1"),
    "wide.txt": (
        "hello\n".encode("utf-16"),
        "line 1",
        UTF8,
        "iconv -f UTF-16 -t UTF-8 ",
        "wide.txt.new && mv ",
    ),
    "wide le.txt": (
        "hello\n".encode("utf-16-le"),
        "line 1",
        UTF8,
        "iconv -f UTF-16 -t UTF-8 '/",
        "wide le.txt.new'",
    ),
    "packed.txt.gz": (gzip.compress(b"caf\xe9"), "line 1", UTF8, "unpack it", "packed.txt > "),
    "wide.jsonl": (jsonl(["a"]).decode().encode("utf-16"), "line 1", UTF8, "iconv -f UTF-16"),
    "ragged.csv": (b"n,text\n1,hello\n2,hello, world\n", "line 3", "3 fields", "quotes"),
    "quotes.csv": (b'n,text\n1,"hello\n2,world\n', "line 3", "quotes"),
    "half.jsonl.gz": (gzip.compress(jsonl(TEXTS))[:-12], "can't be read", "mend it"),
    "no.txt.zst": (b"hello", "can't be read", "mend it"),
    "no.parquet": (b"PAR1 nothing", "can't be read", "mend it"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_said_with_its_place_and_remedy(name, tmp_path, refusal):
    (tmp_path / name).write_bytes(BAD[name][0])
    sentence = refusal(read, tmp_path)
    assert all(part in sentence for part in (str(tmp_path / name), *BAD[name][1:])), sentence


@pytest.mark.parametrize(
    "values, kind",
    [
        ([datetime.date(2026, 1, 1)], "of another type"),
        ([1, 2], "a number"),
        ([b"a"], "bytes"),
        ([["a"]], "a list"),
        ([{"a": 1}], "an object"),
    ],
)
def test_a_column_of_parquet_that_is_no_text_is_refused(values, kind, tmp_path, refusal):
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    sentence = refusal(read, tmp_path)
    assert (
        "a.parquet, row 1: " in sentence
        and f"`text` is {kind}" in sentence
        and "--column" in sentence
    )


def test_parquet_of_other_string_types_is_text(tmp_path):
    plain = pa.array([*TEXTS, None])
    for number, column in enumerate((plain.cast(pa.large_string()), plain.dictionary_encode())):
        pq.write_table(pa.table({"text": column}), tmp_path / f"{number}.parquet")
    assert read(tmp_path) == TEXTS * 2


def test_a_jsonl_of_one_huge_document_is_told_from_too_little_text(tmp_path, refusal, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_bytes(jsonl(["many words " * 100_000]))
    sentence = refusal(
        prepare, "mine", source=str(tmp_path / "a.jsonl"), vocab_size=300, context=64
    )
    assert "one document" in sentence and "one a line of .jsonl" in sentence


def test_text_without_a_name_is_refused(refusal, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--text", ""])
    assert "does not exist" in refusal(main)


def test_a_folder_that_is_called_like_an_arena_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = {}
    monkeypatch.setattr(
        "prepare.prepare", lambda name, **options: seen.update(options, name=name) or exit()
    )
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--text", "pocket", "--split", "test"])
    with pytest.raises(SystemExit):
        main()
    assert (seen["source"], seen["name"], seen["split"]) == ("./pocket", "own", "test")


# --------------------------------------------------------------------------------------------------
# The hub


@pytest.mark.parametrize(
    "address",
    [
        "https://huggingface.co/datasets/o/n",
        "https://hf.co/datasets/o/n/tree/main?x=1",
        "hf://datasets/o/n",
    ],
)
def test_the_address_of_a_dataset_is_its_id(address, monkeypatch):
    assert find_corpus(address).source == "o/n"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert find_corpus("https://mirror.example/datasets/o/n:c/").source == "o/n:c"


def test_an_address_elsewhere_and_a_split_of_a_file_are_refused(tmp_path, refusal):
    assert "does not exist" in refusal(find_corpus, "https://example.org/datasets/o/n")
    (tmp_path / "a.txt").write_bytes(b"text")
    assert "--split test" in refusal(find_corpus, str(tmp_path), split="test")


CONFIGS = """Config name is missing.
Please pick one among the available configs: ['en', 'de']
Example of usage:
\t`load_dataset('o/n', 'en')`"""
GATED = "Dataset 'o/n' is a gated dataset on the Hub. You must be authenticated to access it."
HUB_ERRORS = [
    (ValueError(CONFIGS), ["['en', 'de']", "o/n:NAME"]),
    (
        ValueError("BuilderConfig 'fr' not found. Available: ['en', 'de']"),
        ["['en', 'de']", "o/n:NAME"],
    ),
    (
        ValueError("Unknown split \"train\". Should be one of ['test', 'dev']."),
        ["['test', 'dev']", "--split"],
    ),
    (DatasetNotFoundError(GATED), ["gated", "HF_TOKEN"]),
    (
        DatasetNotFoundError("Dataset 'o/n' doesn't exist on the Hub or cannot be accessed."),
        ["check its name"],
    ),
    (PermissionError(13, "Permission denied", "/home/x"), ["/home/x", "HF_HOME"]),
    (
        ConnectionError("Couldn't reach 'o/n' on the Hub (ConnectError)"),
        ["no network", "HF_ENDPOINT"],
    ),
    (httpx2.ConnectError("[Errno -2] Name or service not known"), ["no network", "HF_ENDPOINT"]),
    (httpx2.ReadTimeout("timed out"), ["no network", "HF_ENDPOINT"]),
]


@pytest.mark.parametrize("error, parts", HUB_ERRORS)
def test_why_a_dataset_cannot_be_had_is_said_with_the_remedy(error, parts, monkeypatch, refusal):
    def load_dataset(*args, **options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    sentence = refusal(load_hub_dataset, Corpus("o/n"))
    assert sentence.startswith("ratchet: o/n can't be had") and all(
        part in sentence for part in parts
    ), sentence


def test_a_dataset_is_read_by_column_and_split(monkeypatch, refusal):
    data, calls = datasets.Dataset.from_dict({"body": [*TEXTS, None], "n": range(6)}), []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: calls.append((args, options)) or data
    )
    corpus = find_corpus("o/n:en", "body", "test")
    corpus.data = load_hub_dataset(corpus)
    assert calls == [(("o/n", "en"), {"split": "test"})]
    assert [text for _, text in stream_documents(corpus)] == TEXTS
    assert "`body`, `n`" in refusal(load_hub_dataset, Corpus("o/n"))
    corpus.column, corpus.data = "n", data
    assert "o/n:en, row 1: `n` is a number" in refusal(list, stream_documents(corpus))


def test_the_hubs_cache_is_beside_the_arenas_where_the_home_cannot_be_written(
    tmp_path, monkeypatch
):
    for name in ("HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert hub_home() == tmp_path / "home/.cache/huggingface" and "HF_HOME" not in os.environ
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert hub_home() == tmp_path / ".huggingface"
    assert os.environ["HF_HOME"] == str(tmp_path / ".huggingface")
    assert os.environ["HF_TOKEN_PATH"] == str(tmp_path / "home/.cache/huggingface/token")
