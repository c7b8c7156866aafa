"""Readers of text files: .txt .md .jsonl .csv .parquet, plain or compressed."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from ratchet.arena.files import Refused, describe_error

if TYPE_CHECKING:
    from ratchet.arena.text.corpus import Corpus

KINDS = r"(?i).+\.(parquet|(?:txt|md|jsonl|csv)(?:\.gz|\.zst)?)"  # names of files that hold text
LONG_LINE = 100_000  # characters; a line of plain text that is longer is cut into documents
SURROGATES = "[\ud800-\udfff]"  # halves of a pair that has no other half
PACKINGS = {".gz": "gzip", ".zst": "zstd"}


def read_documents(corpus: Corpus) -> Iterator[str | None]:
    """The documents of a corpus's files, None where a row has none. Raises Refused."""
    before = 0
    for path in corpus.files:
        try:
            with open(path, "rb") as file:
                for document in read_file(file, path, corpus.column):
                    corpus.seen[1] = before + file.tell()
                    yield document
            before += path.stat().st_size
        except Refused:
            raise
        except UnicodeDecodeError:
            refuse_encoding(path)
        except Exception as error:  # pyarrow's and the operating system's, of many types
            why = describe_error(error)
            raise Refused(
                f"{path} can't be read as text ({why}): mend it, or leave it out"
            ) from None


def read_file(file: io.BufferedReader, path: Path, column: str) -> Iterator[str | None]:
    """The documents of an open file, read in the way of its name."""
    name = path.name.lower().removesuffix(path.suffix.lower() if is_packed(path) else "")
    if name.endswith(".parquet"):
        return read_parquet(file, path, column)
    file = unpack(file, path)
    if is_wide(file):  # some of it would pass for ASCII
        refuse_encoding(path)
    if name.endswith(".jsonl"):
        return read_jsonl(file, path, column)
    if name.endswith(".csv"):
        return read_csv(file, path, column)
    return read_plain(file)


def is_packed(path: Path) -> bool:
    """Whether a file is compressed, by its name."""
    return path.suffix.lower() in PACKINGS


def unpack(file: io.BufferedReader, path: Path) -> io.BufferedReader:
    """A file's bytes without its compression."""
    import pyarrow

    if not is_packed(path):
        return file
    packing = PACKINGS[path.suffix.lower()]
    return io.BufferedReader(pyarrow.CompressedInputStream(file, packing), 2**20)


# --------------------------------------------------------------------------------------------------
# Kinds of files


def read_plain(file: IO[bytes]) -> Iterator[str]:
    """Plain text, cut at paragraphs."""
    with io.TextIOWrapper(file, "utf-8") as lines:
        yield from cut_into_documents(split_long_lines(lines))


def cut_into_documents(lines: Iterable[str], size: int = 4000) -> Iterator[str]:
    """Join lines into documents of about `size` characters, which end with a paragraph."""
    document = ""
    for line in lines:
        document += line + "\n"
        if len(document) > size and (not line or len(document) > 2 * size):
            yield document.strip("\n")
            document = ""
    yield document.strip("\n")


def split_long_lines(file: IO[str]) -> Iterator[str]:
    """Lines of plain text; LONG_LINE in parts of about 9,000 characters that end at white space.

    A part is too long to be joined with the next.
    """
    rest = ""
    for chunk in iter(lambda: file.readline(LONG_LINE), ""):
        is_long = bool(rest) or len(chunk) == LONG_LINE and chunk[-1] != "\n"
        rest += chunk
        while is_long and len(rest) > 10_001:
            space = re.search(r"\s", rest[9_000:10_001])
            end = 9_000 + space.end() if space else 10_000
            yield rest[:end]
            rest = rest[end:]
        if not is_long or chunk[-1] == "\n":
            yield rest.removesuffix("\n")
            rest = ""
    if rest:
        yield rest


def read_jsonl(file: IO[bytes], path: Path, column: str) -> Iterator[str | None]:
    """A column of one JSON object a line."""
    names: dict[str, None] = {}  # of columns, in the order in which they appear
    for number, line in enumerate(file, 1):
        line = line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").strip()
        if not line:
            continue
        row = parse_json_line(line, f"{path}, line {number}")
        if not isinstance(row, dict):
            wanted = f'write {{"{column}": "..."}}, one a line'
            raise Refused(f"{path}, line {number}: not a JSON object: {wanted}")
        if column not in names:
            names |= dict.fromkeys(row)
        document = check_document(row.get(column), path, f"line {number}", column)
        yield document and re.sub(SURROGATES, "\ufffd", document)
    if names and column not in names:
        refuse_column(path, column, [*names][:20])


