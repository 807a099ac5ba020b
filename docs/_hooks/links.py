"""Site hook: pages and files outside docs/ that the pages link to become part of the site.

On the forge a link in docs/experiments.md to ../benchmarks/results/x.png is right as it is. The site has no folder
above docs/, so the file is added under benchmarks/results/x.png, and the link is written anew. README.md is its first
page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from notebooks import markdown_of  # mkdocs finds what lies beside a hook

ROOT = Path(__file__).resolve().parents[2]

#: Pages of the site that lie beside docs/, by their name in it.
OUTSIDE = {
    "index.md": "README.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "all_experiments.md": "examples/all_experiments.ipynb",
}

#: A Markdown link's target, up to an anchor or a title.
LINK = re.compile(r"(\]\()([^)\s#]+)")


def target_of(link: str, source: str) -> str | None:
    """The file that a relative link in a page of the repository means, as a path from the root; None: no file.

    Args:
        link: as written, without an anchor.
        source: the page's own path from the root.
    """
    if re.match(r"[a-z]+:|/|#", link):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return path if (ROOT / path).is_file() else None


def in_site(path: str) -> str:
    """Where a file of the repository is in the site."""
    pages = {source: name for name, source in OUTSIDE.items()}
    return pages.get(path) or path.removeprefix("docs/")


def source_of(name: str) -> str:
    """Where a page of the site is in the repository."""
    return OUTSIDE.get(name, f"docs/{name}")


def text_of(name: str) -> str:
    """The Markdown of a page of the site."""
    path = ROOT / source_of(name)
    return markdown_of(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and every linked file that docs/ does not hold."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, content=text_of(name)))
    for page in list(files.documentation_pages(inclusion=InclusionLevel.is_included)):
        source = source_of(page.src_uri)
        for _, link in LINK.findall(text_of(page.src_uri)):
            target = target_of(link, source)
            if target and files.get_file_from_path(in_site(target)) is None:
                files.append(File.generated(config, in_site(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the links to files of the repository as links of the site."""
    name = page.file.src_uri
    source, folder = source_of(name), posixpath.dirname(name) or "."

    def rewritten(match: re.Match[str]) -> str:
        target = target_of(match[2], source)
        return match[0] if target is None else match[1] + posixpath.relpath(in_site(target), folder)

    return LINK.sub(rewritten, markdown)
