"""The real coding agents, each for one idea against a mock server of models, on this machine."""

import shutil
import subprocess

import agents
import pytest

from ratchet.referee import sandbox


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With an arena in its folder cache; programs are installed into its folder programs."""
    folder = tmp_path_factory.mktemp("agents")
    agents.prepare_arena(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", agents.SETUPS)
def test_a_real_program_has_an_idea_and_leaves_nothing(folder, name):
    manager = "uv" if name == "aider" else "npm"
    if not shutil.which(manager):
        pytest.skip(f"{manager} is not installed")
    programs = folder / "programs"
    try:
        agents.install(name, programs)
    except subprocess.SubprocessError as error:
        pytest.skip(f"{name} can't be installed here, maybe for want of a network: {error}")
    user = agents.current_user()
    facts = agents.run_one(name, sandbox.best_level(), user, programs, folder / "cache", ideas=1)
    assert facts["works"] and facts["changed"] == [], facts
