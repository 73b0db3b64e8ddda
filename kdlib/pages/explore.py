"""Exploring: what marks a page of overrides; the explorer of records, by widgets or parameters."""

from kdlib.pages.shown import Headline
from kdlib.study.studies import told


def banner(chosen):
    """The Headline of a page whose study has overrides; None for a study as it was planned.

    It says that nothing on the page is counted. The report lifts it under the title."""
    if not chosen.overrides:
        return None
    base = chosen.name.removesuffix("-exploratory")
    said = (
        f"Exploratory: {base} with {told(chosen.overrides)}. These runs were not planned in "
        "advance, so this page has no verdict, and none of its numbers is counted anywhere."
    )
    return Headline([said])
