"""What MkDocs is told beside mkdocs.yml: pages that are made from the repository's other files and from the code.

- README.md, ARCHITECTURE.md and others of the root are pages; links between them and docs/ are made to fit.
- `reference/` has the flags of all commands, all options with their flags and defaults, and Python's docstrings.
- Mermaid, which the theme would fetch from another host, is part of the site.
"""

import inspect
import re
import shutil
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import typer
from griffe import Docstring
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mossvl.cli.flags import Flags, flags_of
from mossvl.cli.main import commands
from mossvl.live.options import LiveOptions
from mossvl.media.limits import MediaLimits, SourcePolicy
from mossvl.options import GenerationOptions, MediaOptions, SamplingParams
from mossvl.options.engine import EngineConfig
from mossvl.processing.system_prompt import SystemPrompt
from mossvl.server.config import ServerConfig
from mossvl.training.options import TrainOptions

ROOT = Path(__file__).parents[1]
PAGES = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
"""Pages that are files of the root."""
OPTIONS = (
    SamplingParams,
    GenerationOptions,
    MediaOptions,
    SystemPrompt,
    MediaLimits,
    SourcePolicy,
    EngineConfig,
    LiveOptions,
    ServerConfig,
    TrainOptions,
)
MERMAID = ROOT / ".venv-docs" / "npm" / "node_modules" / "mermaid" / "dist" / "mermaid.min.js"
SCRIPT = "assets/mermaid.min.js"
FETCHED = {
    "https://unpkg.com/mermaid@11/dist/mermaid.min.js": SCRIPT,
    "https://unpkg.com/resize-observer-polyfill": "",  # Every browser that is in use has a ResizeObserver.
}
"""What the theme would fetch from another host, and what is there instead."""
FOREIGN = re.compile(
    r"""<(?!a\b)[a-z]+\b[^>]*\b(src|srcset|href|poster|data)=["']?(https?:)?//[^>]*>|url\(["']?(https?:)?//|"""
    r"""@import\s+["'](https?:)?//|["']https?://(unpkg|cdn|fonts)[^"']*"""
)
"""What a browser would load from elsewhere; links that are followed are allowed."""


# --- pages of the root -----------------------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/, the notebooks, and the icon of the web page."""
    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "reference/commands.md", content="\n".join(all_commands())))
    files.append(File.generated(config, "reference/options.md", content="\n".join(all_options())))
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        files.append(File.generated(config, f"examples/{notebook.name}", abs_src_path=str(notebook)))
    files.append(File.generated(config, "icon.svg", abs_src_path=str(ROOT / "src/mossvl/server/page/icon.svg")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between the root's files and those of docs/ lead to pages."""
    path = page.file.src_uri
    up = "../" * path.count("/")
    for name, source in PAGES.items():
        link = source if path in PAGES else f"{up}../{source}"
        markdown = re.sub(rf"\]\({re.escape(link)}(#[^)]*)?\)", rf"]({up}{name}\1)", markdown)
    if path in PAGES:
        return markdown.replace("](docs/", "](")
    return markdown.replace(f"]({up}../examples/", f"]({up}examples/")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let pages with diagrams load Mermaid from the site itself."""
    up = "../" * page.url.count("/")
    return html + (f'<script src="{up}{SCRIPT}"></script>' if 'class="mermaid"' in html else "")


def on_post_build(config: MkDocsConfig) -> None:
    """Copy Mermaid, where npm has installed it; without it, diagrams are shown as they are written."""
    site = Path(config.site_dir)
    if MERMAID.exists():
        shutil.copy(MERMAID, site / SCRIPT)
    for bundle in site.glob("assets/javascripts/bundle.*.js"):
        script = bundle.read_text()
        for elsewhere, here in FETCHED.items():
            script = script.replace(elsewhere, here)
        bundle.write_text(script)
    for file in [*site.rglob("*.html"), *site.rglob("*.css"), *site.glob("assets/javascripts/bundle.*.js")]:
        if found := FOREIGN.search(file.read_text()):
            raise PluginError(f"{file.relative_to(site)} loads a resource of another host: {found[0]}")


# --- commands and options --------------------------------------------------------------------------------------------


def table(rows: list[tuple[str, ...]], *heads: str) -> Iterator[str]:
    """A Markdown table, and an empty line after it."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |"
    yield ""


def all_commands() -> Iterator[str]:
    """What `mossvl COMMAND --help` says, of every command."""
    group: Any = typer.main.get_command(commands)
    context = typer.Context(group, info_name="mossvl")
    yield "# Commands and flags\n"
    yield "What `mossvl COMMAND --help` says. [The command line](../command-line.md) has examples.\n"
    for name, command in sorted(group.commands.items()):
        own = typer.Context(command, info_name=name, parent=context)
        yield f"## `mossvl {name}`\n"
        yield f"```text\nmossvl {name} {' '.join(command.collect_usage_pieces(own))}\n```\n"
        yield inspect.cleandoc(command.help).replace("\f", "") + "\n"
        panels: dict[str, list[tuple[str, ...]]] = {}
        for parameter in command.get_params(own):
            if parameter.name != "help" and (record := parameter.get_help_record(own)):
                panel = parameter.rich_help_panel or f"{parameter.param_type_name.capitalize()}s"
                panels.setdefault(panel, []).append((f"`{record[0]}`", record[1]))
        for panel, rows in panels.items():
            yield from table(rows, panel, "meaning")


def all_options() -> Iterator[str]:
    """The options of every dataclass, with defaults, flags, and what their docstrings say."""
    flags = flags_of(*Flags.__subclasses__())
    yield "# Options\n"
    yield "Options from Python, and their flags where a command has them.\n"
    for cls in OPTIONS:
        defaults = {field.name: field for field in fields(cls)}
        parsed = Docstring(inspect.cleandoc(cls.__doc__ or "")).parse("google", warnings=False)
        yield f"## `{cls.__module__}.{cls.__name__}`\n"
        yield f"{parsed[0].value if parsed[0].kind.value == 'text' else ''}\n"
        rows = []
        for section in parsed:
            if section.kind.value in ("attributes", "parameters"):
                for item in section.value:
                    names = item.name.split(", ")
                    told = [flags[f"{cls.__name__}.{name}"] for name in names if f"{cls.__name__}.{name}" in flags]
                    values = ", ".join(default_of(defaults[name]) for name in names if name in defaults)
                    rows.append(
                        (
                            ", ".join(f"`{name}`" for name in names),
                            values,
                            " ".join(f"`{one}`" for one in told),
                            item.description,
                        )
                    )
        yield from table(rows, "option", "default", "flag", "meaning")


def default_of(field: Any) -> str:
    if field.name == "decoders":
        return "half of the cores, 8 at most"
    if field.default_factory is not MISSING:
        return f"`{field.default_factory()!r}`"
    return "" if field.default is MISSING else f"`{field.default!r}`"
