"""What the templates do to text: Markdown with formulas as MathML."""

import html
import re

from latex2mathml.converter import convert
from mistune import HTMLRenderer
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

MATHML = (
    "math|m(row|i|o|n|text|space|s|frac|sqrt|root|sub|sup|subsup|under|over|underover|table|tr|td"
    "|style|padded|phantom|enclose|multiscripts)"
)


class MathMLRenderer(IPythonRenderer):
    """Markdown as Jupyter reads it, with formulas as MathML: no script has to draw them later."""

    # to embed pictures, nbconvert parses each tag of inline HTML alone, which closes it at once
    inline_html, block_html = HTMLRenderer.inline_html, HTMLRenderer.block_html

    def block_math(self, body):
        return formula(body, "block")

    def inline_math(self, body):
        return formula(body, "inline")

    def latex_environment(self, name, body):
        return formula(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def markdown(text, escape=False, **options):
    """HTML of Markdown; with `escape`, HTML inside it is text.

    options: of nbconvert's IPythonRenderer."""
    renderer = MathMLRenderer(
        escape=escape, allow_harmful_protocols=False, embed_images=True, **options
    )
    return MarkdownWithMath(renderer).render(text)


def formula(tex, display):
    """MathML of a formula, or its source where the converter cannot read it.

    display: "block" or "inline"."""
    try:
        found = convert(tex.replace("{aligned}", "{align*}"), display=display)
    except Exception:  # a dozen classes without a common base, IndexError among them
        found = ""
    if not found or "<mi>\\" in found:  # an unknown command comes back as a name
        return f'<code class="tex">{html.escape(tex)}</code>'
    # the converter does not escape what stands in \text{...}
    found = re.sub(r"&(?!#?\w+;)", "&amp;", found)
    return re.sub(rf"<(?!/?({MATHML})\b)", "&lt;", found)