def parse_json_line(line: bytes, position: str) -> Any:
    """The value of a line; position: what a refusal calls the line."""
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        why, remedy = describe_error(error), "correct it or take it out"
    if line in (b"[", b"{"):
        why, remedy = "its JSON has line breaks", "write one object a line, as `jq -c` does"
    raise Refused(f"{position}: not one whole JSON value ({why}): {remedy}")


def read_csv(file: IO[bytes], path: Path, column: str) -> Iterator[str]:
    """A column of comma-separated values, whose first line names the columns."""
    csv.field_size_limit(2**31 - 1)
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, strict=True)
        try:
            names = next(rows, [column])
            if column not in names:
                refuse_column(path, column, names)
            for row in filter(None, rows):
                if len(row) != len(names):
                    why = f"{len(row)} fields where the first line has {len(names)}"
                    remedy = "put text with commas or quotes in quotes"
                    raise Refused(f"{path}, line {rows.line_num}: {why}: {remedy}")
                yield row[names.index(column)]
        except csv.Error as error:
            why = f"not CSV ({describe_error(error)})"
            remedy = "mend the quotes of that line"
            raise Refused(f"{path}, line {rows.line_num}: {why}: {remedy}") from None


def read_parquet(file: IO[bytes], path: Path, column: str) -> Iterator[str | None]:
    """A column of a parquet file."""
    import pyarrow.parquet as parquet

    table, numbers = parquet.ParquetFile(file, buffer_size=2**20), itertools.count(1)
    names = table.schema_arrow.names
    if table.metadata.num_rows and column not in names:
        refuse_column(path, column, names)
    for batch in table.iter_batches(256, columns=[column]):
        for value, number in zip(batch.column(0), numbers):
            try:
                text = value.as_py()
            except UnicodeDecodeError:
                remedy = "write it anew, with whole strings"
                raise Refused(f"{path}, row {number}: not UTF-8: {remedy}") from None
            yield check_document(text, path, f"row {number}", column)


# --------------------------------------------------------------------------------------------------
# What is wrong with a file


def check_document(value: Any, source: Path | str, row: str, column: str) -> str | None:
    """A document, None where there is none. Raises Refused for what is no text."""
    if value is None or isinstance(value, str):
        return value
    kinds = {bool: "true or false", dict: "an object", list: "a list", bytes: "bytes"}
    other = "a number" if isinstance(value, int | float) else "of another type"
    kind = kinds.get(type(value), other)
    remedy = "make it a string, or name another --column"
    raise Refused(f"{source}, {row}: `{column}` is {kind}, not text: {remedy}")


def refuse_column(source: Path | str, column: str, names: list[str]) -> NoReturn:
    """Refuse a text without the column that is asked for; names: of those that it has."""
    listed = ", ".join(f"`{name}`" for name in names) or "none"
    remedy = "name the text's with --column, or name it so"
    raise Refused(f"{source} has no column `{column}`, its columns are {listed}: {remedy}")


def is_wide(file: io.BufferedReader) -> bool:
    """Whether a file begins like UTF-16."""
    head = file.peek(1000)[:1000]
    return head[:2] in (b"\xff\xfe", b"\xfe\xff") or head.count(0) > len(head) / 4


def refuse_encoding(path: Path) -> NoReturn:
    """Say where a text is not UTF-8, how to convert it."""
    with open(path, "rb") as file:
        lines = unpack(file, path)
        wide = is_wide(lines)
        line, column = (1, 1) if wide else first_undecodable(lines)
    position = f"{path}, line {line}, byte {column}"
    packed = is_packed(path)
    name = str(path.with_suffix("") if packed else path)
    old, new = shlex.quote(name), shlex.quote(f"{name}.new")
    encoding = "UTF-16" if wide else "LATIN1"
    remedy = f"`iconv -f {encoding} -t UTF-8 {old} > {new} && mv {new} {old}`"
    remedy += "" if wide else " (for LATIN1 put its encoding)"
    first = "unpack it, " * packed + "if it is text, convert it"
    raise Refused(f"{position}: not UTF-8: {first}: {remedy}")


def first_undecodable(lines: Iterable[bytes]) -> tuple[int, int]:
    """(line, byte) of the first byte that is not UTF-8, counted from 1."""
    number = 1
    for number, line in enumerate(lines, 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return number, error.start + 1
    return number, 1
