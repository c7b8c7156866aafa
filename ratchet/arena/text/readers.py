"""Readers of text files: .txt .md .jsonl .csv .parquet, plain or compressed."""

import csv
import io
import itertools
import json
import re
import shlex

from ratchet.arena.files import Refused, describe_error

KINDS = r"(?i).+\.(parquet|(?:txt|md|jsonl|csv)(?:\.gz|\.zst)?)"  # names of files that hold text
LONG_LINE = 100_000  # characters; a line of plain text that is longer is cut into documents


def cut(lines, size=4000):
    """Join lines into documents of about `size` characters, at the end of a paragraph where there
    is one.
    """
    piece = ""
    for line in lines:
        piece += line + "\n"
        if len(piece) > size and (not line or len(piece) > 2 * size):
            yield piece.strip("\n")
            piece = ""
    yield piece.strip("\n")


def refuse_column(path, column, names):
    names = ", ".join(f"`{name}`" for name in names) or "none"
    remedy = "name the text's with --column, or name it so"
    raise Refused(f"{path} has no column `{column}`, its columns are {names}: {remedy}")


def checked(value, path, line, column):
    """A document, None where there is none; refuses what is no text."""
    if value is None or isinstance(value, str):
        return value
    kinds = {bool: "true or false", dict: "an object", list: "a list", bytes: "bytes"}
    kind = kinds.get(
        type(value), "a number" if isinstance(value, int | float) else "of another type"
    )
    raise Refused(
        f"{path}, {line}: `{column}` is {kind}, not text: make it a string, or name another --column"
    )


def text_lines(file):
    """Lines of plain text; one of LONG_LINE in parts of about 9,000 characters that end at white
    space.

    A part is too long for cut() to join it with the next.
    """
    rest, part = "", re.compile(r".{9000}\S{0,1000}\s?", re.DOTALL)
    for chunk in iter(lambda: file.readline(LONG_LINE), ""):
        is_long = bool(rest) or len(chunk) == LONG_LINE and chunk[-1] != "\n"
        rest += chunk
        while is_long and len(rest) > 10_001:
            yield (match := part.match(rest))[0]
            rest = rest[match.end() :]
        if not is_long or chunk[-1] == "\n":
            yield rest.removesuffix("\n")
            rest = ""
    if rest:
        yield rest


def plain_documents(file, path, column):
    with io.TextIOWrapper(file, "utf-8") as lines:
        yield from cut(text_lines(lines))


def json_documents(file, path, column):
    names = {}  # of columns, in the order in which they appear
    for number, line in enumerate(file, 1):
        line = line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").strip()
        if not line:
            continue
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            why, remedy = describe_error(error), "correct it or take it out"
            if line in (b"[", b"{"):
                why, remedy = (
                    "its JSON has line breaks",
                    "write one object a line, with `jq -c` for example",
                )
            raise Refused(
                f"{path}, line {number}: not one whole JSON value ({why}): {remedy}"
            ) from None
        if not isinstance(row, dict):
            raise Refused(
                f'{path}, line {number}: not a JSON object: write {{"{column}": "..."}}, one a line'
            )
        names |= dict.fromkeys(row) if column not in names else {}
        document = checked(row.get(column), path, f"line {number}", column)
        yield document and re.sub(
            "[\ud800-\udfff]", "\ufffd", document
        )  # halves of a pair that has no other
    if names and column not in names:
        refuse_column(path, column, [*names][:20])


def csv_documents(file, path, column):
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
                    raise Refused(
                        f"{path}, line {rows.line_num}: {why}: put text with commas or quotes in quotes"
                    )
                yield row[names.index(column)]
        except csv.Error as error:
            raise Refused(
                f"{path}, line {rows.line_num}: not CSV ({describe_error(error)}): mend the quotes of that line"
            ) from None


def parquet_documents(file, path, column):
    import pyarrow.parquet as parquet

    table, numbers = parquet.ParquetFile(file, buffer_size=2**20), itertools.count(1)
    if table.metadata.num_rows and column not in table.schema_arrow.names:
        refuse_column(path, column, table.schema_arrow.names)
    for batch in table.iter_batches(256, columns=[column]):
        for value, number in zip(batch.column(0), numbers):
            try:
                value = value.as_py()
            except UnicodeDecodeError:
                raise Refused(
                    f"{path}, row {number}: not UTF-8: write it anew, with whole strings"
                ) from None
            yield checked(value, path, f"row {number}", column)


def unpacked(file, path):
    """A file's bytes, without its compression."""
    import pyarrow

    packing = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower())
    return (
        io.BufferedReader(pyarrow.CompressedInputStream(file, packing), 2**20) if packing else file
    )


def is_wide(file):
    """Whether a file begins like UTF-16."""
    head = file.peek(1000)[:1000]
    return head[:2] in (b"\xff\xfe", b"\xfe\xff") or head.count(0) > len(head) / 4


def refuse_encoding(path):
    """Say where a text is not UTF-8, and how to convert it."""
    number = column = 1
    with open(path, "rb") as file:
        wide = is_wide(lines := unpacked(file, path))
        try:
            for number, line in enumerate([] if wide else lines, 1):  # noqa: B007
                line.decode()
        except UnicodeDecodeError as error:
            column = error.start + 1
    is_packed = path.suffix.lower() in (".gz", ".zst")
    name, new = (
        shlex.quote(f"{path.with_suffix('') if is_packed else path}{end}") for end in ("", ".new")
    )
    remedy = "unpack it, " * is_packed + "if it is text, convert it: "
    remedy += (
        f"`iconv -f {'UTF-16' if wide else 'LATIN1'} -t UTF-8 {name} > {new} && mv {new} {name}`"
    )
    remedy += "" if wide else " (for LATIN1 put its encoding)"
    raise Refused(f"{path}, line {number}, byte {column}: not UTF-8: {remedy}")


def file_documents(corpus):
    """Documents of a corpus's files, None where a row has none; refuses what can't be read."""
    readers = {"parquet": parquet_documents, "jsonl": json_documents, "csv": csv_documents}
    before = 0
    for path in corpus.files:
        kind = re.fullmatch(KINDS, path.name)[1].lower().split(".")[0]
        try:
            with open(path, "rb") as file:
                stream = file if kind == "parquet" else unpacked(file, path)
                if kind != "parquet" and is_wide(stream):  # some of it would pass for ASCII
                    refuse_encoding(path)
                for document in readers.get(kind, plain_documents)(stream, path, corpus.column):
                    corpus.seen[1] = before + file.tell()
                    yield document
            before += path.stat().st_size
        except Refused:
            raise
        except UnicodeDecodeError:
            refuse_encoding(path)
        except Exception as error:  # pyarrow's and the operating system's, of many types
            raise Refused(
                f"{path} can't be read as text ({describe_error(error)}): mend it, or leave it out"
            ) from None
