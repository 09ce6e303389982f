"""Hooks of the documentation site: pages whose text is in the root of the checkout, and links to such files."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {'CHANGELOG.md': 'changelog.md', 'CONTRIBUTING.md': 'contributing.md', 'SECURITY.md': 'security.md'}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text('utf-8')))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Change links between the root and docs/, which are right on a repository's host, to links of the site."""
    folder = '.' if page.file.src_uri in PAGES.values() else 'docs'

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[1]))
        if path in PAGES:
            return f']({PAGES[path]}{match[2]})'
        return f']({path.removeprefix("docs/")}{match[2]})' if path.startswith('docs/') else match[0]

    return re.sub(r'\]\(([\w./-]+)(#[\w-]*|)\)', link, markdown)
