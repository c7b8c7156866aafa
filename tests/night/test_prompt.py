"""What an agent is asked: a person's notes of now, and a digest that is as short as it must be."""

import os
import random

import made_up_night
import pytest
from conftest import ROOT, open_session
from test_experiments import commit, repository, runs  # noqa: F401
from test_night import place, says, whole_night  # noqa: F401
from test_service import StandIn, idea

from ratchet import __main__
from ratchet.experiments import sources
from ratchet.night import digest, prompt
from ratchet.night.journal import Journal
from ratchet.night.proposals import ProposalQueue
from ratchet.night.team.authors import Author


@pytest.fixture
def asked(repository, runs):  # noqa: F811
    """asked() -> the prompt of a campaign that has begun."""
    commit("files that an agent gets", program_md="You are a researcher.\n")
    made_up_night.begin(runs)
    return lambda: prompt.write_prompt(repository, open_session().read_campaign(), [])


def test_notes_stand_after_the_program_as_they_are_now(asked, repository):  # noqa: F811
    assert "Notes of now" not in asked()
    for words in ("no more schedules", "try « smaller » tables"):
        (repository / "notes.md").write_text(f"{words}\n", encoding="utf-8")
        text = asked()
        assert (
            text.index("You are a researcher.")
            < text.index("# Notes of now")
            < text.index(words)
            < text.index("# This call")
        )
    assert "no more schedules" not in asked()
    (repository / "notes.md").write_text(" \n\n", encoding="utf-8")
    assert "Notes of now" not in asked()


def test_an_agent_knows_the_ideas_that_wait_for_their_verdict(place):  # noqa: F811
    agent = StandIn(idea(1.1), idea(1.2))
    Journal(place).append("begins", agent="stand-in", limits={}, baseline=1)
    author = Author("stand-in", agent)
    proposals = ProposalQueue(open_session(), [author], lambda broken: True)
    for _ in range(2):
        assert proposals.ask_agent(author, None)
    first, second = agent.prompts
    assert "wait for their verdict" not in first
    (waiting,) = Journal(place).list_waiting()[:1]
    expected = f'wait for their verdict, so have another one:\n\n- "{waiting["idea"]}"\n'
    assert expected in second


def test_notes_are_bounded_and_say_where_they_are_cut(asked, repository):  # noqa: F811
    (repository / "notes.md").write_text("é" * 8000 + "x" * 4345, encoding="utf-8")
    text = asked()
    assert "é" * 8000 + "\n\n(Cut here: notes.md has 12,345 characters, the first 8,000 are" in text
    assert "éx" not in text


@pytest.mark.parametrize("what", ["a folder", "a pipe", "a broken link", "bytes"])
def test_a_night_goes_on_whatever_notes_are(asked, repository, what):  # noqa: F811
    path = repository / "notes.md"
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a broken link":
        path.symlink_to(repository / "none")
    else:
        path.write_bytes(b"\xff\xfeshorter\n")
    assert ("shorter" in asked()) == (what == "bytes")


def test_notes_disturb_no_experiment_and_steer_a_night_that_runs(place, tmp_path):  # noqa: F811
    """What a person writes during the first call stands in the second one's prompt."""
    assert "/notes.md" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    note = f"open({str(place / 'notes.md')!r}, 'w').write('leave the batch alone')"
    _, prompts = whole_night(
        place,
        tmp_path,
        f"{says(1.1)}; {note}",
        says(0.9),
        options={"share": [place, tmp_path / "state"]},
        experiments=2,
    )
    assert "leave the batch alone" not in prompts[0] and "leave the batch alone" in prompts[1]
    sources.check_clean()


# --------------------------------------------------------------------------------------------------
# The digest


def made_up_sections(chance):
    """As those of a digest, with lines of any length."""
    line = lambda: "- " + "x" * chance.choice([5, 80, 300, 1200])  # noqa: E731
    conditions = ["## Conditions", "- arena", "- a run of the champion"]
    sections = [[f"## {i}", *(line() for _ in range(chance.randrange(1, 40)))] for i in range(6)]
    return [sections[0], conditions, *sections[1:]]


@pytest.mark.parametrize("seed", range(40))
def test_a_page_is_never_longer_than_asked_and_keeps_what_is_worth_most(seed):
    chance = random.Random(seed)
    sections = made_up_sections(chance)
    most = chance.randrange(2000, 30_000)
    page = digest.fit_on_page(sections, most)
    assert len(page) <= most and page == digest.fit_on_page(sections, most)
    titles = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert titles[:2] == ["0", "Conditions"] and "- a run of the champion" in page
    assert titles == [section[0][3:] for section in sections[: len(titles)]]  # the last ones go
    whole = digest.join_sections(sections)
    assert (page == whole) == (len(whole) <= most)
    for title, *lines in (part.splitlines() for part in page.rstrip().split("\n\n")):
        section = next(section for section in sections if section[0] == title)
        shown = [line.rstrip("…") for line in lines]
        assert all(a.startswith(b) for a, b in zip(section[-len(lines) :], shown))  # the oldest go


def test_a_short_digest_has_the_champion_and_the_conditions(repository, runs):  # noqa: F811
    made_up_night.begin(runs)
    for number in range(12):
        words = f"idea {number} about {['heads', 'batch', 'decay'][number % 3]}" + " and so on" * 20
        made_up_night.try_gain(number, [5.0, -3.0, -4.0][number % 3], words)
    made_up_night.end()
    campaign = open_session().read_campaign()
    champion = campaign.kept[-1]
    pages = {n: digest.write_digest(campaign, repository, n) for n in (500, 800, 1500, 6000)}
    assert pages[6000] == digest.write_digest(campaign, repository)
    for most, page in pages.items():
        assert len(page) <= 4 * most and f"- {champion.n} keep +" in page
        assert "## Conditions\n- tiny, budget 5s" in page
    counts = [page.count("\n## ") for page in pages.values()]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert "## Latest experiments" in pages[800]


def test_a_digest_that_is_too_short_is_refused(refusal):
    words = ["night", "--agent", "tuner", "--digest-tokens", "499"]
    said = refusal(__main__.app, words, standalone_mode=False)
    assert "--digest-tokens 499 is too few: champions and conditions need 500" in said
