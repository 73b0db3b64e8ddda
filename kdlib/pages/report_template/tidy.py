"""Apart from filters.py, which needs more packages than an audit may ask for."""

import re


def tidy(page):
    """A page with headings in order, named links to its sections, and tables in a scrolling box.

    It has one h1, and no level is skipped."""
    level = 0

    def heading(match):
        nonlocal level
        level = min(max(int(match[1]), 2), level + 1) if level else 1
        return f"<h{level}{match[2]}</h{level}>"

    page = re.sub(r"<h([1-6])\b(.*?)</h\1>", heading, page, flags=re.S)
    page = page.replace(
        '<a class="anchor-link"', '<a class="anchor-link" aria-label="Link to this section"'
    )
    box = '<div class="scroll" tabindex="0" role="group" aria-label="Table">'
    page = re.sub(r"<table\b", box + r"\g<0>", page)
    return said_once(page.replace("</table>", "</table></div>"))


def said_once(page):
    """The page, without sentences in captions that it has elsewhere, but for what they are of."""

    def shorter(match):
        start, sentence = match.groups()
        if page.count(f">{sentence}<") == 1:
            return match[0]
        of, colon, _ = sentence.partition(": ")
        return f"{start}{of}.</strong>" if colon else start.removesuffix("<strong>")

    return re.sub(r"(<figcaption><strong>)(.*?)</strong>", shorter, page)
