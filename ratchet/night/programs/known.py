"""The table of programs that are known as agents: whatever of a user's each of them needs.

Seen of claude-code 2.1, codex-cli 0.169, gemini-cli 0.61, opencode 1.18, aider 0.86. qwen-code and
cursor-agent have not been tried.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple


class Program(NamedTuple):
    """What one program needs. Its paths are relative to the home folder.

    names: of its executable, of its packages
    variables: patterns of environment variables: the keys of its provider, its options
    settings: what it obeys: hooks, servers of tools, instructions, rules
    state: what it writes by itself, and needs from one call to the next
    logins: JSON files with tokens that it must refresh
    roots: {variable that names another folder: the folder of the home that it stands for}
    has_many_providers: which keys it needs is said by its --model, "provider/model"
    command: the whole of what its name alone stands for; "" if it was never tried
    own_sandbox: the same where there is no other sandbox than its own
    install: how to get it
    """

    names: tuple[str, ...]
    variables: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    logins: tuple[str, ...] = ()
    roots: dict[str, str] = {}
    has_many_providers: bool = False
    command: str = ""
    own_sandbox: str = ""
    install: str = ""


def in_folder(folder: str, names: str) -> tuple[str, ...]:
    """Example: (".codex", "rules prompts") -> (".codex/rules", ".codex/prompts")."""
    return tuple(f"{folder}/{name}" for name in names.split())


XDG = {"XDG_CONFIG_HOME": ".config", "XDG_DATA_HOME": ".local/share", "XDG_CACHE_HOME": ".cache"}
SKILLS = (".agents/skills",)
PROGRAMS = (
    Program(
        names=("claude", "claude-code"),
        variables=("ANTHROPIC_*", "CLAUDE_*"),
        settings=in_folder(
            ".claude",
            "CLAUDE.md agents commands hooks keybindings.json output-styles plugins rules "
            "settings.json settings.local.json skills themes workflows",
        ),
        state=(".claude.json", ".claude/.claude.json"),  # the latter with CLAUDE_CONFIG_DIR
        logins=(".claude/.credentials.json",),
        roots={"CLAUDE_CONFIG_DIR": ".claude"},
        command="claude -p --permission-mode acceptEdits --output-format json",
        install="npm install -g @anthropic-ai/claude-code",
    ),
    Program(
        names=("codex",),
        variables=("OPENAI_*", "CODEX_*"),
        settings=in_folder(
            ".codex",
            "AGENTS.md AGENTS.override.md agents config.toml hooks.json plugins prompts rules "
            "skills",
        )
        + SKILLS,
        state=in_folder(".codex", "installation_id models_cache.json version.json"),
        logins=in_folder(".codex", "auth.json .credentials.json"),
        roots={"CODEX_HOME": ".codex"},
        # its sandbox can't nest in ours
        command="codex exec --json --dangerously-bypass-approvals-and-sandbox -",
        own_sandbox="codex exec --json --sandbox workspace-write -",
        install="npm install -g @openai/codex",
    ),
    Program(
        names=("gemini", "gemini-cli"),
        variables=("GEMINI_*", "GOOGLE_*"),
        settings=in_folder(
            ".gemini",
            ".env GEMINI.md agents commands extensions hooks keybindings.json "
            "mcp-server-enablement.json policies policy_integrity.json settings.json skills "
            "trustedFolders.json trusted_hooks.json",
        ),
        state=in_folder(".gemini", "gemini-credentials.json google_accounts.json installation_id"),
        logins=in_folder(".gemini", "oauth_creds.json mcp-oauth-tokens.json"),
        roots={"GEMINI_CLI_HOME": "."},
        command="gemini --skip-trust --approval-mode auto_edit --output-format json",
        install="npm install -g @google/gemini-cli",
    ),
    Program(
        names=("opencode", "opencode-ai"),
        variables=("OPENCODE_*",),
        settings=in_folder(
            ".config/opencode",
            "AGENTS.md agent agents command commands config.json mode modes opencode.json "
            "opencode.jsonc package.json plugin plugins skill skills themes tool tools tui.json",
        )
        + SKILLS,
        state=(".cache/opencode",),
        logins=in_folder(".local/share/opencode", "auth.json mcp-auth.json"),
        roots=XDG,
        has_many_providers=True,
        command="opencode run --format json",
        install="npm install -g opencode-ai",
    ),
    Program(
        names=("aider", "aider-chat"),
        variables=("AIDER_*",),
        settings=(".aider.conf.yml", ".aider.model.settings.yml", ".aider.model.metadata.json"),
        state=in_folder(".aider", "analytics.json caches installs.json oauth-keys.env"),
        has_many_providers=True,
        # it takes each question of its own for asked, so all are off that open a page
        command="aider --message-file {prompt} --yes-always --no-auto-commits --no-dirty-commits "
        "--no-gitignore --no-check-update --no-show-release-notes --no-show-model-warnings "
        "--no-detect-urls --no-suggest-shell-commands --no-analytics --no-pretty "
        "train.py idea.txt",
        install="uv tool install aider-chat",
    ),
    Program(
        names=("qwen", "qwen-code"),
        variables=("QWEN_*", "DASHSCOPE_*", "OPENAI_*"),
        settings=in_folder(".qwen", ".env QWEN.md agents commands extensions settings.json skills"),
        state=(".qwen/installation_id",),
        logins=(".qwen/oauth_creds.json",),
    ),
    Program(
        names=("cursor-agent",),
        variables=("CURSOR_*",),
        settings=in_folder(".cursor", "cli-config.json commands hooks.json mcp.json rules"),
        logins=(".config/cursor/auth.json",),
        roots=XDG,
    ),
)

# Where programs are installed in a home folder; seen, not written.
PROGRAM_FOLDERS = (
    ".asdf",
    ".bun",
    ".cargo/bin",
    ".deno",
    ".local/bin",
    ".local/lib",
    ".local/share/claude",
    ".local/share/mise",
    ".local/share/pipx",
    ".local/share/uv/python",
    ".local/share/uv/tools",
    ".npm-global",
    ".nvm",
    ".pyenv",
    ".volta",
)
# What starts another program, which is named further on in the command.
STARTERS = {*"bunx env nice node npx pipx pnpm python python3 run timeout tool uv uvx x".split()}
# Options of programs that are to be confined by another sandbox.
BYPASSES = {
    "--dangerously-bypass-approvals-and-sandbox",
    "--dangerously-skip-permissions",
    "--yolo",
    "bypassPermissions",
    "danger-full-access",
    "yolo",
}
# Providers whose variables are not called as they are in --model, and models without a provider.
OTHER_VARIABLES = {
    "google": ("GOOGLE_*", "GEMINI_*"),
    "gemini": ("GOOGLE_*", "GEMINI_*"),
    "vertex_ai": ("GOOGLE_*", "VERTEX*"),
    "google-vertex": ("GOOGLE_*", "VERTEX*"),
    "bedrock": ("AWS_*",),
    "amazon-bedrock": ("AWS_*",),
    **dict.fromkeys(("claude", "sonnet", "opus", "haiku"), ("ANTHROPIC_*",)),
    **dict.fromkeys(("gpt", "chatgpt", "o1", "o3", "o4"), ("OPENAI_*",)),
}


def find_program(argv: Sequence[str]) -> Program:
    """What is known of the program that a command starts; Program(names=()) if nothing is.

    Examples: `claude -p`, `/usr/bin/codex exec -`, `npx -y @google/gemini-cli`, `uvx aider-chat`.
    """
    for word in argv:
        name = PurePath(word).name.partition("@")[0]
        for program in PROGRAMS:
            if name in program.names:
                return program
        is_option = word.startswith("-") or "=" in word or re.fullmatch(r"\d+[smhd]?", word)
        if not is_option and name not in STARTERS:
            break
    return Program(names=())


def expand_command(command: str, level: str) -> str:
    """The whole command that a program's name alone stands for; any other command as it is.

    level: of isolation. Example: "gemini" -> "gemini --skip-trust ...", "gemini -m x" as it is.
    """
    for program in PROGRAMS:
        if command.strip() == program.names[0] and program.command:
            return (level == "none" and program.own_sandbox) or program.command
    return command


def describe_bypass(argv: Sequence[str]) -> list[str]:
    """What a user should know of a command at level none: a flag that takes all guards away."""
    return [
        f"{word} lets it do all that you can, unasked: leave it out, or use Linux with bubblewrap"
        for word in argv
        if word.rpartition("=")[2] in BYPASSES
    ]


def variables_for(program: Program, argv: Sequence[str]) -> tuple[str, ...]:
    """Patterns of the environment variables that a program needs, given its command.

    Example: opencode with `--model groq/llama` needs OPENCODE_* and GROQ_*.
    """
    if not program.has_many_providers:
        return program.variables
    command = " ".join(argv)
    return program.variables + tuple(
        pattern
        for model in re.findall(r"(?:^| )(?:--model|-m)[ =](\S+)", command)
        for pattern in variables_of_model(model)
    )


def variables_of_model(model: str) -> tuple[str, ...]:
    """Examples: "openrouter/x/y" -> ("OPENROUTER_*",), "sonnet" -> ("ANTHROPIC_*",)."""
    provider, slash, _ = model.lower().partition("/")
    if not slash:
        provider = re.split(r"[-.:]", provider)[0]
        return OTHER_VARIABLES.get(provider, (f"{provider.upper()}_*",))
    return OTHER_VARIABLES.get(provider, (provider.upper().replace("-", "_") + "_*",))
