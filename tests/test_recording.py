"""The film of a terminal: an SVG shows what was printed, when, and how much faster."""

import re
import shutil
import subprocess
import time
import xml.etree.ElementTree

import pytest

pytest.importorskip("pyte")
import recording

EVENTS = [
    (0.0, b"$ a command\r\n"),
    (10.0, b"\x1b[1mval_bpb\x1b[0m  <1.5>\r\nhalf"),
    (20.0, b"\r\x1b[2K\x1b[32mready\x1b[0m"),
]


def film():
    return [*recording.show("a run", [*EVENTS], 5)]


def test_a_film_shows_each_line_when_it_was_printed_and_says_how_much_faster_time_goes():
    pictures = film()
    words = ["\n".join("".join(piece[2] for piece in row) for row in rows) for rows in pictures]
    assert words[0].startswith("a run, 4 times as fast as it was: 0:00\n$ a command")
    assert "val_bpb" not in words[14] and "val_bpb  <1.5>\nhalf" in words[15]  # 2.5 s, 6 a second
    assert "half" not in words[-1] and words[-1].strip().endswith("ready")
    assert len(pictures) == recording.RATE * (5 + recording.HOLD_SECONDS)
    assert pictures[-1][2][0] == (0, "bold", "val_bpb")
    assert pictures[-1][3] == ((0, "green", "ready"),)


def test_an_svg_of_a_film_moves_without_a_script_and_can_stand_at_its_end():
    pictures = film()
    light, dark = (recording.draw(pictures, theme) for theme in recording.THEMES.values())
    assert light != dark and "prefers-reduced-motion: reduce" in light and light.count("http") == 1
    root = xml.etree.ElementTree.fromstring(light)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "title", "style", "defs", "rect", "g", "text", "tspan", "use"}
    texts = {text.get("id"): "".join(text.itertext()) for text in root.findall("{*}defs/{*}text")}
    groups = root.findall("{*}g/{*}g")
    last = [texts[use.get("href")[1:]] for group in groups if group.get("class") for use in group]
    shown = ["".join(piece[2] for piece in row) for row in pictures[-1]]
    assert sorted(last) == sorted(filter(None, shown))
    frames = dict(re.findall(r"@keyframes (\w+)\{(.*)\}", light))
    assert {group.get("style").rpartition(":")[2] for group in groups} == {*frames}
    (half,) = (g for g in groups if "half" in [texts[use.get("href")[1:]] for use in g])
    seen = "0.00%{visibility:hidden}33.33%{visibility:visible}66.67%{visibility:hidden}"
    assert frames[half.get("style").rpartition(":")[2]] == seen  # from 2.5 to 5 s of 7.5


def test_nothing_of_the_machine_is_filmed():
    assert recording.find_private(film()) == set()
    events = [(0.0, f"{recording.ROOT}/runs".encode())]
    assert str(recording.ROOT) in recording.find_private([*recording.show("a run", events, 1)])


def test_the_scripted_agent_has_six_ideas_one_after_the_other(tmp_path):
    prompt, old = "", (recording.ROOT / "train.py").read_text(encoding="utf-8")
    for number in range(6):
        shutil.copy(recording.ROOT / "train.py", tmp_path)
        agent = recording.ROOT / "examples/scripted_agent.sh"
        subprocess.run([agent], input=prompt, cwd=tmp_path, text=True, check=True)
        new = (tmp_path / "train.py").read_text(encoding="utf-8")
        changed = [line for line in new.splitlines() if line not in old.splitlines()]
        assert len(changed) == 1 and compile(new, "train.py", "exec"), number
        prompt += (tmp_path / "idea.txt").read_text(encoding="utf-8")
    assert len({*prompt.splitlines()}) == 6


def test_a_person_is_an_agent_whose_desk_has_prompt_and_answer(tmp_path):
    folder, desk = tmp_path / "worktree", tmp_path / "desk"
    folder.mkdir(), desk.mkdir()
    (folder / "train.py").write_text("DEPTH = 2\n", encoding="utf-8")
    (folder / "contract.md").write_text("# The contract", encoding="utf-8")
    (desk / "idea.txt").write_text("of an earlier call", encoding="utf-8")
    command = [recording.ROOT / "examples/desk.sh", desk]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=folder, text=True) as agent:
        agent.stdin.write("have an idea\n")
        agent.stdin.close()
        while not (desk / "prompt.md").exists():
            time.sleep(0.01)
        assert (desk / "prompt.md").read_text(encoding="utf-8") == "have an idea\n"
        assert (desk / "train.py").read_text(encoding="utf-8") == "DEPTH = 2\n"
        (desk / "train.py").write_text("DEPTH = 3\n", encoding="utf-8")
        (desk / "idea.txt").write_text("depth 3", encoding="utf-8")
        assert agent.wait(10) == 0
    assert (folder / "train.py").read_text(encoding="utf-8") == "DEPTH = 3\n"
    assert (folder / "idea.txt").read_text(encoding="utf-8") == "depth 3"
    assert not (desk / "train.late.py").exists()
    assert {path.name for path in desk.iterdir()} == {"train.py", "contract.md"}
