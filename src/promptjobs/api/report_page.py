"""A report as a page for browsers: our own Markdown and styles, and a policy that lets nothing else run or load."""

import base64
import hashlib
from html import escape

from markdown_it import MarkdownIt

STYLE = """
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: #1c1e21; background: #fff; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #d8dbe0; padding-bottom: .25rem; }
h3 { font-size: 1rem; }
pre { background: #f5f6f8; border: 1px solid #e3e5e9; border-radius: 4px; padding: .75rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, monospace; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #d8dbe0; padding: .25rem .6rem; text-align: left; vertical-align: top; }
th { background: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  body { color: #e4e6ea; background: #16181c; }
  pre, th { background: #1f2228; }
  pre, th, td, h2 { border-color: #363b44; }
}
"""

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# What a report has none of is not even recognised: the escaping of its texts is not all that stands in between.
_MARKDOWN = MarkdownIt("js-default", {"html": False, "linkify": False, "typographer": False}).disable(
    ["link", "image", "autolink", "reference", "html_inline", "html_block", "entity"]
)


def page(markdown: str, title: str) -> str:
    """The whole page. Raw HTML in `markdown` is shown as text."""
    body = _MARKDOWN.render(markdown)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>\n{body}</main></body></html>\n"
    )
